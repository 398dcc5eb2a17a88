"""The place of a volume in the world is taken for known where its header does not tell it.

Sides, units, angles and orientations are made here; distances and volumes are counted anew from world coordinates.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse import evaluate
from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.registered import read_volumes
from jaxfuse.data.verify import verify
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import geometry_mismatch, read_volume, write_like
from jaxfuse.io.tables import read_json
from jaxfuse.labels import label_scheme
from tests.commands import call_here
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, head, placed, save_pair, save_volume, write_case, write_iseg

SHAPE = (12, 10, 8)


def tissues() -> np.ndarray:
    """A label of iSeg whose left is not its right."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:5, 2:8, 2:6] = 150
    label[1:3, 3:6, 2:5] = 250
    label[6:7, 2:8, 2:6] = 10
    return label


def blob() -> np.ndarray:
    """A lesion."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 3:7, 2:5] = 1
    return label


def as_nibabel_converts(pair: Path, to: Path) -> Path:
    """Saves a pair as NIfTI with the affine that nibabel assumes for it."""
    stored = nib.load(pair)
    to.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj)[..., 0], stored.affine), to)
    return to


def scored(folder: Path, protocol: str, pred: Path, ref: Path, **options: object) -> dict[str, dict]:
    """Scores two folders; returns the summary by region."""
    call_here(evaluate, pred=pred, ref=ref, protocol=protocol, out=folder / "out", pictures=0, **options)
    return read_json(folder / "out" / "summary.json")["outputs"]["prediction"]


@given("an iSeg label as an Analyze pair, scored against the same voxels as NIfTI with nibabel's affine", "refused")
@given("the same the other way round: the pair as prediction, NIfTI as reference", "refused")
@pytest.mark.parametrize("pair_is", ["pred", "ref"])
def test_an_assumed_orientation_does_not_meet_a_stated_one(tmp_path, sentence_of, unchanged, pair_is):
    folders = {"pred": tmp_path / "pred", "ref": tmp_path / "ref"}
    pair = save_pair(folders[pair_is] / "subject-1.hdr", tissues())
    other = "ref" if pair_is == "pred" else "pred"
    as_nibabel_converts(pair, folders[other] / "subject-1.nii.gz")
    with unchanged(tmp_path / "pred"), unchanged(tmp_path / "ref"):
        text = sentence_of(evaluate, **folders, protocol="iseg", out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
    assert "the orientation of subject-1.hdr is assumed" in text
    assert "that of subject-1.nii.gz is stated" in text
    assert "convert both" in text


@given("an iSeg label as an Analyze pair, and the same voxels as NIfTI whose two codes are 0", "Dice 1")
def test_two_assumed_orientations_meet_by_the_order_of_voxels(tmp_path):
    save_pair(tmp_path / "ref" / "subject-1.hdr", tissues())
    save_volume(tmp_path / "pred" / "subject-1.nii.gz", tissues(), sform_code=0, qform_code=0)
    for values in scored(tmp_path, "iseg", tmp_path / "pred", tmp_path / "ref").values():
        assert values["dice"]["mean"] == 1


@given("Analyze images of a training case beside a label converted to NIfTI", "refused; verify says it")
def test_a_converted_label_beside_analyze_images(tmp_path):
    write_iseg(tmp_path, 1, {"T1": tissues() + 5, "T2": tissues() + 7})
    label = save_pair(tmp_path / "elsewhere" / "label.hdr", tissues())
    label = as_nibabel_converts(label, tmp_path / "subject-1-label.nii.gz")
    files = {name: Image(tmp_path / f"subject-1-{name.upper()}.hdr") for name in ("t1", "t2")}
    with pytest.raises(UserError, match=r"orientation of subject-1-T1\.hdr is assumed.* and that of .*label.* stated"):
        load_case(CaseFiles("subject-1", files, label), ("t1", "t2"), label_scheme("iseg"))
    fatal = [problem.message for problem in verify(tmp_path).problems if problem.severity == "fatal"]
    assert [text for text in fatal if "is assumed" in text]


@table(
    "codes",
    ("a modality with both codes 0 beside stated ones", "refused", ((1, 1), (0, 0))),
    ("a modality with a stated qform beside one with both codes 0", "refused", ((0, 0), (0, 1))),
    ("two modalities, one placed by its qform, one by its sform", "read", ((1, 0), (0, 1))),
)
def test_modalities_of_a_case(tmp_path, codes):
    images = {}
    for name, (sform, qform) in zip(("t1", "t2"), codes, strict=True):
        path = save_volume(tmp_path / f"{name}.nii", head(SHAPE, 0)["t1"], sform_code=sform, qform_code=qform)
        images[name] = Image(path)
    stated = {bool(sform or qform) for sform, qform in codes}
    for read in (lambda: load_case(CaseFiles("a", images), ("t1", "t2"), None), lambda: fused(images)):
        if len(stated) == 1:
            read()
            continue
        with pytest.raises(UserError, match="is assumed, for its header states none"):
            read()


def fused(images):
    """Reads the images as `jaxfuse.fuse` does."""
    return read_volumes([image.path for image in images.values()], {})


@table(
    "unit, scale",
    ("a header in meters: voxels of 0.001", "read in mm, written in meters", "meter", 1e-3),
    ("a header in micrometers: voxels of 1000", "read in mm, written in micrometers", "micron", 1e3),
    ("a header of no unit", "read as mm, written without unit", "unknown", 1.0),
)
def test_lengths_are_mm_and_what_is_written_keeps_the_unit(tmp_path, unit, scale):
    affine = placed((1.0, 1.0, 2.0), (3.0, -4.0, 5.0))
    ordinary = save_volume(tmp_path / "mm.nii", blob(), affine=affine)
    path = in_unit(tmp_path / "other.nii", affine, unit, scale)
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((1, 1, 2))
    assert not geometry_mismatch(volume, read_volume(ordinary))
    write_like(tmp_path / "out.nii", volume.array, path)
    made, stored = nib.load(tmp_path / "out.nii").header, nib.load(path).header
    for key in ("xyzt_units", "pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "qoffset_x"):
        np.testing.assert_array_equal(made[key], stored[key])


def in_unit(path: Path, affine: np.ndarray, unit: str, scale: float, array: np.ndarray | None = None) -> Path:
    """Saves a volume of an affine in mm with a header in another unit."""
    scaled = affine.copy()
    scaled[:3] *= scale
    image = nib.Nifti1Image(blob() if array is None else array, scaled)
    image.set_qform(scaled, 1)
    image.header.set_xyzt_units(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@given("a label map in meters scored against one in mm", "the scores in mm")
def test_two_units_meet(tmp_path):
    moved = np.roll(blob(), 2, axis=2)
    in_unit(tmp_path / "pred" / "a.nii", placed((1.0, 1.0, 2.0)), "meter", 1e-3, moved)
    save_volume(tmp_path / "ref" / "a.nii", blob(), spacing_mm=(1.0, 1.0, 2.0))
    lesion = scored(tmp_path, "stroke", tmp_path / "pred", tmp_path / "ref")["lesion"]
    assert lesion["hd_mm"]["mean"] == pytest.approx(4)


@table(
    "header, words",
    ("a header in meters with voxels of 1", "refused: 1000 mm", {"xyzt_units": 1}, "in meters, .* 1000 x 1000 x 1000"),
    ("a header in micrometers with voxels of 1", "refused: 0.001 mm", {"xyzt_units": 3}, "in micrometers"),
    ("an sform with a column of zeros", "refused", {"srow_x": [0, 0, 0, 1]}, "no usable affine"),
    ("an sform with NaN", "refused", {"srow_y": [0, np.nan, 0, 1]}, "no usable affine"),
    ("an sform whose axes lie in one plane", "refused", {"srow_y": [1, 0, 0, 1]}, "no usable affine"),
    (
        "both codes 0 and a voxel side of 0",
        "refused",
        {"sform_code": 0, "pixdim": [1, 1, 0, 1, 1, 1, 1, 1]},
        "voxels of 1 x 0 x 1",
    ),
    (
        "both codes 0 and a voxel side of NaN",
        "refused",
        {"sform_code": 0, "pixdim": [1, 1, 1, np.nan, 1, 1, 1, 1]},
        "voxels of 1 x 1 x nan",
    ),
)
def test_headers_without_a_place_are_refused(tmp_path, header, words):
    path = save_volume(tmp_path / "a.nii", blob())
    content = bytearray(path.read_bytes())
    raw = nib.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in header.items():
        raw[key] = value
    content[:348] = raw.binaryblock
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=words):
        read_volume(path)


@table(
    "first, second, fits",
    ("volumes of 0.0005 mm that lie half a voxel apart", "refused", ((5e-4,) * 3, 0), ((5e-4,) * 3, 2.5e-4), False),
    ("volumes of 6 mm that lie 0.01 mm apart", "one grid", ((6.0,) * 3, 0), ((6.0,) * 3, 0.01), True),
    (
        "sides of 1 and of 1.01 mm over 12 voxels: 0.11 voxels at the end",
        "refused",
        ((1.0,) * 3, 0),
        ((1.01, 1, 1), 0),
        False,
    ),
    ("slices of 5 mm that lie 1 mm apart", "refused", ((1.0, 1.0, 5.0), 0), ((1.0, 1.0, 5.0), 1.0), False),
)
def test_grids_are_compared_in_voxels(tmp_path, first, second, fits):
    volumes = []
    for name, (sides, z) in (("a", first), ("b", second)):
        volumes.append(read_volume(save_volume(tmp_path / f"{name}.nii", blob(), affine=placed(sides, (0, 0, z)))))
    assert (geometry_mismatch(*volumes) == "") == fits


@table(
    "affine, unit, words",
    ("a case whose header is in meters", "verify says so", placed((1e-3,) * 3), "meter", "its header is in meters"),
    (
        "a case with sheared axes",
        "verify says so",
        placed(rotation=[[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]),
        "mm",
        "not at right angles",
    ),
    ("a case that tells no orientation", "verify says so", None, "mm", "headers tell no orientation (cases: 1)"),
    ("a case with voxels of 0.001, of no unit", "verify says so", placed((1e-3,) * 3), "unknown", "are unusual"),
)
def test_verify_warns(tmp_path, affine, unit, words):
    folder = write_case(tmp_path, "p", {name: head(SHAPE, 0)[name] for name in MODALITIES})
    for path in folder.iterdir():
        image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), affine)
        image.header.set_xyzt_units(unit)
        nib.save(image, path)
    verdict = verify(tmp_path)
    assert verdict.count("fatal") == 0
    assert [problem for problem in verdict.problems if words in problem.message]


@given("a case that tells no orientation among others that tell one", "verify says so")
def test_verify_tells_cases_of_both_kinds(tmp_path):
    arrays = {name: head(SHAPE, 0)[name] for name in MODALITIES}
    write_case(tmp_path, "p", arrays)
    write_case(tmp_path, "q", arrays, sform_code=0, qform_code=0)
    words = "(cases whose headers tell one: 1; left and right may differ between both kinds)"
    assert [problem for problem in verify(tmp_path).problems if words in problem.message]


@given("a case of one slice", "verify says so")
def test_verify_tells_single_slices(tmp_path):
    write_case(tmp_path, "p", {name: head(SHAPE, 0)[name][..., 4:5] for name in MODALITIES})
    assert [problem for problem in verify(tmp_path).problems if "a single slice" in problem.message]
