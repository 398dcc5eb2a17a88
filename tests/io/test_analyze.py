"""Analyze pairs: the axes that are assumed, the way back, and what is refused."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.io.analyze import files_of, write_analyze
from jaxfuse.io.nifti import geometry_mismatch, read_volume, write_like
from tests.refusals import refused

ARRAY = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


@pytest.fixture
def pair(tmp_path):
    write_analyze(tmp_path / "a.hdr", ARRAY, (1.0, 1.5, 2.0))
    return tmp_path / "a.hdr"


def test_axes_as_stored_are_the_canonical_ones(pair):
    volume = read_volume(pair)
    np.testing.assert_array_equal(volume.array, ARRAY)
    found = (volume.array.dtype, volume.stored_shape, volume.spacing_mm)
    assert found == (np.int16, (2, 3, 4, 1), (1.0, 1.5, 2.0))
    # The middle of the volume, voxel (0.5, 1, 1.5), is the origin.
    np.testing.assert_allclose(volume.affine @ [0.5, 1, 1.5, 1], [0, 0, 0, 1])
    np.testing.assert_array_equal(volume.affine[:3, :3], np.diag([1, 1.5, 2]))


def test_either_name_of_the_pair_and_other_readers_agree(pair):
    assert not geometry_mismatch(read_volume(pair), read_volume(pair.with_suffix(".img")))
    assert files_of(pair) == files_of(pair.with_suffix(".img")) == (pair, pair.with_suffix(".img"))
    assert files_of(pair.with_name("b.nii.gz")) == (pair.with_name("b.nii.gz"),)
    other = nib.load(pair)
    assert isinstance(other, nib.AnalyzeImage)
    np.testing.assert_array_equal(np.asarray(other.dataobj), ARRAY[..., None])
    write_analyze(pair.with_name("b.hdr"), ARRAY, (1.0, 1.5, 2.0))  # equal arrays give equal bytes
    for one, same in zip(files_of(pair), files_of(pair.with_name("b.hdr")), strict=True):
        assert one.read_bytes() == same.read_bytes()


def test_a_label_map_is_written_on_the_grid_of_the_pair(pair, tmp_path):
    labels = (ARRAY % 2 * 250).astype(np.uint8)
    write_like(tmp_path / "out.nii.gz", labels, pair, dtype="uint8")
    made = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(made.dataobj), labels)
    # No orientation is stated, so that other programs take both files alike.
    np.testing.assert_allclose(made.affine, nib.load(pair).affine)
    assert (made.header["qform_code"], made.header["sform_code"], made.header.get_xyzt_units()[0]) == (0, 0, "mm")
    assert made.header.get_zooms()[:3] == (1, 1.5, 2)
    assert not geometry_mismatch(read_volume(tmp_path / "out.nii.gz"), read_volume(pair))


def test_other_byte_order_and_scale_are_understood(tmp_path):
    header = nib.Spm99AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    header.set_data_shape(ARRAY.shape)
    header["scl_slope"] = 0.5
    (tmp_path / "a.hdr").write_bytes(header.binaryblock)
    (tmp_path / "a.img").write_bytes(ARRAY.astype(">i2").tobytes(order="F"))
    array = read_volume(tmp_path / "a.hdr").array
    np.testing.assert_array_equal(array, ARRAY / np.float32(2))
    assert array.dtype == np.float32


def test_a_nifti_pair_has_orientation_and_unit_of_its_header(tmp_path, pair):
    image = nib.Nifti1Pair(ARRAY, np.diag([-1.0, 1, 1, 1]))
    image.header.set_slope_inter(0.5, 3)
    image.header.set_xyzt_units("meter")
    image.set_sform(np.diag([-0.001, 0.001, 0.002, 1]), 3)
    nib.save(image, tmp_path / "n.hdr")
    volume = read_volume(tmp_path / "n.hdr")
    np.testing.assert_allclose(volume.array, ARRAY[::-1] / 2 + 3)
    assert (volume.oriented, volume.unit, volume.spacing_mm) == (True, "meters", pytest.approx((1, 1, 2)))
    assert [read_volume(path).oriented for path in (pair, pair.with_suffix(".img"))] == [False, False]
    write_like(tmp_path / "out.nii", ARRAY, tmp_path / "n.hdr")
    made = nib.load(tmp_path / "out.nii")
    np.testing.assert_array_equal(np.asarray(made.dataobj), ARRAY[::-1])
    assert (made.header["sform_code"], made.header.get_xyzt_units()[0]) == (3, "meter")


def test_a_missing_or_short_part_is_named(pair):
    voxels = pair.with_suffix(".img")
    content, cut = voxels.read_bytes(), r"a\.hdr is damaged or cut short"
    voxels.write_bytes(content[:-2])
    refused(cut, read_volume, pair)
    voxels.unlink()
    refused(r"^\S*a\.img cannot be read .*; a pair needs both .hdr and .img$", read_volume, pair)
    voxels.write_bytes(content)
    pair.write_bytes(pair.read_bytes()[:100])
    refused(cut, read_volume, pair)
