"""Large tiles for networks with valid convolutions: the fewest operations for a volume within a limit of memory.

Such a network gives the same result for any tile size. Small tiles compute the voxels of their margins again and again;
large ones take memory, and overhang the volume. At the sizes of the HyperFusionNet paper (144 x 192 x 256 voxels),
outputs of 45^3 take 1.6 times fewer operations than the paper's 9^3, and outputs of 48 x 48 x 64, which fit the volume,
2.5 times fewer. Where arithmetic takes the time, that is time saved: on a CPU core HyperFusionNet of the paper's width
took 0.4 of the time in outputs of 27 x 27 x 54.

XLA counts the operations of a few small tiles without compiling their programs; `Growth` extends the counts to any
tile. XLA tells the memory of a program that it has compiled, so only tiles that promise to fit are compiled.
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
# Input sides of a tile -> its program, not yet compiled.
Lower = Callable[[Sides], Lowered]
# Output sides of a tile -> bytes that its program takes beside the whole image. It compiles the program that will run.
Memory = Callable[[Sides], int]

MEGABYTE = 2**20
# Memory as a share of all values that the operations of a program read and write, found for HyperFusionNet. It is the
# first guess; the first compiled program replaces it.
_FIRST_SHARE = 1 / 64
# A tile whose program is compiled already is used again if its cost is at most this multiple of the best.
_WORTH_A_PROGRAM = 1.25
# A tile is good enough if no other promises a cost below this share of its own.
_GOOD_ENOUGH = 0.95


@dataclass(frozen=True)
class Growth:
    """A quantity as a function of a tile's input sides: c0 + c1 (x + y + z) + c2 (x y + y z + z x) + c3 x y z.

    Operations and memory traffic have this form when every layer crops all axes equally.
    """

    coefficients: tuple[float, ...]

    @classmethod
    def through(cls, values: Mapping[int, float], ndim: int) -> Growth:
        """Fits the values for cubes (or squares) of these sides, one more of them than there are axes."""
        rows = [[math.comb(ndim, k) * float(side) ** k for k in range(ndim + 1)] for side in values]
        return cls(tuple(np.linalg.solve(np.array(rows), np.array(list(values.values()), float)).tolist()))

    def __call__(self, sides: Sequence[Any]) -> Any:
        """Returns the value for input sides, which are numbers or arrays that broadcast."""
        sums: list[Any] = [1.0]
        for side in sides:
            side = np.asarray(side, float)
            sums = [a + b * side for a, b in zip([*sums, 0.0], [0.0, *sums], strict=True)]
        return sum(c * s for c, s in zip(self.coefficients, sums, strict=True))


@dataclass(frozen=True)
class Choices:
    """Every sensible tile of one volume, with its cost.

    Attributes:
        sides: output sides to choose from, per axis.
        cost: operations for the whole volume in such tiles; one axis of the array per axis of the volume.
        traffic: bytes that one tile reads and writes, in the same order.
    """

    sides: tuple[Sides, ...]
    cost: np.ndarray
    traffic: np.ndarray

    def best(self, allowed: np.ndarray) -> Sides | None:
        """Returns the cheapest of the allowed tiles, None if there is none."""
        if not allowed.any():
            return None
        return self.tile(int(np.where(allowed, self.cost, np.inf).argmin()))

    def tile(self, index: int) -> Sides:
        """Returns the tile at a place in the flattened arrays."""
        place = np.unravel_index(index, self.cost.shape)
        return tuple(axis[i] for axis, i in zip(self.sides, place, strict=True))

    def at(self, tile: Sides) -> tuple[int, ...]:
        """Returns the place of a tile in the arrays."""
        return tuple(axis.index(side) for axis, side in zip(self.sides, tile, strict=True))


def choices(
    shape: Sides, margin: int, *, divisor: int, operations: Growth, traffic: Growth, overlap: float = 0.0
) -> Choices:
    """Lists the tiles that divide each axis of a volume into equal parts, rounded up to whole voxels.

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
    found: Choices, memory: Memory, *, limit_bytes: int, share: float = _FIRST_SHARE
) -> tuple[Sides, float]:
    """Chooses the tile with the fewest operations for the whole volume whose program keeps a limit.

    Args:
        memory: tile -> bytes that its program takes. It may compile, so it is asked for few tiles.
        share: the part of its traffic that a program is thought to keep in memory.

    Returns:
        The tile, and the share that was seen last.

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
    """Output tiles for volumes of any shape; programs that are compiled already are used again.

    Attributes:
        count: the program of a batch of tiles whose operations are counted, not bound to a device.
        margin, divisor: of the network's geometry.
        overlap: least fraction of a tile shared with its neighbor.
        limit_bytes: memory for a program beside the whole image: its weights and everything in between.
    """

    count: Lower
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

    def __call__(self, shape: Sides, memory: Memory) -> Sides:
        """Returns the tile for a volume of this shape; the answer for one shape never changes."""
        if shape not in self._chosen:
            self._chosen[shape] = self._choose(shape, memory)
        return self._chosen[shape]

    def cost(self, shape: Sides, tile: Sides) -> float:
        """Counts the operations for a volume in tiles of these output sides, whole tiles throughout."""
        margin = (self.margin,) * self.ndim
        count = len(tile_volume(shape, tile, overlap=self.overlap, margin=margin))
        return count * self._operations(self._input(tile))

    def _choose(self, shape: Sides, memory: Memory) -> Sides:
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

        def taken(tile: Sides) -> int:
            if tile not in self._taken:
                self._taken[tile] = memory(tile)
            return self._taken[tile]

        tile, self._share = choose_tile(found, taken, limit_bytes=self.limit_bytes, share=self._share)
        return tile

    def _input(self, tile: Sides) -> Sides:
        return tuple(side + 2 * self.margin for side in tile)


def counted(count: Lower, ndim: int, *, margin: int, divisor: int) -> tuple[Growth, Growth]:
    """Returns a program's operations, and the bytes that they read and write, as functions of the tile.

    They are counted for the CPU whatever the device, since only there XLA counts without compiling; bytes are those
    before operations are fused.

    Raises:
        UserError: JAX has no CPU backend.
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
