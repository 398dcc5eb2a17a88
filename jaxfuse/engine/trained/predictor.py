"""Predictions of whole cases by trained phases, in tiles as large as a limit of memory allows."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax

from jaxfuse.config import Phase
from jaxfuse.data.slices import AXIAL
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.trained.passes import PATCHES, Passes, way_of
from jaxfuse.errors import UserError
from jaxfuse.inference.large_tiles import LargeTiles
from jaxfuse.learning.system import System, fuses_alone
from jaxfuse.patches import output_sides
from jaxfuse.prediction.predictor import CasePredictor, Memory, Network, TileRule, Way

# Sides of whole pictures are filled up to multiples of it, so that few programs serve pictures of many sizes.
_COARSE = 16


def case_predictor(
    system: System, phase: Phase, *, axis: int = AXIAL, passes: Passes = PATCHES, where: Placement | None = None
) -> CasePredictor:
    """Returns the prediction of cases by a System, compiled for as few canvases as serve them.

    Tiles have the size of the training patch, so that instance norms see what they saw in training. Networks of valid
    convolutions, whose answer does not depend on the tile, may be given a limit of memory, and then use the largest
    tiles that pay.

    Args:
        axis: that of the slices that a 2D network was trained on.
        passes: what replaces the settings of the phase's validation; `whole` is not heeded.
        where: devices that share each tile, a slab of its first axis on each; None: one device.

    Raises:
        UserError: tiles cannot be divided so, or an option means nothing to the network (`way_of`).
    """
    programs, way = Programs(system, where or one_device()), way_of(passes, phase, system, axis)
    _check_slabs(phase, system, programs.placement.slabs, chosen=bool(way.limit_bytes))
    network = Network(
        predict=system.predict,
        primary=system.primary,
        ndim=system.geometry.ndim,
        margin=system.geometry.margin,
        tile_batch=phase.validation.tile_batch,
        centered=phase.sampling.centered,
        over_canvas=programs.over_canvas,
        memory_bytes=programs.placement.memory_bytes,
    )
    return CasePredictor(network, axis, way, _tile_rule(programs, phase, way))


def _check_slabs(phase: Phase, system: System, slabs: int, *, chosen: bool) -> None:
    """Refuses tiles that cannot be divided among devices; those that are `chosen` by their memory always can."""
    if slabs == 1:
        return
    if system.geometry.ndim != 3:
        raise UserError(
            f"space is {slabs}, but the network of phase {phase.name} predicts pictures, which fit one device; "
            "leave it out"
        )
    if phase.patch[0] % slabs and not chosen:
        other = ", or memory_mb for larger tiles" if system.geometry.margin else ""
        raise UserError(
            f"space is {slabs}, but phase {phase.name} predicts in tiles of {' x '.join(map(str, phase.patch))}, which "
            f"cannot be divided evenly among {slabs} devices along their first axis; give another space{other}"
        )


def _tile_rule(programs: Programs, phase: Phase, way: Way) -> TileRule:
    """Tiles of the training patch, or large ones within a limit of memory in bytes, chosen when they are asked for.

    A system that fuses pictures and does nothing else sees them whole, as where files are fused.
    """
    large: LargeTiles | None = None
    geometry = programs.system.geometry
    coarse = math.lcm(geometry.divisor, _COARSE)

    def tile_of(weights: Any, sides: tuple[int, ...], channels: int, memory: Memory) -> tuple[int, ...]:
        nonlocal large
        if fuses_alone(programs.system):
            return tuple(-(-side // coarse) * coarse for side in sides)
        if not way.limit_bytes:
            return output_sides(phase.patch, geometry.margin)
        if large is None:
            # Shapes, not the weights themselves, which would be kept alive, and bound to no devices.
            anywhere = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
            count = partial(programs.counted_tile_program, anywhere, phase.validation.tile_batch, channels)
            divisor = math.lcm(geometry.divisor, programs.placement.slabs)
            large = LargeTiles(count, geometry.ndim, geometry.margin, divisor, way.overlap, way.limit_bytes)
        return large(sides, memory)

    return tile_of
