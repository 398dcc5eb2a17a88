"""The cache of prepared cases, and the facts of a split of them."""

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cache import prepare, read_prepared
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.dataset import dataset_facts
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.labels import label_scheme
from tests.data.tiny_case import SCHEME, SHAPE, case_in_memory, files_on_disk
from tests.made_cases import save_volume
from tests.refusals import refused


def run(folder: Path, *files: CaseFiles, modalities=("t1", "flair"), scheme=SCHEME, **options):
    fresh: list[bool] = []
    options |= {"cache": folder / "cache", "on_case": lambda _, new: fresh.append(new)}
    return prepare(files, modalities, scheme, **options), fresh


def test_cached_arrays_are_those_in_memory_and_small_when_pickled(tmp_path):
    ((case,), _) = run(tmp_path, files_on_disk(tmp_path))
    expected = prepare_case(case_in_memory(), group="HGG", classes=4)
    assert case.facts == expected.facts
    for name in ("image", "label", "tumor", "brain"):
        stored, wanted = getattr(case, name), getattr(expected, name)
        assert isinstance(stored.base, np.memmap)
        assert stored.dtype == wanted.dtype
        np.testing.assert_array_equal(stored, wanted)
    assert read_prepared(case.folder) == case
    ((bare,), _) = run(tmp_path, replace(files_on_disk(tmp_path), label=None))
    assert (bare.labeled, bare.label, bare.tumor.size) == (False, None, 0)
    # The arrays that were read are left out of the pickle, and read again after it.
    pickled = pickle.dumps(case)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).image, case.image)


def test_second_run_makes_nothing_and_reads_no_image(tmp_path, monkeypatch):
    files = files_on_disk(tmp_path)
    first, fresh = run(tmp_path, files)
    assert fresh == [True]
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("an unchanged file was read again"))
    assert run(tmp_path, files) == (first, [False])


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize": NORMALIZATIONS["volume"]},
        {"modalities": ("flair", "t1")},
        {"scheme": label_scheme("brats2024")},
        {"scheme": None},
    ],
)
def test_other_settings_make_another_entry(tmp_path, changes):
    files = files_on_disk(tmp_path)
    ((first,), _) = run(tmp_path, files)
    ((second,), fresh) = run(tmp_path, files, **changes)
    assert fresh == [True]
    assert second.key != first.key


@pytest.mark.parametrize("changed", ["t1", "seg"])
def test_changed_content_makes_another_entry_and_a_copy_elsewhere_does_not(tmp_path, changed):
    ((first,), _) = run(tmp_path, files_on_disk(tmp_path / "a"))
    copied = files_on_disk(tmp_path / "b")
    assert run(tmp_path, copied)[1] == [False]
    path = tmp_path / "b" / f"c_{changed}.nii.gz"
    array = np.asarray(nib.load(path).dataobj).copy()
    array[3, 3, 3] = 2
    save_volume(path, array, spacing_mm=(1, 1, 2))
    os.utime(path, ns=(1, 1))  # a clock too coarse to tell two writes apart must not decide this test
    ((second,), fresh) = run(tmp_path, copied)
    assert fresh == [True]
    assert second.key != first.key


def test_a_failed_case_leaves_the_finished_ones_and_nothing_half_made(tmp_path):
    good, bad = files_on_disk(tmp_path, "a"), files_on_disk(tmp_path, "b")
    save_volume(bad.images["t1"].path, np.zeros(SHAPE, np.int16), spacing_mm=(1, 1, 2))
    refused("case b: modality t1 is 0 everywhere", run, tmp_path, good, bad)
    left = sorted(p.name.split("-")[0] for p in (tmp_path / "cache").iterdir())
    assert left == ["a", "digests.json"]
    assert run(tmp_path, good)[1] == [False]


def test_what_a_killed_process_had_begun_goes_after_a_day(tmp_path):
    cache, day = tmp_path / "cache", 86_400
    _, _ = run(tmp_path, files_on_disk(tmp_path))
    kept = {path.name for path in cache.iterdir()}
    names = {f".case-{'0a' * 10}.17.0123abcd": True, f".case-{'0b' * 10}.damaged-17": True}
    names |= {".digests.json.17.0123abcd": True, f".case-{'0c' * 10}.17.0123abcd": False, ".snapshot": False}
    for name in names:
        if name.startswith(".digests"):
            (cache / name).write_bytes(b"half")
        else:
            (cache / name).mkdir()
            (cache / name / "image.npy").write_bytes(b"half")
    now = time.time()
    for name, old in names.items():
        os.utime(cache / name, (now - day - 60,) * 2 if old or name == ".snapshot" else None)
    _, fresh = run(tmp_path, files_on_disk(tmp_path))
    assert fresh == [False]
    assert {path.name for path in cache.iterdir()} == kept | {name for name, old in names.items() if not old}


def test_two_processes_share_a_cache(tmp_path):
    names = [f"c{i}" for i in range(6)]
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps([files_on_disk(tmp_path, n, i) for i, n in enumerate(names)]))
    code = f"""
import pickle, sys
from pathlib import Path
from jaxfuse.data.cache import prepare
from jaxfuse.labels import label_scheme
d = Path({str(tmp_path)!r})
files = pickle.loads((d / "cases.pickle").read_bytes())
for c in prepare(files, ("t1", "flair"), label_scheme("brats"), cache=d / "cache"):
    c.image.sum()
assert "jax" not in sys.modules
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(p.communicate()[1], p.returncode) for p in both] == [(b"", 0), (b"", 0)]
    assert len(list((tmp_path / "cache").iterdir())) == len(names) + 1


def test_losing_the_race_keeps_the_winners_entry(tmp_path, monkeypatch):
    files = files_on_disk(tmp_path)
    rename = os.rename

    def win_first(source, target):
        rename(source, target)
        Path(source).mkdir()  # the loser's folder, which now finds the target taken
        (Path(source) / "image.npy").touch()
        rename(source, target)

    monkeypatch.setattr("os.rename", win_first)
    ((case,), _) = run(tmp_path, files)
    assert case.image.shape == (4, 2, 8, 2)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted([case.folder.name, "digests.json"])


def test_missing_modality_is_refused(tmp_path):
    files = files_on_disk(tmp_path)
    refused("case c has no t2 image", run, tmp_path, files, modalities=("t1", "t2"))


def test_dataset_facts_count_the_training_cases_only_and_survive_json(tmp_path):
    cases, _ = run(tmp_path, *(files_on_disk(tmp_path, name, seed) for seed, name in enumerate("abc")))
    split = {"train": ("b", "c"), "val": ("a",)}
    facts = dataset_facts(cases, ("t1", "flair"), SCHEME, split)
    assert (facts.voxels_per_class, facts.spacing_mm) == ((120, 2, 4, 2), (1, 1, 2))
    assert {"train": facts.train, "val": facts.val} == split
    assert (facts.classes, facts.keys) == (SCHEME.classes, {c.id: c.key for c in cases})
    assert DatasetFacts.from_json(facts.to_json()) == facts
    assert json.loads(facts.to_json())["scheme"] == "brats"
    message = "training case b has not been prepared"
    refused(message, dataset_facts, cases[:1], ("t1", "flair"), SCHEME, {"train": ("a", "b"), "val": ("a",)})
