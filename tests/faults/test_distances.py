"""Distances and volumes are measured as if every grid were a box of right angles and many slices.

Each truth is counted here from world coordinates, pair by pair.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from jaxfuse import evaluate
from jaxfuse.data.slices import prepare_slices
from jaxfuse.data.subjects import subjects_of
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.labels import label_scheme
from jaxfuse.metrics.distances import voxel_size
from jaxfuse.metrics.regions import score_case
from tests.commands import call_here
from tests.faults.catalogue import given, table
from tests.made_cases import case_files, ellipsoid, placed, prepared_cases, save_volume

SHAPE = (14, 12, 10)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
SHEAR = np.array([[1, 0.4, 0.2], [0, 1, -0.3], [0, 0, 1]])


def masks(shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth, both ellipsoids, one moved by two voxels."""
    truth = ellipsoid(shape, np.array(shape) / 3).astype(np.uint8)
    return np.roll(ellipsoid(shape, np.array(shape) / 4).astype(np.uint8), 2, axis=1), truth


def image() -> np.ndarray:
    """A head of many levels."""
    inside = ellipsoid(SHAPE, np.array(SHAPE) / 2)
    return np.where(inside, 100 + np.arange(SHAPE[0])[:, None, None], 0).astype(np.int16)


def counted(pred: np.ndarray, truth: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    """HD95 in mm of the surfaces and volume of the truth in mm3, by world coordinates alone."""
    flat = [axis for axis, side in enumerate(pred.shape) if side == 1]
    points = []
    for mask in (pred, truth):
        kept = mask.astype(bool).squeeze(tuple(flat))
        surface = (kept & ~binary_erosion(kept)).reshape(mask.shape)
        points.append(np.argwhere(surface) @ affine[:3, :3].T)
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    both = np.concatenate([pairs.min(axis=1), pairs.min(axis=0)])
    edges = affine[:3, :3]
    box = abs(np.dot(np.cross(edges[:, 0], edges[:, 1]), edges[:, 2]))
    return {"hd95_mm": float(np.percentile(both, 95)), "truth_mm3": float(truth.sum() * box)}


def scored(folder: Path, pred: np.ndarray, truth: np.ndarray, affine: np.ndarray, axes: str = "RAS") -> dict:
    """The row of a lesion that `evaluate` gives for two files."""
    for name, array in (("pred", pred), ("ref", truth)):
        save_volume(folder / name / "a.nii.gz", array, affine=affine, axes=axes, sform_code=1, qform_code=0)
    out = folder / "out"
    folders = {"pred": folder / "pred", "ref": folder / "ref", "out": out}
    call_here(evaluate, **folders, protocol="brats", labels="lesion", one_empty="nan", pictures=0)
    assert read_json(out / "summary.json")["cases"] == 1
    (row,) = read_rows(out / "cases.csv")
    return row


@table(
    "axes, affine",
    (
        "a sheared sform, axes at 68 to 80 degrees",
        "HD95 and mm3 of the world",
        "RAS",
        placed((1, 1.5, 2), rotation=SHEAR),
    ),
    ("a sheared sform stored as PIR", "the same", "PIR", placed((1, 1.5, 2), rotation=SHEAR)),
    ("a shear of 1 percent", "the same", "LPS", placed((1, 1, 5), rotation=[[1, 0.01, 0], [0, 1, 0], [0, 0, 1]])),
    ("an oblique grid of right angles", "HD95 and mm3 by its sides", "SAL", placed((1, 1.5, 2), rotation=TURN)),
    ("an sform that mirrors one axis", "volumes are positive", "LAS", placed((1, 1, 3))),
)
def test_distances_and_volumes_are_those_of_the_world(tmp_path, axes, affine):
    pred, truth = masks()
    row, right = scored(tmp_path, pred, truth, affine, axes), counted(pred, truth, affine)
    assert {name: float(row[name]) for name in right} == pytest.approx(right)


@table(
    "axis, sides",
    ("an axial slice stored as a volume of one slice", "HD95 by its contour", 2, (1.0, 1.0, 5.0)),
    ("a sagittal slice as a volume of one slice", "HD95 by its contour", 0, (8.0, 1.0, 1.5)),
    ("a coronal slice as a volume of one slice", "HD95 by its contour", 1, (0.5, 5.0, 0.7)),
    ("a slice of voxels 30 mm thick", "its thickness counts for volumes alone", 2, (6.0, 6.0, 30.0)),
)
def test_a_single_slice_is_measured_by_its_contour(tmp_path, axis, sides):
    middle = [slice(None)] * 3
    middle[axis] = slice(5, 6)
    pred, truth = (mask[tuple(middle)] for mask in masks())
    row, right = scored(tmp_path, pred, truth, placed(sides)), counted(pred, truth, placed(sides))
    assert {name: float(row[name]) for name in right} == pytest.approx(right)
    # A filled disk and its contour are one thing only where every voxel counts as surface.
    flat = [side for i, side in enumerate(sides) if i != axis]
    settings = {"one_empty": np.nan, "case": "a", "output": "p", "scheme": label_scheme("lesion")}
    (of_picture,) = score_case(pred.squeeze(axis), truth.squeeze(axis), spacing_mm=flat, **settings)
    assert of_picture["hd95_mm"] == pytest.approx(right["hd95_mm"])


@given("training volumes with sheared axes", "a run's own table says mm of the world")
def test_prepared_cases_keep_their_angles(tmp_path):
    affine = placed((1, 1.5, 2), rotation=SHEAR)
    label = masks()[1]
    arrays = {"a": {"t1": image(), "seg": label}}
    (case,) = prepared_cases(tmp_path, arrays, label_scheme("lesion"), affine=affine, sform_code=1, qform_code=0)
    assert not isinstance(case.facts.steps_mm, tuple)
    settings = {"one_empty": np.nan, "case": "a", "output": "p", "scheme": label_scheme("lesion")}
    (row,) = score_case(masks()[0], label, spacing_mm=case.facts.steps_mm, **settings)
    right = counted(masks()[0], label, affine)
    assert {name: row[name] for name in right} == pytest.approx(right)


@given("axial slices of a volume with sheared axes", "a slice is measured in its sheared plane, a subject in the world")
def test_slices_keep_their_angles(tmp_path):
    affine, label = placed((1, 1.5, 2), rotation=SHEAR), masks()[1]
    files = case_files(tmp_path, "a", {"t1": image(), "seg": label}, affine=affine, sform_code=1, qform_code=0)
    (slices,) = prepare_slices([files], ("t1",), label_scheme("lesion"), cache=tmp_path / "cache").values()
    steps = np.asarray(slices[0].facts.steps_mm)
    # Rows run to the back and columns to the left: signs do not change what lies between them.
    in_plane = affine[:3, [1, 0]].T
    np.testing.assert_allclose(steps @ steps.T, in_plane @ in_plane.T)
    (subject,) = subjects_of(slices)
    assert voxel_size(subject.facts.steps_mm) == pytest.approx(abs(np.linalg.det(affine)))
