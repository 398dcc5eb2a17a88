"""Changes of place: exact where they must be, and analytical shapes where they turn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.augment.settings import Elastic, QuarterTurn, Rotation, Scaling
from jaxfuse.augment.space import (
    Grid,
    Turn,
    check_space,
    displacement,
    interpolated,
    magnification,
    nearest,
    quarter_turn,
    rotation_matrix,
    sources,
    turn_matrix,
    turned,
)
from tests.refusals import refused

KEYS = jax.random.split(jax.random.key(11), 200)
NONE = (jnp.zeros(()),) * 3


def test_quarter_turns_are_those_of_numpy_and_so_is_their_matrix():
    grid = Grid((5, 5, 5), (1.0,) * 3)
    array = np.random.default_rng(0).permutation(125).reshape(5, 5, 5)
    for number, quarters in ((0, 0), (0, 1), (1, 2), (2, 3), (1, 1)):
        plane = grid.planes[number]
        turn, expected = Turn(jnp.asarray(number), jnp.asarray(quarters)), np.rot90(array, quarters, plane)
        np.testing.assert_array_equal(turned(jnp.asarray(array), grid.planes, turn), expected)
        places = sources(grid, turn_matrix(3, grid.planes, turn), NONE)
        np.testing.assert_array_equal(nearest(jnp.asarray(array), places), expected)
        image = jnp.asarray(array, jnp.float32)[..., None]
        np.testing.assert_array_equal(interpolated(image, places)[..., 0], expected)


def test_turns_are_drawn_in_every_plane_and_to_every_side():
    drawn = jax.vmap(lambda key: quarter_turn(key, QuarterTurn(0.5), 3))(KEYS)
    assert np.mean(np.asarray(drawn.quarters) > 0) == pytest.approx(0.5, abs=0.1)
    acting = {(int(p), int(q)) for p, q in zip(drawn.plane, drawn.quarters, strict=True) if q}
    assert acting == set(itertools.product(range(3), (1, 2, 3)))


def test_planes_are_those_of_equal_sides_within_slices():
    assert Grid((8, 8, 6), (1.0,) * 3).planes == ((0, 1),)
    thick = Grid((8, 8, 8), (1.0, 1.0, 5.0))
    assert (thick.thin, thick.planes) == ((0, 1), ((0, 1),))
    assert Grid((8, 8, 8), (1.0, 1.0, 3.0)).thin == (0, 1, 2)


def _sphere(grid: Grid, center_mm, radius_mm: float) -> np.ndarray:
    offsets = [np.asarray(o) * s - c for o, s, c in zip(grid.offsets(), grid.spacing_mm, center_mm, strict=True)]
    return sum(o**2 for o in offsets) <= radius_mm**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.5), (1.0, 1.0, 6.0)])
def test_a_rotated_and_enlarged_sphere_is_the_one_that_geometry_tells(spacing):
    grid = Grid((41, 37, 33), spacing)
    center, radius = np.array([5.0, -4.0, 3.0]), 7.0
    label = jnp.asarray(_sphere(grid, center, radius).astype(np.uint8))
    for key in KEYS[:3]:
        matrix = rotation_matrix(key, Rotation(1.0, 40.0), grid)
        in_mm = np.asarray(matrix) * np.array(spacing)[:, None] / np.array(spacing)[None, :]
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-6)
        found = np.asarray(nearest(label, sources(grid, matrix, NONE)))
        expected = _sphere(grid, in_mm.T @ center, radius)
        assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9
        assert set(np.unique(found)) == {0, 1}
    if spacing[2] > 3:
        assert np.asarray(matrix)[2].tolist() == [0, 0, 1]
        return
    larger = np.asarray(nearest(label, sources(grid, jnp.eye(3) / 1.25, NONE)))
    expected = _sphere(grid, 1.25 * center, 1.25 * radius)
    assert 2 * (larger & expected).sum() / (larger.sum() + expected.sum()) > 0.9


@pytest.mark.parametrize(
    ("sides", "spacing", "most"), [((9, 9, 9), 1.0, 30), ((9, 9), 1.0, 180), ((9, 20), 1.0, 15), ((9, 9, 9), 4.0, 180)]
)
def test_angles_are_the_published_ones(sides, spacing, most):
    grid = Grid(sides, (1.0,) * (len(sides) - 1) + (spacing,))
    matrices = jax.vmap(lambda key: rotation_matrix(key, Rotation(1.0), grid))(KEYS)
    # The last turn is in the plane of the last two thin axes; alone where there is one plane.
    angles = np.degrees(np.arccos(np.clip((np.trace(matrices, axis1=1, axis2=2) - len(sides) + 2) / 2, -1, 1)))
    assert 0.9 * most < angles.max() <= (most + 0.1 if most != 30 else 90)


@pytest.mark.slow
def test_nothing_drawn_moves_nothing():
    grid = Grid((6, 5, 4), (1.0, 1.7, 2.3))
    image = jax.random.normal(KEYS[0], (6, 5, 4, 2))
    matrix = rotation_matrix(KEYS[1], Rotation(0.0), grid) / magnification(KEYS[2], Scaling(0.0))
    places = sources(grid, matrix, displacement(KEYS[3], Elastic(0.0), grid))
    np.testing.assert_array_equal(interpolated(image, places), image)


def test_between_voxels_values_are_linear_and_beyond_the_patch_is_background():
    image = jnp.asarray(np.indices((4, 5)).sum(0)[..., None] + 1.0, jnp.float32)
    places = [jnp.asarray([0.25, 1.5, -0.5, 3.5, -2.0]), jnp.asarray([0.5, 2.75, 1.0, 0.0, 1.0])]
    np.testing.assert_allclose(interpolated(image, places)[:, 0], [1.75, 5.25, 1.0, 2.0, 0.0], rtol=1e-6)
    label = jnp.asarray(np.arange(20).reshape(4, 5), jnp.uint8)
    found = nearest(label, [jnp.asarray([0.4, 2.6, -0.6, 3.4]), jnp.asarray([0.6, 3.6, 0.0, 4.6])])
    assert (found.tolist(), found.dtype) == ([1, 19, 0, 0], jnp.uint8)
    # Of an example without a label nothing is known beyond it either.
    assert nearest(jnp.full((4, 5), 255), [jnp.asarray([0.0, -3.0])] * 2).tolist() == [255, 255]


@pytest.mark.slow
def test_displacements_keep_their_limit_never_fold_and_move_stacks_of_thick_slices_as_one():
    grid = Grid((30, 20, 10), (1.0, 2.0, 2.0))
    settings = Elastic(1.0, 7.0, 20.0)
    for key in KEYS[:5]:
        moved = [np.asarray(one) * side for one, side in zip(displacement(key, settings, grid), (1, 2, 2), strict=True)]
        assert 0.5 < max(np.abs(one).max() for one in moved) <= 7.0
        places = [np.asarray(o) * s + m for o, s, m in zip(grid.offsets(), grid.spacing_mm, moved, strict=True)]
        slopes = np.stack([np.stack(np.gradient(one, 1.0, 2.0, 2.0)) for one in places])
        assert np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1))).min() > 0
    thick = Grid((30, 20, 10), (1.0, 1.0, 5.0))
    moved = displacement(KEYS[0], Elastic(1.0), thick)
    assert moved[2].shape == ()
    np.testing.assert_array_equal(moved[0], np.broadcast_to(moved[0][..., :1], moved[0].shape))


def test_what_a_patch_cannot_have_is_refused():
    even, uneven = Grid((8, 8, 8), (1.0,) * 3), Grid((8, 6, 4), (1.0,) * 3)
    check_space(even, turns=True, rotates=True, elastic=Elastic())
    check_space(uneven, turns=False, rotates=True, elastic=None)
    refused("the patch of 8 x 6 x 4 voxels has none", check_space, uneven, turns=True, rotates=True, elastic=None)
    lines = Grid((8, 8, 8), (1.0, 5.0, 5.0))
    refused("voxels of 1 x 5 x 5 mm are thick", check_space, lines, turns=False, rotates=True, elastic=None)
    folding = Elastic(0.2, 9.0, 20.0)
    refused(
        "move by less than 8.1 mm, and most_mm is 9", check_space, even, turns=False, rotates=False, elastic=folding
    )
