"""Predictions of whole cases: their tiles, as large as a limit of memory allows, and one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxfuse.config import Phase
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.slices import AXIAL, pictures, volume_of
from jaxfuse.engine.programs import Programs, bound_shapes
from jaxfuse.errors import UserError
from jaxfuse.inference.large_tiles import MEGABYTE, LargeTiles
from jaxfuse.inference.tiling import Alongside, predict_stack, predict_volume
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.patches import Tiling, output_sides, tile_volume

# Weights, sides of a volume or picture, and its channels -> sides of the output tile for it.
TileRule = Callable[[State, tuple[int, ...], int], tuple[int, ...]]


@dataclass(frozen=True)
class CasePredictor:
    """The prediction of whole cases by one phase.

    Attributes:
        programs: of the phase's System.
        axis: a 2D network goes over a volume one slice across this array axis after the other.
        overlap: least share of a tile in common with its neighbor.
    """

    programs: Programs
    phase: Phase
    axis: int
    overlap: float
    tile_of: TileRule

    def __call__(
        self, weights: State, case: PreparedCase | Prepared, *, alongside: Alongside | None = None
    ) -> dict[str, np.ndarray]:
        """Predicts the named outputs (*space k) of a case on its cropped grid.

        Outputs that `alongside` makes of single tiles are put together like those of the network.
        """
        image, batch = np.asarray(case.image), self.phase.validation.tile_batch

        def patches(tiles: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
            made = self.programs.predict(weights, tiles)
            return made if alongside is None else {**made, **alongside(tiles, made)}

        if self.programs.system.geometry.ndim == image.ndim - 1:
            return predict_volume(patches, image, self._tiling(weights, image.shape), batch=batch)
        stack = pictures(image, self.axis)
        made = predict_stack(patches, stack, self._tiling(weights, stack.shape), batch=batch)
        return {name: volume_of(values, self.axis) for name, values in made.items()}

    def _tiling(self, weights: State, shape: tuple[int, ...]) -> Tiling:
        """The tiles of an image (*space m); a stack of pictures has an axis more, which tiles of one picture divide."""
        geometry, (*sides, channels) = self.programs.system.geometry, shape
        stacked = len(sides) - geometry.ndim
        return tile_volume(
            sides,
            (1,) * stacked + self.tile_of(weights, tuple(sides[stacked:]), channels),
            overlap=self.overlap,
            margin=(0,) * stacked + (geometry.margin,) * geometry.ndim,
            centered=self.phase.sampling.centered,
        )


def case_predictor(
    system: System,
    phase: Phase,
    *,
    axis: int = AXIAL,
    overlap: float | None = None,
    memory_mb: int | None = None,
) -> CasePredictor:
    """Returns the prediction of cases by a System, compiled once.

    Tiles have the size of the training patch, so that instance norms see what they saw in training. Networks of valid
    convolutions, whose answer does not depend on the tile, may be given a limit of memory, and then use the largest
    tiles that pay.

    Args:
        axis: that of the slices that a 2D network was trained on.
        overlap: replaces that of the phase's validation.
        memory_mb: replaces that of the phase's validation.
    """
    programs, limit = Programs(system), memory_limit(phase, system, memory_mb)
    overlap = phase.validation.overlap if overlap is None else overlap
    return CasePredictor(programs, phase, axis, overlap, _tile_rule(programs, phase, overlap=overlap, limit=limit))


def memory_limit(phase: Phase, system: System, memory_mb: int | None = None) -> int:
    """The memory for a tile in bytes; 0 where tiles are the training patch.

    Raises:
        UserError: a limit is given for a network that knows one size of tile only.
    """
    limit = phase.validation.memory_mb if memory_mb is None else memory_mb
    if limit and not system.geometry.margin:
        raise UserError(
            f"memory_mb is {limit}, but the network of phase {phase.name} has no valid convolutions and predicts in "
            "tiles of its training patch; leave it at 0"
        )
    return limit * MEGABYTE


def _tile_rule(programs: Programs, phase: Phase, *, overlap: float, limit: int) -> TileRule:
    """Tiles of the training patch, or large ones within a limit of memory in bytes, chosen when they are asked for."""
    large: LargeTiles | None = None
    geometry = programs.system.geometry

    def tile_of(weights: State, sides: tuple[int, ...], channels: int) -> tuple[int, ...]:
        nonlocal large
        if not limit:
            return output_sides(phase.patch, geometry.margin)
        if large is None:
            # Shapes, not the weights themselves, which would be kept alive.
            anywhere, here = jax.tree.map(jax.typeof, weights), bound_shapes(weights)
            count = partial(programs.counted_tile_program, anywhere, phase.validation.tile_batch, channels)
            program = partial(programs.tile_program, here, phase.validation.tile_batch, channels)
            large = LargeTiles(count, program, geometry.ndim, geometry.margin, geometry.divisor, overlap, limit)
        return large(sides)

    return tile_of
