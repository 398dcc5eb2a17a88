"""Cases on voxels of other sides, and labels back on their own."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import Case, CaseFiles, Image, load_case
from jaxfuse.data.preprocess import prepare_case, uncrop
from jaxfuse.data.resample import (
    as_acquired,
    interpolated,
    linear,
    nearest,
    on_acquired_grid,
    on_networks_grid,
    prepare_resampled,
    probabilities_on_acquired_grid,
    thick_axis,
)
from jaxfuse.labels import label_scheme
from tests.made_cases import channels_of, head, nested_cubes, placed, save_volume
from tests.refusals import refused

SHAPE, THICK = (30, 26, 9), (1.0, 1.0, 5.0)
ROTATION = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]


def made_case(seed: int = 0, spacing=THICK) -> Case:
    images = head(SHAPE, seed)
    image = np.stack([images["t1"], images["flair"]], -1).astype(np.float32)
    label = np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8) * (image[..., 0] > 0)
    affine = placed(spacing, (3.0, -2.0, 7.5))
    return Case("a", ("t1", "flair"), channels_of(image), label.astype(np.uint8), affine, spacing)


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (0.9, 1.0, 2.3), (0.7, 0.31, 4.9), (1.0, 1.0, 5.0)])
def test_no_label_voxel_moves_on_a_way_to_a_finer_grid_and_back(wanted):
    case = made_case()
    prepared = prepare_resampled(case, wanted)
    assert prepared.facts.acquired_shape == SHAPE
    np.testing.assert_allclose(prepared.facts.spacing_mm, wanted, rtol=0.05)
    back = on_acquired_grid(uncrop(prepared.label, prepared, 0), prepared.facts)
    np.testing.assert_array_equal(back, case.label)


@pytest.mark.parametrize("shape", [(30, 26, 45), (61, 53, 9), (15, 13, 5)])
def test_both_grids_fill_one_box(shape):
    case = made_case()
    wanted = tuple(n * side / m for n, side, m in zip(SHAPE, THICK, shape, strict=True))
    facts = prepare_resampled(case, wanted).facts
    assert facts.original_shape == shape
    for corner in ((0, 0, 0), (1, 1, 1), (0, 1, 0)):
        ends = (np.array(corner) * np.array(sides) - 0.5 for sides in (SHAPE, shape))
        acquired, new = (
            affine @ [*end, 1] for affine, end in zip((case.affine, np.array(facts.affine)), ends, strict=True)
        )
        np.testing.assert_allclose(acquired, new, atol=1e-9)


def test_a_resampled_case_is_told_on_the_grid_of_its_files_again():
    case = made_case()
    prepared = prepare_resampled(case, (0.7, 1.0, 2.3))
    there = as_acquired(prepared)
    assert (there.facts.shape, there.facts.original_shape, there.facts.acquired_shape) == (SHAPE, SHAPE, ())
    np.testing.assert_allclose(there.facts.affine, case.affine, atol=1e-9)
    np.testing.assert_allclose(there.facts.spacing_mm, THICK, rtol=1e-9)
    np.testing.assert_array_equal(there.brain, np.flatnonzero(case.image[..., 0]))
    np.testing.assert_array_equal(on_networks_grid(case.label, prepared), prepared.label)


def by_hand(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation of the middles of voxels, one axis and one new voxel after the other."""
    for axis, new in enumerate(shape):
        old, slices = array.shape[axis], []
        for place in range(new):
            at = min(max((place + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(at), old - 2) if old > 1 else 0
            near, far = (np.take(array, i, axis) for i in (low, min(low + 1, old - 1)))
            slices.append((1 - (at - low)) * near + (at - low) * far)
        array = np.stack(slices, axis)
    return array


def test_probabilities_come_back_by_straight_lines_and_add_up_to_one():
    prepared, rng = prepare_resampled(made_case(), (0.7, 1.4, 2.3)), np.random.default_rng(1)
    probs = rng.random((*prepared.facts.shape, 3)).astype(np.float32) ** 4
    probs /= probs.sum(-1, keepdims=True)
    found = probabilities_on_acquired_grid(probs, prepared)
    assert (found.shape, found.dtype) == ((*SHAPE, 3), np.float32)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    around = np.stack([uncrop(probs[..., k], prepared, float(k == 0)) for k in range(3)], -1)
    expected = np.stack([by_hand(around[..., k], SHAPE) for k in range(3)], -1)
    np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(linear(np.arange(4.0)[:, None, None], (8, 1, 1))[:, 0, 0], by_hand(np.arange(4.0), (8,)))


def test_probabilities_on_their_own_grid_stay_as_they_are_amid_background():
    prepared = prepare_case(made_case())
    probs = np.random.default_rng(1).random((*prepared.facts.shape, 3)).astype(np.float32)
    found, facts = probabilities_on_acquired_grid(probs, prepared), prepared.facts
    box = tuple(slice(a, a + n) for a, n in zip(facts.crop_start, facts.shape, strict=True))
    np.testing.assert_array_equal(found[box], probs)
    found[box] = (1, 0, 0)
    np.testing.assert_array_equal(found, np.broadcast_to([1, 0, 0], found.shape))


def test_a_smooth_image_is_interpolated_to_a_thousandth():
    """Splines of order 3 meet a slow wave; a linear one would miss it by several hundredths."""

    def wave(n: int) -> np.ndarray:
        x, y, z = np.meshgrid(*((np.arange(n) + 0.5) / n for _ in range(3)), indexing="ij")
        return (np.cos(2 * np.pi * x) * np.cos(np.pi * y) * np.cos(np.pi * z)).astype(np.float32)

    inside = (slice(6, -6),) * 3
    found = interpolated(wave(20), (30, 30, 30), None)
    np.testing.assert_allclose(found[inside], wave(30)[inside], atol=2e-3)
    thick = interpolated(wave(20), (30, 30, 60), 2)
    np.testing.assert_array_equal(thick[..., 0::3], thick[..., 1::3])


def test_thick_slices_are_told_by_their_sides():
    assert thick_axis((1, 1, 5), (1, 1, 1)) == 2
    assert thick_axis((1, 1, 1), (5, 1, 1)) == 0
    assert thick_axis((1, 1, 3), (1, 1, 1)) is None


def test_background_stays_background_and_own_voxels_stay_as_they_are():
    case = made_case(spacing=(2.0, 2.0, 2.0))
    assert not prepare_resampled(case, ()).facts.acquired_shape
    own, same = prepare_case(case), prepare_resampled(case, (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(own.image, same.image)
    finer = prepare_resampled(case, (1.0, 1.0, 1.0))
    assert len(finer.brain) == 8 * len(own.brain)
    outside = np.ones(finer.facts.shape, bool)
    outside.flat[finer.brain] = False
    assert not finer.image[outside].any()


def test_the_cache_knows_the_sides(tmp_path):
    images = head(SHAPE, 0)
    paths = {m: Image(save_volume(tmp_path / f"{m}.nii.gz", images[m], spacing_mm=THICK)) for m in ("t1", "flair")}
    label = save_volume(tmp_path / "seg.nii.gz", nested_cubes(SHAPE, {2: 4, 1: 3, 4: 2}), spacing_mm=THICK)
    files, scheme = CaseFiles("a", paths, label), label_scheme("brats")
    given = {"scheme": scheme, "cache": tmp_path / "cache"}
    (own,) = prepare([files], ("t1", "flair"), **given)
    (fine,) = prepare([files], ("t1", "flair"), resample_mm=(1.0, 1.0, 1.0), **given)
    assert own.key != fine.key
    assert (own.facts.acquired_shape, fine.facts.acquired_shape) == ((), SHAPE)
    expected = prepare_resampled(load_case(files, ("t1", "flair"), scheme), (1.0, 1.0, 1.0), classes=4)
    np.testing.assert_array_equal(fine.image, expected.image)


def test_a_grid_beyond_memory_is_refused():
    refused(
        "more than memory holds: choose larger sides for data.resample_mm", prepare_resampled, made_case(), (0.01,) * 3
    )
    refused("labels of shape", on_acquired_grid, np.zeros((2, 2, 2)), prepare_resampled(made_case(), (2.0, 2, 2)).facts)


def test_oblique_grids_keep_their_axes():
    case = made_case()
    turned = Case("a", case.modalities, case.channels, case.label, placed(THICK, (1, 2, 3), ROTATION), THICK)
    facts = prepare_resampled(turned, (1.0, 1.0, 1.0)).facts
    np.testing.assert_allclose(np.array(facts.affine)[:3, :3], ROTATION, atol=1e-12)
    assert nib.aff2axcodes(np.array(facts.affine)) == nib.aff2axcodes(turned.affine)


def test_nearest_is_the_voxel_around_the_middle():
    assert nearest(np.arange(3)[:, None, None], (6, 1, 1)).ravel().tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest(np.arange(6)[:, None, None], (2, 1, 1)).ravel().tolist() == [1, 4]
