"""Orientation, geometry and refusals of the NIfTI reader and writer."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.io.nifti import (
    geometry_mismatch,
    read_channels,
    read_volume,
    write_channels_like,
    write_like,
    write_rgb_like,
)
from tests.made_cases import placed, save_volume
from tests.refusals import refused

SPACING = np.array([1.0, 1.5, 2.0])
_C, _S = np.cos(0.3), np.sin(0.3)
ROTATION = np.array([[_C, -_S, 0], [_S, _C, 0], [0, 0, 1]])
# Columns: the world direction of each stored axis.
FRAMES = {
    "RAS": np.diag(SPACING),
    "LPS": np.diag(SPACING * [-1, -1, 1]),
    "LAS": np.diag(SPACING * [-1, 1, 1]),
    "PSR": np.array([[0, 0, 2.0], [-1.0, 0, 0], [0, 1.5, 0]]),
    "oblique": ROTATION @ np.diag(SPACING * [-1, -1, 1]),
}


def save(path: Path, array: np.ndarray, frame: str = "LPS", *, code: int = 1) -> Path:
    affine = placed(rotation=FRAMES[frame], origin_mm=(7, -11, 3))
    return save_volume(path, array, affine=affine, sform_code=code, qform_code=code)


def numbers(dtype: type = np.int16) -> np.ndarray:
    return np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)


def on_one_grid(a: nib.Nifti1Image, b: nib.Nifti1Image) -> None:
    np.testing.assert_array_equal(b.affine, a.affine)
    for key in ("qform_code", "sform_code", "pixdim", "xyzt_units", "quatern_b", "srow_x", "srow_y"):
        np.testing.assert_array_equal(b.header[key], a.header[key])


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_canonical_array_keeps_the_world_position_of_every_voxel(tmp_path, frame, dtype):
    volume = read_volume(save(tmp_path / "a.nii.gz", numbers(dtype), frame))
    assert volume.array.dtype == dtype
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    for canonical in [(0, 0, 0), (1, 2, 3)]:
        world = volume.affine @ [*canonical, 1]
        stored = np.rint(np.linalg.solve(volume.stored_affine, world))[:3].astype(int)
        assert volume.array[canonical] == numbers(dtype)[tuple(stored)]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_volume_written_like_itself_is_the_same_file_content(tmp_path, frame, dtype):
    source = save(tmp_path / "a.nii.gz", numbers(dtype), frame, code=2)
    write_like(tmp_path / "b.nii.gz", read_volume(source).array, source)
    a, b = nib.load(source), nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(b.dataobj), np.asarray(a.dataobj))
    assert b.get_data_dtype() == a.get_data_dtype()
    on_one_grid(a, b)


def test_spacing_follows_the_canonical_axes(tmp_path):
    # Stored axes point to P (1 mm), S (1.5 mm) and R (2 mm).
    volume = read_volume(save(tmp_path / "a.nii", numbers(), "PSR"))
    assert (volume.spacing_mm, volume.array.shape) == (pytest.approx((2.0, 1.0, 1.5)), (6, 4, 5))


def test_sform_counts_where_the_qform_disagrees_and_both_are_kept(tmp_path):
    image = nib.Nifti1Image(numbers(), np.eye(4))
    image.set_sform(np.diag([-1, -1, 1, 1]), 2)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, numbers()[::-1, ::-1])
    write_like(tmp_path / "b.nii.gz", volume.array, tmp_path / "a.nii.gz")
    back = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), numbers())
    np.testing.assert_array_equal(back.header.get_qform(), np.eye(4))
    np.testing.assert_array_equal(back.header.get_sform(), np.diag([-1, -1, 1, 1]))
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (1, 2)


def test_intensity_scaling_is_applied_on_reading_and_dropped_on_writing(tmp_path):
    image = nib.Nifti1Image(numbers(), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, 10 + 0.5 * numbers())
    write_like(tmp_path / "b.nii", numbers(np.uint8), tmp_path / "a.nii")
    b = nib.load(tmp_path / "b.nii")
    assert (b.dataobj.slope, b.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.asarray(b.dataobj), numbers(np.uint8))


def test_equal_arrays_give_equal_bytes_and_no_partial_file(tmp_path):
    source = save(tmp_path / "in.nii.gz", numbers())
    for name in ("a.nii.gz", "b.nii.gz"):
        write_like(tmp_path / "out" / name, numbers(np.uint8)[::-1], source)
    assert (tmp_path / "out/a.nii.gz").read_bytes() == (tmp_path / "out/b.nii.gz").read_bytes()
    # Bytes 4 to 8 of a gzip file hold the time of writing.
    assert (tmp_path / "out/a.nii.gz").read_bytes()[4:8] == bytes(4)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize(
    ("given", "dtype", "stored"),
    [(bool, None, np.uint8), (np.float64, None, np.float32), (np.int64, None, np.int32), (np.float32, "u1", np.uint8)],
)
def test_type_on_disk(tmp_path, given, dtype, stored):
    source = save(tmp_path / "in.nii", np.zeros((2, 2, 2), np.int16))
    write_like(tmp_path / "out.nii", np.ones((2, 2, 2), given), source, dtype=dtype)
    assert nib.load(tmp_path / "out.nii").get_data_dtype() == stored


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.full((2, 2, 2), 300), np.uint8, "beyond the range of uint8"),
        (np.full((2, 2, 2), 0.5), np.uint8, "not whole numbers"),
        (np.full((2, 2, 2), np.nan), np.int16, "not whole numbers"),
        (np.zeros((2, 2, 3)), None, r"\(2, 2, 3\)"),
    ],
)
def test_values_and_shapes_that_do_not_fit_are_refused(tmp_path, array, dtype, message):
    source = save(tmp_path / "in.nii", np.zeros((2, 2, 2), np.int16))
    refused(message, write_like, tmp_path / "out.nii", array, source, dtype=dtype)
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.parametrize("frame", FRAMES)
def test_a_color_volume_is_stored_as_rgb24_on_the_grid_of_its_reference(tmp_path, frame):
    source = save(tmp_path / "a.nii.gz", numbers(np.int16), frame, code=2)
    canonical = read_volume(source).array
    rgb = np.stack([canonical, canonical + 1, 255 - canonical], axis=-1).astype(np.uint8)
    write_rgb_like(tmp_path / "b.nii.gz", rgb, source)
    a, b = nib.load(source), nib.load(tmp_path / "b.nii.gz")
    assert (int(b.header["datatype"]), int(b.header["bitpix"]), b.shape) == (128, 24, a.shape)
    on_one_grid(a, b)
    stored, voxels = np.asarray(a.dataobj), np.asarray(b.dataobj)
    for name, values in (("R", stored), ("G", stored + 1), ("B", 255 - stored)):
        np.testing.assert_array_equal(voxels[name], values)


@pytest.mark.parametrize("frame", FRAMES)
def test_several_volumes_lie_in_one_file_on_the_grid_of_the_reference(tmp_path, frame):
    reference, written = save(tmp_path / "like.nii.gz", numbers(), frame), tmp_path / "four.nii.gz"
    like = read_volume(reference)
    array = np.random.default_rng(0).normal(size=(*like.array.shape, 3)).astype(np.float32)
    write_channels_like(written, array, reference, description="three")
    stored = nib.load(written)
    assert (stored.shape[3], stored.get_data_dtype(), stored.header["descrip"].item()) == (3, np.float32, b"three")
    np.testing.assert_array_equal(stored.affine, nib.load(reference).affine)
    for index, one in enumerate(read_channels(written, range(3))):
        assert geometry_mismatch(one, like) == ""
        np.testing.assert_array_equal(one.array, array[..., index])
    refused("on the canonical axes; write on", write_channels_like, written, array[1:], reference)


def test_a_color_volume_of_another_shape_is_refused(tmp_path):
    source = save(tmp_path / "in.nii", np.zeros((2, 2, 2), np.int16))
    refused(r"has shape \(2, 2, 3\)", write_rgb_like, tmp_path / "out.nii", np.zeros((2, 2, 3, 3), np.uint8), source)
    refused("does not end in .nii", write_rgb_like, tmp_path / "out.png", np.zeros((2, 2, 2, 3), np.uint8), source)


def test_trailing_singleton_axes_are_dropped_and_four_dimensions_refused(tmp_path):
    volume = read_volume(save_volume(tmp_path / "a.nii", numbers()[..., None, None]))
    np.testing.assert_array_equal(volume.array, numbers())
    assert volume.stored_shape == (4, 5, 6, 1, 1)
    refused("third axis of length 1", read_volume, save_volume(tmp_path / "b.nii", numbers()[..., 0]))
    refused(r"\(4, 5, 6, 2\)", read_volume, save_volume(tmp_path / "a.nii", np.zeros((4, 5, 6, 2), np.int16)))


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda content: content[:-40],
        lambda content: bytes(byte ^ (0xFF * (i == len(content) // 2)) for i, byte in enumerate(content)),
        lambda content: gzip.compress(gzip.decompress(content)[:-20]),
        lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=["cut gzip", "damaged gzip", "cut voxels", "text"],
)
def test_bad_files_are_refused_by_name(tmp_path, spoiled):
    path = save(tmp_path / "case_t1.nii.gz", numbers())
    path.write_bytes(spoiled(path.read_bytes()))
    refused("case_t1.nii.gz", read_volume, path)


def test_no_file_complex_values_and_a_singular_affine_are_refused_by_name(tmp_path):
    path = tmp_path / "case_t1.nii.gz"
    refused("case_t1.nii.gz", read_volume, path)
    refused("case_t1.nii.gz", read_volume, save_volume(path, np.zeros((2, 2, 2), np.complex64)))
    image = nib.Nifti1Image(numbers(), None)
    image.header["sform_code"], image.header["srow_z"] = 1, 0
    nib.save(image, path)
    refused("case_t1.nii.gz", read_volume, path)


def test_geometry_is_compared_in_voxels_and_both_values_are_told(tmp_path):
    a = read_volume(save(tmp_path / "a.nii", numbers()))

    def mismatch(name, x, array):
        path = save_volume(tmp_path / name, array, spacing_mm=(-1.0, -1.5, 2.0), origin_mm=(x, -11, 3))
        return geometry_mismatch(a, read_volume(path))

    assert not mismatch("near.nii", 7.04, numbers())
    # Canonical origin x: 7 - 3 voxels of 1 mm.
    for words in ("1 0 0 4;", "1 0 0 4.5;", "by 0.5 voxels"):
        assert words in mismatch("far.nii", 7.5, numbers())
    for words in ("(3, 5, 6)", "(4, 5, 6)"):
        assert words in mismatch("small.nii", 7, numbers()[:3])


@pytest.mark.parametrize("name", ["tcga_lgg_brats/TCGA-FG-6692/TCGA-FG-6692", "ms_lesion_mni/patient19/patient19"])
def test_real_label_map_goes_there_and_back(tmp_path, shared_data, name):
    label, image = shared_data / f"{name}_seg.nii.gz", shared_data / f"{name}_flair.nii.gz"
    write_like(tmp_path / "seg.nii.gz", read_volume(label).array, image)
    back, there = (np.asarray(nib.load(path).dataobj) for path in (tmp_path / "seg.nii.gz", label))
    np.testing.assert_array_equal(back, there)
    assert not geometry_mismatch(read_volume(tmp_path / "seg.nii.gz"), read_volume(image))


def test_voxels_left_as_they_lie_are_those_that_are_turned(tmp_path):
    for frame in FRAMES:
        path = save(tmp_path / f"{frame}.nii.gz", numbers(), frame)
        np.testing.assert_array_equal(read_volume(path, as_it_lies=True).array, read_volume(path).array)
        turned = read_volume(path).array
        assert turned.flags.c_contiguous
        assert turned.flags.writeable


def test_scaled_big_endian_and_headers_with_extensions_are_read_alike(tmp_path):
    image = nib.Nifti1Image(numbers(), np.eye(4), nib.Nifti1Header(endianness=">"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment"))
    nib.save(image, tmp_path / "big.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "big.nii.gz").array, numbers())
    image = nib.Nifti1Image(numbers(), np.eye(4))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "scaled.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "scaled.nii.gz").array, 2 * numbers() + 1)


def test_gzip_files_of_several_members_are_read_whole(tmp_path):
    path = save_volume(tmp_path / "a.nii", numbers())
    content = path.read_bytes()
    for parts in (2, 3):
        side = -(-len(content) // parts)
        pieces = [content[place : place + side] for place in range(0, len(content), side)]
        (tmp_path / "b.nii.gz").write_bytes(b"".join(map(gzip.compress, pieces)))
        np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").array, numbers())
