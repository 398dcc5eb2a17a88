"""Slices of volumes and folders of pairs as the data of a 2D phase."""

import dataclasses
import json

import numpy as np
import pytest

from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.phantom.roots import pair_phantom_root
from jaxfuse.data.pipeline import Loader, PatchSampler, batches
from jaxfuse.data.prepared import PreparedSlice
from jaxfuse.data.sampling import brain, mixed
from jaxfuse.data.settings import Data, Phantom
from jaxfuse.io.png import read_png
from tests.data import opening
from tests.data.opening import quiet
from tests.made_cases import write_case
from tests.refusals import refused

MODALITIES = ("t1", "flair")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Three cases of 12 x 10 x 8 voxels; brain everywhere but in the lowest slice, tumor most at z = 5."""
    root = tmp_path_factory.mktemp("volumes")
    for number in range(3):
        rng = np.random.default_rng(number)
        label = np.zeros((12, 10, 8), np.uint8)
        label[3:6, 3:6, 4:7], label[3:8, 3:6, 5] = 2, 4
        arrays = {m: rng.integers(1, 100, label.shape).astype(np.int16) for m in MODALITIES} | {"seg": label}
        for array in arrays.values():
            array[..., 0] = 0
        write_case(root / "cases", f"case_{number}", arrays)
    return root


def settings(folder, source: str, **changes) -> Data:
    phantom = Phantom(cases=2, seed=0, shape=(56, 64, 1), spacing_mm=3.6)
    given = {"source": source, "root": str(folder / "cases"), "normalize": "percentiles", "phantom": phantom}
    return opening.settings(folder, **(given | changes))


def pairs(folder, **changes) -> Data:
    return settings(folder, "pairs2d", **({"root": "", "normalize": "levels", "modalities": ("mri", "pet")} | changes))


def test_slices_are_split_by_case(volumes):
    data = open_dataset(settings(volumes, "slices"), quiet)
    sides = [{case.id for case in side} for side in (data.train, data.val)]
    cases = [{name.rpartition("_")[0] for name in side} for side in sides]
    assert sorted(cases[0] | cases[1]) == ["case_0", "case_1", "case_2"]
    (alone,) = cases[1]
    assert (len(cases[0]), sides[1]) == (2, {f"{alone}_z{z:03d}" for z in range(1, 8)})
    assert all(isinstance(case, PreparedSlice) for case in data.train)
    # Per case: 3 x 3 pixels of edema at z = 4 and 6, 5 x 3 of enhancing tumor at z = 5.
    assert data.facts.voxels_per_class == (2 * (7 * 120 - 33), 0, 2 * 18, 2 * 15)
    assert data.facts.spacing_mm == (1, 1)
    assert data.scheme is not None
    sampler = PatchSampler(data.train, (8, 8), mixed, 0.0, unpaired=False)
    (batch,) = batches(sampler, batch=6, seed=0, start=0, stop=1, loader=Loader())
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()}
    assert found == {"image": ((6, 8, 8, 2), np.float32), "label": ((6, 8, 8), np.uint8)}
    assert (batch["image"].min(), batch["image"].max()) == (np.float32(1 / 255), 1)


def test_one_slice_of_each_case_and_a_split_file_that_names_cases(volumes, tmp_path):
    data = open_dataset(settings(volumes, "one_slice"), quiet)
    assert sorted(case.id for case in (*data.train, *data.val)) == [f"case_{i}_z005" for i in range(3)]
    # The scaling of intensities counts in the fingerprint.
    scaled = open_dataset(settings(volumes, "one_slice", normalize="brain"), quiet)
    assert scaled.document()["fingerprint"] != data.document()["fingerprint"]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["case_2"], "val": ["case_0"]}))
    data = open_dataset(settings(volumes, "one_slice", split=str(split)), quiet)
    assert (data.facts.train, data.facts.val) == (("case_2_z005",), ("case_0_z005",))


def test_phantom_pairs_are_cases_of_two_modalities(tmp_path):
    given, told = pairs(tmp_path), []
    data = open_dataset(given, lambda *report: told.append(report), labels_required=False)
    written = [("writing phantoms", i, 2) for i in (1, 2)]
    assert told == [*written, *(("preparing cases", i, 2, i) for i in (1, 2))]
    assert (len(data.train), len(data.val), data.scheme) == (1, 1, None)
    assert (data.facts.modalities, data.facts.classes) == (("mri", "pet"), ())
    case, folder = data.train[0], pair_phantom_root(given, quiet)
    written = read_png(folder / "MRI_PET" / "MRI" / f"{case.id}.png")
    assert written.shape == (64, 56)
    np.testing.assert_array_equal(np.rint(case.image[..., 0] * 255), written)
    sampler = PatchSampler(data.train, (32, 48), brain, 0.0, unpaired=False, labels=False)
    (batch,) = batches(sampler, batch=2, seed=0, start=0, stop=1, loader=Loader())
    assert {name: leaf.shape for name, leaf in batch.items()} == {"image": (2, 32, 48, 2)}
    again = open_dataset(dataclasses.replace(given, root=str(folder)), quiet, labels_required=False)
    assert again.document() == data.document()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize": "brain"}, "data.normalize is 'brain'; with data.source 'pairs2d' it can only be 'levels'"),
        ({"labels": "brats"}, "data.labels is 'brats'; with data.source 'pairs2d' it can only be ''"),
        ({"layout": "generic"}, "data.layout is 'generic'"),
        (
            {"modalities": ("t1", "flair")},
            "made pairs of mri and one of ct, pet, spect alone, not of t1 and flair",
        ),
        ({"root": "nowhere"}, "nowhere holds no folders MRI and PET, nor MRI_PET or PET-MRI"),
        (
            {"phantom": Phantom(cases=1, seed=0, shape=(64, 64, 48), spacing_mm=3.6)},
            r"data.phantom.shape is \(64, 64, 48\); pairs are single slices",
        ),
    ],
)
def test_refusals_of_pairs(tmp_path, changes, message):
    refused(message, open_dataset, pairs(tmp_path, **changes), quiet, labels_required=False)


def test_pairs_have_no_labels_and_levels_are_for_images_alone(volumes, tmp_path):
    refused("whose images have no labels, and a phase needs labels", open_dataset, pairs(tmp_path), quiet)
    message = "normalize is 'levels'; choose brain or volume, or percentiles"
    refused(message, open_dataset, settings(volumes, "slices", normalize="levels"), quiet)
