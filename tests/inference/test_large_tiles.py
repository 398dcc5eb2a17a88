"""The tile with the fewest operations within a limit of memory."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.inference.large_tiles import MEGABYTE, Growth, LargeTiles, choices, choose_tile, counted
from jaxfuse.nn.conv import implementation
from jaxfuse.patches import tile_volume
from tests.refusals import refused
from tests.tiny_systems import valid_system

INFANT = (144, 192, 256)
MARGIN = 9


def hyperdense(sides):
    """Multiplications of HyperDense-Net for two modalities and four classes, from the widths of its paper."""
    total, width = 0, 0
    for layer, filters in enumerate([25] * 3 + [50] * 3 + [75] * 3, start=1):
        voxels = math.prod(side - 2 * layer for side in sides)
        total += 2 * 27 * max(width, 1) * filters * voxels
        width += 2 * filters
    widths = (2 * width, 400, 200, 150, 4)
    return total + voxels * sum(a * b for a, b in itertools.pairwise(widths))


HYPERDENSE = Growth.through({side: hyperdense((side,) * 3) for side in (19, 23, 27, 31)}, 3)


def cost(shape, tile, growth, margin=MARGIN):
    count = len(tile_volume(shape, tile, margin=(margin,) * len(shape)))
    return count * growth([side + 2 * margin for side in tile])


@pytest.mark.parametrize("sides", [(19, 19, 19), (27, 19, 45), (63, 66, 82), (162, 210, 274)])
def test_operations_of_any_tile_follow_from_four_cubes(sides):
    assert HYPERDENSE(sides) == pytest.approx(hyperdense(sides), rel=1e-9)


def test_squares_have_one_coefficient_less():
    growth = Growth.through({5: 3 * 3, 6: 4 * 4, 9: 7 * 7}, 2)  # (x - 2)(y - 2)
    assert growth.coefficients == pytest.approx((4, -2, 1))
    np.testing.assert_allclose(growth(np.ix_([3, 5], [4, 7, 10])), [[2, 5, 8], [6, 15, 24]])


def test_overhang_counts_against_large_cubes():
    """Operations of the paper's outputs of 9^3, relative to those of larger ones."""
    paper = cost(INFANT, (9, 9, 9), HYPERDENSE)
    gains = [paper / cost(INFANT, tile, HYPERDENSE) for tile in ((45, 45, 45), (48, 48, 64), INFANT)]
    assert gains == pytest.approx([1.58, 2.52, 2.85], abs=0.005)


def test_choices_divide_each_axis_into_equal_parts():
    one = Growth((1.0, 0.0, 0.0))
    # Inputs, 4 voxels larger, must be multiples of the divisor.
    for divisor, sides, parts in (
        (1, ((1, 2, 3, 4, 7), (1, 2, 3, 4, 5, 10)), ([7, 4, 3, 2, 1], [10, 5, 4, 3, 2, 1])),
        (4, ((4, 8), (4, 8, 12)), ([2, 1], [3, 2, 1])),
    ):
        found = choices((7, 10), 2, divisor=divisor, operations=one, traffic=one)
        assert found.sides == sides
        np.testing.assert_array_equal(found.cost, np.outer(*parts))


@pytest.mark.parametrize("limit", [1, 3, 10, 30, 100, 1000])
@pytest.mark.parametrize("first_share", [1e-3, 1.0, 1e3])
def test_the_choice_is_as_good_as_the_best_of_all(limit, first_share):
    """Memory is nearly, not quite, in proportion to the values read and written; few tiles are asked for."""
    shape, asked = (60, 33, 41), []
    found = choices(shape, MARGIN, divisor=1, operations=HYPERDENSE, traffic=HYPERDENSE)

    def memory(tile):
        asked.append(tile)
        return _memory(tile)

    tile, _ = choose_tile(found, memory, limit_bytes=limit * 2**30, share=first_share)
    assert _memory(tile) <= limit * 2**30
    assert len(asked) == len(set(asked)) <= 6
    kept = [cost(shape, t, HYPERDENSE) for t in itertools.product(*found.sides) if _memory(t) <= limit * 2**30]
    assert cost(shape, tile, HYPERDENSE) <= 1.2 * min(kept)


def _memory(tile):
    voxels = math.prod(side + 2 * MARGIN for side in tile)
    return int(0.5 * hyperdense([side + 2 * MARGIN for side in tile]) ** 0.97) + 100 * voxels


def test_a_limit_below_the_smallest_tile_is_refused():
    found = choices((9, 9, 9), MARGIN, divisor=1, operations=HYPERDENSE, traffic=HYPERDENSE)
    told = "the memory for a tile is limited to 5 MB, and the smallest, of 1 x 1 x 1 voxels, takes 7 MB; allow as much"
    refused(told, choose_tile, found, lambda tile: 7 * MEGABYTE, limit_bytes=5 * MEGABYTE)


SYSTEM = valid_system(3)
BATCH = {"image": jnp.zeros((1, 9, 9, 9, 1)), "label": jnp.zeros((1, 3, 3, 3), jnp.int32)}
STATE = SYSTEM.init(jax.random.key(0), BATCH)
PREDICT = jax.jit(SYSTEM.predict)


def lower(sides, predict=PREDICT):
    return predict.lower(STATE, {"image": jax.ShapeDtypeStruct((1, *sides, 1), jnp.float32)})


def taken_by(tile, asked=None):
    if asked is not None:
        asked.append(tile)
    needs = lower(tuple(side + 6 for side in tile)).compile().memory_analysis()
    return needs.temp_size_in_bytes + needs.output_size_in_bytes + needs.argument_size_in_bytes


def count(sides):
    """Counts an accelerator's convolutions; the CPU's compute edges within planes that they throw away."""
    with implementation("native"):
        return lower(sides, predict=jax.jit(lambda state, inputs: SYSTEM.predict(state, inputs)))


def test_operations_of_a_program_follow_from_four_small_ones():
    operations, traffic = counted(count, 3, margin=3, divisor=1)
    for sides in ((40, 9, 23), (33, 33, 33)):
        analysis = count(sides).cost_analysis()
        assert operations(sides) == pytest.approx(analysis["flops"], rel=1e-3)
        assert traffic(sides) == pytest.approx(analysis["bytes accessed"], rel=1e-3)


def test_programs_keep_the_limit_and_are_used_again():
    asked = []
    tiles = LargeTiles(count, 3, 3, 1, 0.0, 1 * MEGABYTE)
    taken = partial(taken_by, asked=asked)
    first = tiles((40, 30, 35), taken)
    assert taken_by(first) <= MEGABYTE
    assert tiles.cost((40, 30, 35), first) < 0.4 * tiles.cost((40, 30, 35), (3, 3, 3))
    compiled = len(asked)
    assert tiles((40, 30, 35), taken) == tiles((40, 30, 34), taken) == first  # one slice less
    assert len(asked) == compiled
    thin = tiles((120, 120, 2), taken)
    assert thin[2] <= first[2]
    assert tiles.cost((120, 120, 2), thin) <= tiles.cost((120, 120, 2), first)
    assert tiles((40, 30, 35), taken) == first
