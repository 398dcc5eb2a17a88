"""Parts and holes of masks: equal to a flood that goes from voxel to voxel."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from jaxfuse.postprocessing.components import CONNECTIVITIES, holes_of, largest_part, parts_of, small_parts

Voxel = tuple[int, ...]


def neighbors(voxel: Voxel, shape: tuple[int, ...], most: int) -> Iterator[Voxel]:
    for step in itertools.product((-1, 0, 1), repeat=3):
        other = tuple(map(sum, zip(voxel, step, strict=True)))
        if 0 < sum(map(abs, step)) <= most and all(0 <= place < n for place, n in zip(other, shape, strict=True)):
            yield other


def floods(mask: np.ndarray, most: int) -> list[set[Voxel]]:
    """Slow reference: the parts of a mask in the order of their first voxels."""
    rest, found = list(map(tuple, np.argwhere(mask).tolist())), []
    left = set(rest)
    for first in rest:
        if first not in left:
            continue
        part, border = {first}, [first]
        while border:
            new = {one for one in neighbors(border.pop(), mask.shape, most) if mask[one]} - part
            part |= new
            border += new
        left -= part
        found.append(part)
    return found


def marked(parts: list[set[Voxel]], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for voxel in set().union(*parts):
        mask[voxel] = True
    return mask


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_parts_are_those_of_a_flood(connectivity):
    for seed in range(4):
        mask = np.random.default_rng(seed).random((6, 7, 5)) < 0.2
        parts = floods(mask, CONNECTIVITIES[connectivity])
        found, sizes = parts_of(mask, connectivity)
        assert sorted(sizes[1:]) == sorted(map(len, parts))
        assert all(len({int(found[voxel]) for voxel in part}) == 1 for part in parts)
        best = max(map(len, parts))
        first = next(part for part in parts if len(part) == best)
        np.testing.assert_array_equal(largest_part(mask, connectivity), marked([first], mask.shape))
        small = [part for part in parts if len(part) < 3]
        np.testing.assert_array_equal(small_parts(mask, connectivity, 3), marked(small, mask.shape))


def test_of_equal_parts_the_first_stays():
    mask = np.zeros((3, 4, 5), bool)
    mask[2, 0, 0] = mask[0, 3, 4] = mask[0, 0, 3] = True
    assert np.argwhere(largest_part(mask, 26)).tolist() == [[0, 0, 3]]


def test_corners_connect_with_26_alone_and_edges_with_18():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[1, 2, 2] = True
    assert [int(parts_of(mask, one)[1].max()) for one in (6, 18, 26)] == [1, 2, 3]


def test_nothing_has_no_part():
    mask = np.zeros((3, 3, 3), bool)
    for found in (largest_part(mask, 6), small_parts(mask, 6, 9), holes_of(mask)):
        assert not found.any()


def test_holes_are_what_no_flood_over_faces_reaches():
    for seed in range(4):
        mask = np.random.default_rng(seed).random((6, 7, 5)) < 0.75
        held = [
            part
            for part in floods(~mask, 1)
            if not any(place in (0, n - 1) for voxel in part for place, n in zip(voxel, mask.shape, strict=True))
        ]
        assert held
        np.testing.assert_array_equal(holes_of(mask), marked(held, mask.shape))


def shell(shape: tuple[int, ...]) -> np.ndarray:
    """A box with walls of one voxel, hollow inside."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(1, n - 1) for n in shape)] = True
    mask[tuple(slice(2, n - 2) for n in shape)] = False
    return mask


def test_a_hole_that_opens_at_the_border_of_the_volume_is_none():
    mask = shell((7, 7, 7))
    assert holes_of(mask).sum() == 27
    assert not holes_of(mask[3:]).any()  # the box is cut open, and the cut is the border


def test_a_single_slice_has_the_holes_of_its_picture():
    ring = np.zeros((5, 5, 1), bool)
    ring[1:4, 1:4] = True
    ring[2, 2] = False
    for axis in range(3):
        found = holes_of(np.moveaxis(ring, 2, axis))
        assert np.argwhere(found).tolist() == [np.insert([2, 2], axis, 0).tolist()]
    # The same picture in the middle of a volume encloses nothing.
    assert not holes_of(np.pad(ring, ((0, 0), (0, 0), (1, 1)))).any()


def test_one_voxel_encloses_nothing():
    assert not holes_of(np.ones((1, 1, 1), bool)).any()
    assert not holes_of(np.zeros((1, 1, 1), bool)).any()
