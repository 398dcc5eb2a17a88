"""iSeg and stroke as the data of a phase: volumes, and their slices along any axis."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.phantom.roots import phantom_root
from jaxfuse.data.prepared import PreparedSlice
from jaxfuse.data.settings import Data, Phantom
from jaxfuse.io.analyze import write_analyze
from tests.data import opening
from tests.data.opening import quiet
from tests.refusals import refused

INFANT = Phantom(cases=2, seed=0, shape=(32, 36, 28), spacing_mm=4.6)
STROKE = Phantom(cases=2, seed=0, shape=(36, 40, 16), spacing_mm=4.6)


def settings(folder: Path, source: str, **changes) -> Data:
    stroke = source.startswith("stroke")
    modalities = ("t2", "dwi_b1000", "dwi_b0") if stroke else ("t1", "t2")
    given = {"source": source, "modalities": modalities, "val_fraction": 0.5, "phantom": STROKE if stroke else INFANT}
    return opening.settings(folder, **(given | changes))


def subjects_of(folder: Path, source: str, *, parts=("T1", "T2", "label"), values=(10, 150, 250), **changes) -> Data:
    """Two subjects of 12 x 10 x 8 voxels, brain everywhere but at z = 0; labeled at x 2..5, y 3..8, z 4..6."""
    root = folder / "root"
    root.mkdir()
    for number in (1, 2):
        rng = np.random.default_rng(number)
        for part in parts:
            array = rng.integers(1, 100, (12, 10, 8)).astype(np.int16)
            array[..., 0] = 0
            if part == "label":
                array = np.zeros(array.shape, np.uint8)
                array[2:6, 3:9, 4:7] = rng.choice(values, (4, 6, 3))
            write_analyze(root / f"subject-{number}-{part}.hdr", array, (1.0, 2.0, 3.0))
    return settings(folder, source, root=str(root), **changes)


def test_volumes_of_iseg(tmp_path):
    data = open_dataset(subjects_of(tmp_path, "iseg"), quiet)
    facts = data.facts
    assert {case.id for case in (*data.train, *data.val)} == {"subject-1", "subject-2"}
    assert (facts.scheme, facts.classes) == ("iseg", ("background", "CSF", "GM", "WM"))
    assert (sum(facts.voxels_per_class[1:]), facts.spacing_mm) == (4 * 6 * 3, (1, 2, 3))
    assert data.train[0].image.shape == (12, 10, 7, 2)


# How many slices are labeled along each axis; of validation cases all that show enough brain stay.
@pytest.mark.parametrize(
    ("axis", "letter", "labeled", "sides"),
    [
        ("axial", "z", range(4, 7), (7, 10, 12)),
        ("coronal", "y", range(3, 9), (10, 7, 12)),
        ("sagittal", "x", range(2, 6), (12, 7, 10)),
    ],
)
def test_training_slices_of_iseg_hold_a_labeled_voxel(tmp_path, axis, letter, labeled, sides):
    data = open_dataset(subjects_of(tmp_path, "iseg_slices", axis=axis), quiet)
    (name,) = {case.id.partition("_")[0] for case in data.train}
    assert [case.id for case in data.train] == [f"{name}_{letter}{k:03d}" for k in labeled]
    assert (len(data.val), *data.train[0].image.shape) == (*sides, 2)
    assert all(isinstance(case, PreparedSlice) and case.label.any() for case in data.train)


def test_a_training_case_without_labeled_voxel_has_no_slice(tmp_path):
    message = "has no slice with a labeled voxel; leave the case out of the training split"
    refused(message, open_dataset, subjects_of(tmp_path, "iseg_slices", values=[0]), quiet)


def test_unlabeled_subjects_can_be_cut_where_labels_are_not_needed(tmp_path):
    given = subjects_of(tmp_path, "iseg_slices", parts=("T1", "T2"))
    data = open_dataset(given, quiet, labels_required=False)
    assert (len(data.train), data.facts.voxels_per_class) == (7, ())
    refused("case subject-1 has no label file", open_dataset, given, quiet)


@pytest.mark.parametrize(("source", "cut"), [("iseg", "iseg_slices"), ("stroke", "stroke_slices")])
def test_phantoms_stand_in_for_a_root(tmp_path, source, cut):
    given = settings(tmp_path, source)
    data = open_dataset(given, quiet)
    assert (len(data.train), len(data.val), data.facts.scheme) == (1, 1, source)
    root, volume = phantom_root(given, quiet), data.train[0]
    assert root.name.startswith(f"{source}-")
    assert root == phantom_root(settings(tmp_path, cut), quiet)
    slices = open_dataset(settings(tmp_path, cut), quiet)
    assert 1 < len(slices.train) <= volume.label.any(axis=(0, 1)).sum()
    # Thick slices of 10 mm, and cubic voxels.
    assert data.facts.spacing_mm == pytest.approx((4.6, 4.6, 10.0 if source == "stroke" else 4.6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "brats2018"}, "layout 'brats2018' is not known to data.source 'iseg'; choose one of iseg, nnunet"),
        ({"labels": "stroke"}, "scheme stroke knows 0, 1"),
        ({"modalities": ("t1", "flair")}, "choose from t1, t2"),
    ],
)
def test_other_layouts_and_schemes_are_refused(tmp_path, changes, message):
    refused(message, open_dataset, subjects_of(tmp_path, "iseg", **changes), quiet)
