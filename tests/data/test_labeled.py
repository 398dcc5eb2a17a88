"""Cases with and without a label: who trains, who validates, whose label is held back, and what is refused."""

import numpy as np
import pytest

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.labeled import held_back
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.sampling import Draw, brain
from jaxfuse.data.settings import read_data
from jaxfuse.labels import IGNORED
from jaxfuse.recipes import brats_data, volume_data
from tests.data.opening import quiet, settings
from tests.made_cases import head, nested_cubes, write_case
from tests.refusals import refused

SHAPE = (16, 16, 12)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Nine cases, of which the first five have a label."""
    folder = tmp_path_factory.mktemp("some")
    for number in range(9):
        write_case(folder, f"c{number}", {**head(SHAPE, number), "seg": nested_cubes(SHAPE) if number < 5 else None})
    return folder


def opened(root, folder, *, labels_required=True, **changes):
    given = settings(folder, root=str(root), **{"val_fraction": 0.4} | changes)
    return open_dataset(given, quiet, labels_required=labels_required)


def test_cases_without_a_label_train_and_never_validate(root, tmp_path):
    found = opened(root, tmp_path, unlabeled="keep")
    assert set(found.facts.val) < {"c0", "c1", "c2", "c3", "c4"}
    assert {"c5", "c6", "c7", "c8"} < set(found.facts.train)
    assert set(found.facts.train) | set(found.facts.val) == {f"c{number}" for number in range(9)}
    assert found.labeled is not None
    assert [case.labeled for case in found.labeled.train] == [True] * 3
    assert found.labeled.val == found.val
    assert found.labeled.facts.subjects["train"] == 3
    assert found.labeled.facts.voxels_per_class == found.facts.voxels_per_class
    assert found.labeled.document()["fingerprint"] != found.document()["fingerprint"]


def test_they_are_refused_unless_they_are_kept(root, tmp_path):
    refused("case c5 has no label file", opened, root, tmp_path)


def test_labels_of_all_but_few_subjects_are_held_back(root, tmp_path):
    plain = opened(root, tmp_path, unlabeled="keep")
    few = opened(root, tmp_path, labeled=2)
    assert (few.facts.train, few.facts.val) == (plain.facts.train, plain.facts.val)
    assert few.labeled is not None
    assert len(few.labeled.train) == 2
    hidden = [case for case in few.train if not case.labeled]
    assert len(hidden) == len(few.train) - 2
    assert all(case.label is None and len(case.tumor) == 0 for case in hidden)
    one = opened(root, tmp_path, labeled=1)
    assert one.labeled is not None
    assert set(one.labeled.facts.train) < set(few.labeled.facts.train), "fewer are among more"
    # A phase of images alone sees the same cases, without looking at labels either.
    assert opened(root, tmp_path, labels_required=False, labeled=2).facts.train == few.facts.train
    refused("data.labeled is 4, and 3 training subjects have a label", opened, root, tmp_path, labeled=4)


def test_draws_differ_and_follow_names_alone(root):
    files = [CaseFiles(f"n{number}", {}, label=root) for number in range(8)]
    ids = [one.id for one in files]

    def known(files, draw):
        made = held_back(files, ids, lambda case: case, labeled=3, draw=draw, seed=0)
        return {one.id for one in made if one.label is not None}

    assert len({frozenset(known(files, draw)) for draw in range(6)}) > 3
    assert known(files, 2) == known(files[::-1], 2)
    # Cases that do not train keep their labels.
    kept = held_back(files, ids[:4], lambda case: case, labeled=1, draw=0, seed=0)
    assert sum(one.label is not None for one in kept) == 1 + 4


def test_no_voxel_of_a_case_without_a_label_counts(root, tmp_path):
    train = opened(root, tmp_path, unlabeled="keep").train
    bare = next(place for place, case in enumerate(train) if not case.labeled)
    having = next(place for place, case in enumerate(train) if case.labeled)
    options = {"flip": 0.0, "unpaired": False}
    sampler = PatchSampler(train, (12, 12, 12), brain, **options, unlabeled=True)
    draws = [Draw(bare, (-3, 0, 0)), Draw(having, (-3, 0, 0))]  # both reach beyond their case
    label = sampler.batch(draws)["label"]
    assert (label[0] == IGNORED).all()
    assert (label[1] != IGNORED).all()
    assert len(np.unique(label[1])) > 1
    strict = PatchSampler(train, (12, 12, 12), brain, **options)
    refused("has no label, and the phase learns from labels", strict.batch, draws)


def test_a_folder_without_any_label_and_a_bare_validation_case_are_refused(root, tmp_path):
    (tmp_path / "split.json").write_text('{"train": ["c0", "c6"], "val": ["c5"]}')
    split = str(tmp_path / "split.json")
    refused("case c5 has no label, and it is to validate", opened, root, tmp_path, unlabeled="keep", split=split)
    (tmp_path / "other.json").write_text('{"train": ["c6", "c7"], "val": ["c0"]}')
    other = str(tmp_path / "other.json")
    sentence = "none of the 2 training cases has a label, and a phase learns from labels"
    refused(sentence, opened, root, tmp_path, unlabeled="keep", split=other)


@pytest.mark.parametrize(
    ("source", "changes", "sentence"),
    [
        ("brats", {"unlabeled": "drop"}, "data.unlabeled is 'drop'; choose refuse or keep"),
        ("brats", {"labeled_draw": 1}, "data.labeled_draw is 1, and data.labeled 0, so that nothing is drawn"),
        ("voc", {"labeled": 2}, "data.labeled is given and data.source is 'voc'; only volumes and their slices"),
        ("pairs2d", {"unlabeled": "keep"}, "data.unlabeled is given and data.source is 'pairs2d'"),
    ],
)
def test_options_that_make_no_sense_are_refused(source, changes, sentence):
    sizes = {"modalities": ("t1", "flair"), "shape": (32, 32, 24), "cases": 2, "spacing_mm": 6.0}
    options = brats_data(**sizes) if source == "brats" else volume_data(source=source, **sizes)
    options.update(changes)
    refused(sentence, read_data, "data", options)
