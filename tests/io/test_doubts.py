"""Doubts about the geometry of volumes that can be read."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.io.doubts import forms_disagree, geometry_warnings, sides_disagree
from jaxfuse.io.nifti import read_volume
from tests.made_cases import placed, save_pair, save_volume

ARRAY = np.zeros((4, 5, 6), np.uint8)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def volume_of(path, affine=None, array=ARRAY, **codes):
    return read_volume(save_volume(path / "a.nii", array, affine=placed() if affine is None else affine, **codes))


def test_an_ordinary_oblique_volume_gives_no_doubt(tmp_path):
    affine = placed((1.0, 1.5, 2.0), (30.0, -7.0, 2.0), TURN)
    assert geometry_warnings(volume_of(tmp_path, affine, sform_code=1, qform_code=1)) == []


@pytest.mark.parametrize(
    ("affine", "array", "words"),
    [
        (placed(rotation=[[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]), ARRAY, "axes meet at 63.4 degrees"),
        (placed(), ARRAY[..., :1], "a single slice"),
        (placed((0.001, 0.001, 0.001)), ARRAY, "voxels of 0.001 x 0.001 x 0.001 mm are unusual"),
    ],
)
def test_what_is_unusual_is_told(tmp_path, affine, array, words):
    (text,) = geometry_warnings(volume_of(tmp_path, affine, array))
    assert text.startswith("a.nii: ")
    assert words in text


def test_other_units_and_other_sides_beside_the_sform_are_told(tmp_path):
    image = nib.Nifti1Image(ARRAY, placed())
    image.header.set_xyzt_units("micron")
    image.header.set_sform(placed((1000, 1000, 2000)), 1)
    nib.save(nib.Nifti1Image(ARRAY, None, image.header), tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert sides_disagree(volume)
    first, second = geometry_warnings(volume)
    assert "its header gives voxels of 1 x 1 x 1, its affine of 1 x 1 x 2 mm" in first
    assert "is in micrometers; lengths are converted to mm, so that voxels are 1 x 1 x 2" in second


def test_signs_of_orientation_beside_a_pair_are_told_not_to_be_read(tmp_path):
    pair = save_pair(tmp_path / "a.hdr", ARRAY)
    assert geometry_warnings(read_volume(pair)) == []
    (tmp_path / "a.mat").touch()
    content = bytearray(pair.read_bytes())
    content[252] = 3
    pair.write_bytes(bytes(content))
    first, second = geometry_warnings(read_volume(pair.with_suffix(".img")))
    assert "a.mat of SPM lies beside it" in first
    assert "has the orientation code 3, which is not read" in second


def test_forms_disagree_where_they_place_a_corner_elsewhere(tmp_path):
    image = nib.Nifti1Image(ARRAY, placed((2.0, 2.0, 2.0)))
    for shift, differ in ((0.05, False), (0.5, True)):
        image.set_sform(placed((2.0, 2.0, 2.0), (shift, 0, 0)), 2)
        image.set_qform(placed((2.0, 2.0, 2.0)), 1)
        nib.save(image, tmp_path / "a.nii")
        assert forms_disagree(read_volume(tmp_path / "a.nii")) == differ
