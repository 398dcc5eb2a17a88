"""Large tiles for networks of valid convolutions: the fewest operations for a volume within a limit of memory.

Such a network's answer for a voxel depends on the voxels around it alone, not on the tile that it was part of. Small
tiles compute the voxels of their margins again and again; large ones take memory, and overhang the volume. (At the
sizes of the HyperFusionNet paper, outputs of 45^3 take 1.6 times fewer operations for 144 x 192 x 256 voxels than
the paper's 9^3, but outputs of 48 x 48 x 64, which fit the volume, 2.5 times fewer.) Fewer operations are less time
where arithmetic takes the time: on a CPU core HyperFusionNet of the paper's width took 0.4 of the time in outputs of
27 x 27 x 54.

Operations are those that XLA counts in the program of a few small tiles, without compiling it, and continued from
there to any tile (`Growth`): a program whose layers lose equally many voxels along all axes. Memory is what XLA says of
the compiled program of a tile that promises to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.stages import Lowered

from jaxfuse.errors import UserError
from jaxfuse.patches import tile_volume

Sides = tuple[int, ...]
# The program for tiles of these input sides, not yet compiled.
Lower = Callable[[Sides], Lowered]

MEGABYTE = 2**20
# Memory as a share of all values that the operations of a program read and write; found for HyperFusionNet. A guess
# to begin with: what a compiled program takes replaces it.
_FIRST_SHARE = 1 / 64
# A tile whose program is there already is used again where it costs at most so much more than the best.
_WORTH_A_PROGRAM = 1.25
# A tile is good enough if none promises to cost less than this share of it.
_GOOD_ENOUGH = 0.95


@dataclass(frozen=True)
class Growth:
    """A number that grows with a tile: c0 + c1 (x + y + z) + c2 (x y + y z + z x) + c3 x y z in its input sides.

    Any sum over layers of a constant times the voxels of that layer's output is one, if layer by layer all axes lose
    equally many voxels: operations are, and so is what they read and write.
    """

    coefficients: tuple[float, ...]

    @classmethod
    def through(cls, values: Mapping[int, float], ndim: int) -> Growth:
        """The one with these values for cubes (squares) of these sides, one more of them than there are axes."""
        rows = [[math.comb(ndim, k) * float(side) ** k for k in range(ndim + 1)] for side in values]
        return cls(tuple(np.linalg.solve(np.array(rows), np.array(list(values.values()), float)).tolist()))

    def __call__(self, sides: Sequence[Any]) -> Any:
        """Its value for input sides: numbers, or arrays of them that broadcast."""
        sums: list[Any] = [1.0]
        for side in sides:
            side = np.asarray(side, float)
            sums = [a + b * side for a, b in zip([*sums, 0.0], [0.0, *sums], strict=True)]
        return sum(c * s for c, s in zip(self.coefficients, sums, strict=True))


@dataclass(frozen=True)
class Choices:
    """Every sensible tile of one volume, with what the whole volume costs in such tiles.

    Attributes:
        sides: output sides to choose from, per axis.
        cost: operations, an axis of this array per axis of the volume.
        traffic: bytes that one tile reads and writes.
    """

    sides: tuple[Sides, ...]
    cost: np.ndarray
    traffic: np.ndarray

    def best(self, allowed: np.ndarray) -> Sides | None:
        """The cheapest of the allowed tiles, None if there is none."""
        if not allowed.any():
            return None
        return self.tile(int(np.where(allowed, self.cost, np.inf).argmin()))

    def tile(self, index: int) -> Sides:
        """The tile by its place in the flattened arrays."""
        place = np.unravel_index(index, self.cost.shape)
        return tuple(axis[i] for axis, i in zip(self.sides, place, strict=True))

    def at(self, tile: Sides) -> tuple[int, ...]:
        """Where a tile stands in the arrays."""
        return tuple(axis.index(side) for axis, side in zip(self.sides, tile, strict=True))


def choices(
    shape: Sides, margin: int, *, divisor: int, operations: Growth, traffic: Growth, overlap: float = 0.0
) -> Choices:
    """The tiles of a volume that divide an axis into some number of equal parts, rounded up to whole voxels.

    Input sides, larger by twice the margin, are multiples of `divisor`.
    """

    def of_axis(length: int) -> Sides:
        parts = {-(-length // count) for count in range(1, length + 1)}
        return tuple(sorted({side + -(side + 2 * margin) % divisor for side in parts}))

    sides = tuple(of_axis(length) for length in shape)
    inputs = np.ix_(*(np.array(axis) + 2 * margin for axis in sides))
    tiles = np.ix_(*(_counts(n, axis, margin, overlap) for n, axis in zip(shape, sides, strict=True)))
    every: Any = math.prod(tiles)  # broadcasts to the number of tiles for each choice
    return Choices(sides, every * operations(inputs), np.broadcast_to(traffic(inputs), every.shape))


def _counts(length: int, sides: Sides, margin: int, overlap: float) -> np.ndarray:
    return np.array([len(tile_volume((length,), (side,), overlap=overlap, margin=(margin,))) for side in sides], float)


def choose_tile(
    found: Choices, memory: Callable[[Sides], int], *, limit_bytes: int, share: float = _FIRST_SHARE
) -> tuple[Sides, float]:
    """The tile with the fewest operations for the whole volume whose program keeps a limit; and the share seen.

    `memory` gives the bytes that the program of a tile takes, and is asked for few tiles: it may compile. `share` is
    what part of its traffic a program is thought to keep in memory; a tile that was asked for tells better.

    Raises:
        UserError: even the smallest tile takes more.
    """
    best: Sides | None = None
    too_large = np.zeros(found.cost.shape, bool)
    smallest = found.tile(int(found.traffic.argmin()))
    while True:
        allowed = (share * found.traffic <= limit_bytes) & ~too_large
        promised = found.best(allowed)
        if best is not None and (promised is None or _ratio(found, promised, best) > _GOOD_ENOUGH):
            return best, share
        tile = smallest if promised is None else promised
        taken = memory(tile)
        share = taken / float(found.traffic[found.at(tile)])
        if taken <= limit_bytes:
            best = tile
        elif tile == smallest:
            raise UserError(
                f"the memory for a tile is limited to {limit_bytes / MEGABYTE:.0f} MB, and the smallest, of "
                f"{' x '.join(map(str, tile))} voxels, takes {taken / MEGABYTE:.0f} MB; allow as much"
            )
        else:
            too_large |= found.traffic >= found.traffic[found.at(tile)]


def _ratio(found: Choices, tile: Sides, other: Sides) -> float:
    return float(found.cost[found.at(tile)] / found.cost[found.at(other)])


@dataclass
class LargeTiles:
    """Output tiles for volumes of any shape; remembers which programs are compiled, and uses them again.

    Attributes:
        count: the program of a batch of tiles, not bound to a device, as `Growth` needs it.
        program: the same as it will be called.
        margin, divisor: of the network's geometry.
        overlap: least fraction of a tile shared with its neighbor.
        limit_bytes: what a program may take: its arguments, outputs and what it keeps in between.
    """

    count: Lower
    program: Lower
    ndim: int
    margin: int
    divisor: int
    overlap: float
    limit_bytes: int
    _share: float = _FIRST_SHARE
    _taken: dict[Sides, int] = field(default_factory=dict)
    _chosen: dict[Sides, Sides] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._operations, self._traffic = counted(self.count, self.ndim, margin=self.margin, divisor=self.divisor)

    def __call__(self, shape: Sides) -> Sides:
        """The tile for a volume of this shape, always the same one for one shape."""
        if shape not in self._chosen:
            self._chosen[shape] = self._choose(shape)
        return self._chosen[shape]

    def cost(self, shape: Sides, tile: Sides) -> float:
        """Operations for a volume in tiles of these output sides, counted over whole tiles."""
        margin = (self.margin,) * self.ndim
        count = len(tile_volume(shape, tile, overlap=self.overlap, margin=margin))
        return count * self._operations(self._input(tile))

    def _choose(self, shape: Sides) -> Sides:
        found = choices(
            shape,
            self.margin,
            divisor=self.divisor,
            operations=self._operations,
            traffic=self._traffic,
            overlap=self.overlap,
        )
        compiled = [tile for tile, taken in self._taken.items() if taken <= self.limit_bytes]
        if compiled:
            used = min(compiled, key=lambda tile: self.cost(shape, tile))
            promised = found.best(self._share * found.traffic <= self.limit_bytes)
            if promised is None or self.cost(shape, used) <= _WORTH_A_PROGRAM * self.cost(shape, promised):
                return used
        tile, self._share = choose_tile(found, self._memory, limit_bytes=self.limit_bytes, share=self._share)
        return tile

    def _memory(self, tile: Sides) -> int:
        if tile not in self._taken:
            needs: Any = self.program(self._input(tile)).compile().memory_analysis()
            parts = (needs.argument_size_in_bytes, needs.output_size_in_bytes, needs.temp_size_in_bytes)
            self._taken[tile] = sum(int(part) for part in parts)
        return self._taken[tile]

    def _input(self, tile: Sides) -> Sides:
        return tuple(side + 2 * self.margin for side in tile)


def counted(count: Lower, ndim: int, *, margin: int, divisor: int) -> tuple[Growth, Growth]:
    """Operations of a program, and bytes that they read and write before any are fused, as functions of the tile.

    Counted for the CPU whatever the device: only there XLA counts without compiling.
    """
    least = (2 * margin // divisor + 1) * divisor
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "counting a network's operations needs JAX's CPU backend beside the accelerator's, and JAX_PLATFORMS "
            "leaves it out; add cpu to it, or set memory_mb to 0 for tiles of the training patch"
        ) from error
    operations, traffic = {}, {}
    with jax.default_device(host):
        for side in (least + 4 * divisor * k for k in range(ndim + 1)):
            analysis: Any = count((side,) * ndim).cost_analysis()
            operations[side], traffic[side] = analysis["flops"], analysis["bytes accessed"]
    return Growth.through(operations, ndim), Growth.through(traffic, ndim)
