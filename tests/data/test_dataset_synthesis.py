"""Data of synthesis: slices of a window with blank ones, unlabeled volumes, matched intensities and stored ranges."""

import dataclasses
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import fuse4seg
from jaxfuse.config import parse
from jaxfuse.data.cases import load_case
from jaxfuse.data.dataset import open_dataset, read_facts, recipe_of
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.intensities import LANDMARKS, MATCHED, restore
from jaxfuse.data.pipeline import Loader, PatchSampler, batches
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.sampling import SAMPLINGS, check_sampling, tiles
from jaxfuse.data.settings import Data
from jaxfuse.data.slices import AXES, pictures
from jaxfuse.data.sources.volumes import VOLUMES
from jaxfuse.engine.run_folder.metric_writer import read_metrics
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.engine.trained.phases import preparation_of
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.recipes import volume_data
from tests.data import opening
from tests.data.opening import quiet
from tests.made_cases import write_case
from tests.refusals import refused
from tests.runs import run_of

MODALITIES = ("t1", "flair")
SHAPE = (14, 12, 10)
WINDOW = ((1, 13), (2, 12))
# The greatest value of each case, by modality.
TOP = {"case_0": (100, 900), "case_1": (200, 1300), "case_2": (400, 1000)}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Three unlabeled cases; brain at x 2..11, y 3..10, z 2..7, from 1 to a greatest value of their own."""
    root = tmp_path_factory.mktemp("unlabeled")
    for seed, (name, tops) in enumerate(TOP.items()):
        arrays = {}
        for modality, top in zip(MODALITIES, tops, strict=True):
            inner = np.random.default_rng(seed).integers(1, top, (10, 8, 6)).astype(np.int16)
            inner[3, 2, 3] = top
            arrays[modality] = np.pad(inner, ((2, 2), (3, 1), (2, 2)))
        write_case(root / "cases", name, arrays)
    (root / "split.json").write_text(json.dumps({"train": ["case_0", "case_1"], "val": ["case_2"]}))
    return root


def settings(folder: Path, **changes) -> Data:
    given = {"source": "slices", "root": str(folder / "cases"), "normalize": "minmax", "window": WINDOW}
    return opening.settings(folder, **{**given, "split": str(folder / "split.json"), "blank_slices": True, **changes})


PLAIN = {"window": (), "blank_slices": False}


def opened(folder: Path, **changes):
    return open_dataset(settings(folder, **changes), quiet, labels_required=False)


# The window of each axis and the pictures' sides: rows run along the second axis that is left, downwards.
@pytest.mark.parametrize(
    ("axis", "letter", "window", "sides"),
    [
        ("axial", "z", ((1, 13), (2, 12)), (10, 12)),
        ("coronal", "y", ((1, 13), (0, 9)), (9, 12)),
        ("sagittal", "x", ((2, 12), (0, 9)), (9, 10)),
    ],
)
def test_all_slices_of_unlabeled_volumes_give_batches_along_every_axis(volumes, axis, letter, window, sides):
    data = opened(volumes, axis=axis, window=window)
    count = SHAPE[AXES[axis]]
    assert [one.id for one in data.val] == [f"case_2_{letter}{k:03d}" for k in range(count)]
    assert {one.image.shape for one in data.train} == {(*sides, 2)}
    assert (len(data.train), data.facts.voxels_per_class, data.facts.scheme) == (2 * count, (), "brats")
    check_sampling(data.train, (8, 8), SAMPLINGS["tiles"], pad=False)
    sampler = PatchSampler(data.train, (8, 8), tiles, 0.0, unpaired=False, labels=False)
    (batch,) = batches(sampler, batch=len(data.train), seed=0, start=0, stop=1, loader=Loader())
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()}
    assert found == {"image": ((2 * count, 8, 8, 2), np.float32)}
    # One pass over all slices, blank ones too.
    blank = [one for one in data.train if not len(one.brain)]
    assert 0 < len(blank) == sum(not example.any() for example in batch["image"])
    assert (batch["image"].min(), batch["image"].max()) >= (0, 0.9)


def test_pictures_go_back_onto_the_file_in_its_units(volumes):
    data = opened(volumes)
    stored = nib.load(volumes / "cases" / "case_2" / "case_2_flair.nii.gz").get_fdata()
    for place, one in enumerate(data.val):
        back = uncrop(restore(np.asarray(one.image[..., 1]), one.facts, "flair"), one, 0)
        np.testing.assert_array_equal(np.rint(back), pictures(stored, AXES["axial"])[place])


@pytest.mark.slow  # 10 s, most of it compiling
def test_a_phase_without_labels_trains_on_slices_of_unlabeled_volumes(volumes, tmp_path):
    config = fuse4seg.get_config("tiny,row=wo_adv_pretrain")
    config.schedule = config.result = ("pretraining",)
    config.log_every = 1
    config.data = volume_data(source="slices", modalities=MODALITIES, shape=(32,) * 3, cases=2, spacing_mm=5.75)
    config.data.update(root=str(volumes / "cases"), cache=str(tmp_path), normalize="minmax", val_fraction=0.34)
    config.pairs = config.network.combos = ("t1+flair",)
    config.pretraining.update(steps=2, sampling="brain", pad=True)
    assert run_of(config, tmp_path / "run").execute()
    assert [row["step"] for row in read_metrics(tmp_path / "run") if row["split"] == "train"] == [1, 2]


def test_ranges_are_medians_over_training_volumes_and_stay_with_the_run(volumes, tmp_path):
    data = opened(volumes)
    assert data.facts.ranges == {"t1": (0, 150), "flair": (0, 1100)}
    # As many slices of one volume as may be, it counts once.
    assert opened(volumes, source="brats", **PLAIN).facts.ranges == data.facts.ranges
    document = data.document()
    write_json(tmp_path / "dataset.json", document)
    assert read_facts(tmp_path) == data.facts
    assert (opened(volumes, normalize="brain").facts.ranges, data.facts.landmarks) == ({}, {})
    scaled = opened(volumes, normalize="percentiles").facts.ranges["t1"]
    assert 0 < scaled[0] < scaled[1] <= 150
    # Runs without ranges are read too.
    write_json(tmp_path / "dataset.json", {k: v for k, v in document.items() if k not in ("ranges", "landmarks")})
    facts = read_facts(tmp_path)
    assert (facts.ranges, facts.landmarks, facts.train) == ({}, {}, tuple(document["train"]))
    assert DatasetFacts.from_json(facts.to_json()) == facts


def test_every_option_counts_in_the_fingerprint(volumes):
    matched = {"normalize": "histmatch"}
    referred = {**matched, "reference": str(volumes / "cases" / "case_0")}
    options = ({}, {"window": ()}, {"blank_slices": False}, {"normalize": "percentiles"}, matched, referred)
    assert len({opened(volumes, **changes).document()["fingerprint"] for changes in options}) == len(options)


def test_brains_are_matched_to_the_known_landmarks_or_to_a_reference(volumes):
    given = {"normalize": "histmatch", "source": "brats", **PLAIN}
    known, learned = opened(volumes, **given), opened(volumes, **given, reference=str(volumes / "cases" / "case_1"))
    assert known.facts.landmarks == {m: LANDMARKS[m] for m in MODALITIES}
    assert learned.facts.landmarks["t1"][-1] == 1
    for data in (known, learned):
        for case, (channel, modality) in itertools.product((*data.train, *data.val), enumerate(MODALITIES)):
            stored, levels = zip(*case.facts.scaling[channel], strict=True)
            array = nib.load(volumes / "cases" / case.id / f"{case.id}_{modality}.nii.gz").get_fdata()
            found = np.interp(np.percentile(array[array != 0], MATCHED), stored, levels)
            np.testing.assert_allclose(found, data.facts.landmarks[modality], atol=1e-4)
    assert {c.key for c in known.train}.isdisjoint({c.key for c in learned.train})


def test_references_and_modalities_that_cannot_be_matched_are_refused(volumes, tmp_path):
    message = "data.reference .* holds 3 cases; name the folder of the one to match"
    refused(message, opened, volumes, normalize="histmatch", reference=str(volumes / "cases"))
    refused("nowhere is not a folder", opened, volumes, normalize="histmatch", reference="nowhere")
    changes = {"source": "isles", "root": "", "split": "", "val_fraction": 0.5, **PLAIN}
    given = settings(tmp_path, modalities=("t1", "dwi"), normalize="histmatch", **changes)
    refused("no landmarks for dwi", open_dataset, given, quiet)
    (made,) = (tmp_path / "cache" / "phantoms").iterdir()
    data = open_dataset(dataclasses.replace(given, reference=str(made / "training" / "2")), quiet)
    assert set(data.facts.landmarks) == {"t1", "dwi"}
    assert (data.facts.scheme, {*data.facts.train, *data.facts.val}) == ("stroke", {"training_1", "training_2"})


def test_a_case_to_predict_is_prepared_as_in_training(volumes):
    (files, *_) = VOLUMES["brats"].find(volumes / "cases" / "case_2", MODALITIES, labels_required=False)
    case, facts = load_case(files, MODALITIES, None), opened(volumes).facts
    for changes in ({}, {"normalize": "histmatch", "reference": str(volumes / "cases" / "case_0")}):
        data = opened(volumes, **changes)
        prepared = preparation_of(settings(volumes, **changes), data.facts, MODALITIES).prepare(case)
        assert prepared.facts.crop_start == (1, 2, 0)
        for one, picture in zip(data.val, pictures(prepared.image, AXES["axial"]), strict=True):
            np.testing.assert_array_equal(picture, one.image)
    matched = preparation_of(settings(volumes, normalize="histmatch"), facts, MODALITIES)
    refused(r"dataset\.json has no landmarks", matched.prepare, case)
    whole = preparation_of(settings(volumes, source="brats", **PLAIN), facts, MODALITIES).prepare(case)
    assert whole.facts.shape == (10, 8, 6)


def test_the_recipe_of_a_run_is_that_of_its_stacks(volumes):
    plain, facts = settings(volumes, normalize="percentiles", **PLAIN), opened(volumes).facts
    expected = {"modalities": MODALITIES, "scheme": None, "normalize": "percentiles"}
    assert recipe_of(plain, None, facts) == expected | {"stack": 2}
    assert "stack" not in recipe_of(dataclasses.replace(plain, source="brats"), None, facts)
    windowed = recipe_of(settings(volumes), None, facts)
    assert (windowed["window"], windowed["blank"]) == (WINDOW, True)


def config_with(**changes) -> ConfigDict:
    config = fuse4seg.get_config("tiny")
    sizes = {"modalities": MODALITIES, "shape": (32, 32, 32), "cases": 2, "spacing_mm": 5.75}
    config.data = volume_data(source="slices", normalize="minmax", window=WINDOW, blank_slices=True, **sizes)
    for name in config.schedule:
        config[name].sampling = "tiles"
    config.data.update(changes)
    return config


def test_a_config_carries_the_options_there_and_back(tmp_path):
    config = config_with()
    data = parse(config).data
    assert (data.window, data.blank_slices, data.reference) == (WINDOW, True, "")
    write_json(tmp_path / "config.json", json.loads(config.to_json_best_effort()))
    assert parse(read_config(tmp_path)).data == data
    for later in ("window", "blank_slices", "reference", "axis"):
        del config.data[later]
    old = parse(config).data
    assert (old.window, old.blank_slices, old.reference) == ((), False, "")
    assert read_json(tmp_path / "config.json")["data"]["window"] == [[1, 13], [2, 12]]


def test_options_that_do_not_go_together_are_refused():
    message = "data.reference is 'somewhere' and data.normalize 'minmax'; only histmatch looks"
    refused(message, parse, config_with(reference="somewhere"))
    config = config_with()
    config[config.schedule[0]].sampling = "brain"
    refused("sampling is 'brain', which blank slices cannot serve, and data.blank_slices", parse, config)
