"""Windows and tilings: where they lie, what they hold, and that they cover."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from jaxfuse.patches import check_patch, crop, grid_starts, output_sides, tile_volume, window_around
from tests.refusals import refused


def test_eight_windows_of_the_paper_cover_a_brats_volume():
    tiling = tile_volume((240, 240, 155), (128, 128, 128))
    assert tiling.starts == ((0, 112), (0, 112), (0, 27))
    assert list(tiling) == list(itertools.product(*tiling.starts))
    assert len(tiling) == 8


@pytest.mark.parametrize("seed", range(60))
def test_windows_cover_overlap_as_asked_and_are_as_few_as_that_allows(seed):
    rng = np.random.default_rng(seed)
    length, side = int(rng.integers(1, 200)), int(rng.integers(1, 70))
    overlap = float(rng.choice([0.0, 0.25, 0.3, 0.5, 0.75, rng.uniform(0, 0.99)]))
    (starts,) = tile_volume((length,), (side,), overlap=overlap).starts
    covered = np.zeros(max(length, side), bool)
    for start in starts:
        covered[start : start + side] = True
    assert covered[:length].all()
    if length <= side:
        assert starts == (0,)
        return
    assert (starts[0], starts[-1]) == (0, length - side)
    farthest = max(np.diff(starts))
    assert farthest == 1 or side - farthest >= overlap * side - 1e-6
    # One window fewer would have to leave a larger gap somewhere.
    stride = max(1, int(side * (1 - overlap) + 1e-9))
    assert (len(starts) - 2) * stride < length - side


def test_outputs_of_9_of_the_hyperdense_network_cover_an_infant_volume_once():
    tiling = tile_volume((144, 192, 256), (9, 9, 9), margin=(9, 9, 9))
    assert [len(tiling), *map(len, tiling.starts)] == [10_208, 16, 22, 29]
    assert (tiling.input_tile, tiling.input_start((0, 9, 252))) == ((27, 27, 27), (-9, 0, 243))


@pytest.mark.parametrize("length", [1, 8, 9, 10, 32, 256])
@pytest.mark.parametrize("side", [1, 9, 32, 48])
def test_windows_with_a_margin_lie_side_by_side(length, side):
    (starts,) = tile_volume((length,), (side,), margin=(9,)).starts
    seen = np.zeros(length + side, int)
    for start in starts:
        seen[start : start + side] += 1
    assert (seen[:length] == 1).all()
    assert len(starts) == -(-length // side)


def test_windows_with_a_margin_overlap_where_that_is_asked_for():
    without = tile_volume((32,), (9,), overlap=0.5)
    assert tile_volume((32,), (9,), margin=(9,), overlap=0.5) == replace(without, margin=(9,))


def test_a_window_that_is_too_large_is_centered_where_that_is_asked_for():
    tiling = tile_volume((5, 8, 20, 6), (8, 8, 8, 9), centered=True)
    assert tiling.starts == ((-2,), (0,), (0, 6, 12), (-1,))
    for length, side, (start, *_) in zip((5, 6), (8, 9), (tiling.starts[0], tiling.starts[3]), strict=True):
        assert (start,) == window_around((length // 2,), (side,), (length,))


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2])
def test_overlap_out_of_range_is_refused(overlap):
    refused(rf"overlap is {overlap}; it must lie in \[0, 1\)", tile_volume, (8,), (4,), overlap=overlap)


@pytest.mark.parametrize(
    ("length", "starts"),
    [(20, {5: 1, 0: 0, 3: 0, 4: 0, 19: 12, 16: 12, 15: 11}), (8, {2: 0}), (5, {2: -2, 0: -3, 4: 0})],
)
def test_a_window_is_centered_and_shifted_to_stay_inside(length, starts):
    """`starts` by center."""
    assert {center: window_around((center,), (8,), (length,))[0] for center in starts} == starts


@pytest.mark.parametrize("seed", range(30))
def test_a_window_holds_its_center_and_as_much_of_the_volume_as_fits(seed):
    rng = np.random.default_rng(seed)
    shape, patch = rng.integers(1, 30, 3), rng.integers(1, 30, 3)
    center = rng.integers(0, shape)
    start = np.array(window_around(center.tolist(), patch.tolist(), shape.tolist()))
    assert ((start <= center) & (center < start + patch)).all()
    inside = np.minimum(start + patch, shape) - np.maximum(start, 0)
    np.testing.assert_array_equal(inside, np.minimum(patch, shape))


def test_crop_copies_and_fills_with_zeros_what_lies_outside():
    array = np.arange(1, 25, dtype=np.int16).reshape(3, 4, 2)
    inside = crop(array, (1, 1), (2, 2))
    np.testing.assert_array_equal(inside, array[1:3, 1:3])
    inside[:] = 0
    assert array.min() == 1
    over = crop(array, (-1, 2), (3, 4))
    assert (over.shape, over.dtype) == ((3, 4, 2), np.int16)
    np.testing.assert_array_equal(over[1:, :2], array[0:2, 2:4])
    assert over[0].sum() == over[:, 2:].sum() == 0
    np.testing.assert_array_equal(crop(array[..., 0], (0, 0), (3, 4)), array[..., 0])


def test_a_patch_has_sides_that_the_network_can_divide_and_is_larger_than_what_valid_convolutions_take():
    assert check_patch([32, 16, 48], ndim=3, divisor=16) == (32, 16, 48)
    for bad in ((32, 16), (32, 24, 16), (0, 16, 16), (-16, 16, 16)):
        refused("the network needs 3 sides, each a positive multiple of 16", check_patch, bad, ndim=3, divisor=16)
    assert check_patch([27, 19, 35], ndim=3, divisor=1, margin=9) == (27, 19, 35)
    assert output_sides((27, 19, 35), 9) == (9, 1, 17)
    message = "take 9 voxels on both sides of each axis, so that each side must be larger"
    refused(message, check_patch, [27, 18, 27], ndim=3, divisor=1, margin=9)
    assert check_patch([24, 32, 24], ndim=3, divisor=8, judged=24) == (24, 32, 24)
    refused("choose sides of at least 24", check_patch, [32, 16, 32], ndim=3, divisor=8, judged=24)


@pytest.mark.parametrize(
    ("length", "side", "step", "starts"),
    [
        (32, 9, 5, (0, 5, 10, 15, 20, 23)),
        (29, 9, 5, (0, 5, 10, 15, 20)),
        (10, 9, 5, (0, 1)),
        (9, 9, 5, (0,)),
        (5, 9, 5, (-2,)),
        (4, 2, 1, (0, 1, 2)),
    ],
)
def test_a_grid_of_windows_ends_at_the_far_face(length, side, step, starts):
    assert grid_starts(length, side, step) == starts
