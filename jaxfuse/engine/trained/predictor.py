"""Predictions of whole cases: their tiles, as large as a limit of memory allows, and one program for many cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Any

import jax
import numpy as np
from jax.stages import Wrapped

from jaxfuse.config import Phase
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.slices import AXIAL, order_of, pictures, volume_of
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.programs import Programs, bound_shapes
from jaxfuse.engine.trained.passes import PATCHES, Passes, Way, seen_axes, way_of
from jaxfuse.errors import UserError
from jaxfuse.inference.canvas import Canvases, Laid, lay, windows_of
from jaxfuse.inference.large_tiles import MEGABYTE, LargeTiles, Memory
from jaxfuse.inference.tiling import Asked, Windows, canvas_bytes, output_channels
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.patches import Tiling, output_sides, tile_volume

# Weights, sides of a volume or picture, its channels, and the memory of a tile -> sides of the output tile for it.
TileRule = Callable[[State, tuple[int, ...], int, Memory], tuple[int, ...]]


@dataclass(frozen=True)
class OnDevice:
    """The outputs of one case on their canvas, which may still be computed.

    Attributes:
        outputs: by name, (*canvas k) or (*canvas).
        laid: the place of the image on the canvas, a stack of pictures where there is an axis.
        axis: the volume's array axis across which the pictures lie; None for volumes and single pictures.
    """

    outputs: Mapping[str, jax.Array]
    laid: Laid
    axis: int | None

    def on_host(self) -> dict[str, np.ndarray]:
        """Fetches the outputs, on the case's cropped grid."""
        for one in self.outputs.values():
            one.copy_to_host_async()
        found = {name: self.laid.cut(np.asarray(one)) for name, one in self.outputs.items()}
        return found if self.axis is None else {name: volume_of(one, self.axis) for name, one in found.items()}

    @property
    def shift(self) -> np.ndarray:
        """The first voxel of the volume on the canvas that is turned."""
        first = np.array(self.laid.lead, np.int32)
        if self.axis is None:
            return first
        far = np.array(self.laid.sides, np.int32) - first - np.array(self.laid.tiling.shape, np.int32)
        # Rows and columns of a picture run from the far ends of the volume's axes.
        return np.where([True, False, False], first, far)[np.argsort(order_of(self.axis))]


@dataclass(frozen=True)
class CasePredictor:
    """The prediction of whole cases by one phase, on the device that the weights lie on.

    Threads may share it, each for a device of its own: a program that one of them compiles serves the others.

    Attributes:
        programs: of the phase's System.
        axis: a 2D network goes over a volume one slice across this array axis after the other.
        way: the overlap of its tiles, the weights of their voxels, and mirrored passes.
    """

    programs: Programs
    phase: Phase
    axis: int
    way: Way
    tile_of: TileRule
    _compiled: dict[tuple[Windows, Asked], Wrapped] = field(default_factory=dict)
    _summed: dict[tuple[Windows, Asked], Mapping[str, int]] = field(default_factory=dict)
    _canvases: dict[Windows, Canvases] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock, repr=False)

    def __call__(self, weights: State, case: PreparedCase | Prepared, asked: Asked) -> dict[str, np.ndarray]:
        """Predicts the outputs of a case on its cropped grid: values (*space k), labels (*space)."""
        return self.on_device(weights, case, asked).on_host()

    def on_device(self, weights: State, case: PreparedCase | Prepared, asked: Asked) -> OnDevice:
        """Predicts as a call does, and leaves the outputs on the device.

        Raises:
            UserError: the whole image and the sums of its tiles do not fit there.
        """
        image = np.asarray(case.image)
        axis = None if self.programs.system.geometry.ndim == image.ndim - 1 else self.axis
        image = image if axis is None else pictures(image, axis)
        with self._lock:
            laid, windows = self._laid(weights, image.shape, asked)
            self._check_room(case.facts.id, weights, laid, windows, asked, channels=image.shape[-1])
            self._canvases[windows].keep(laid.sides)
            program = self._program(windows, asked)
        canvas, places = laid.image(image), laid.places(windows, self.way.overlap)
        places = places._replace(presence=np.array(case.facts.presence)) if case.facts.presence else places
        # One at a time, so that a program is compiled once; it works on when the call has returned.
        with self._lock:
            outputs = program(weights, canvas, places)
        return OnDevice(outputs, laid, axis)

    def program_for(self, weights: Any, shape: tuple[int, ...], asked: Asked) -> tuple[Wrapped, tuple[Any, ...]]:
        """Returns the program for images (*space m) of this shape, not yet compiled, and the shapes that it takes.

        Args:
            weights: a state without optimizers, or its shapes.
            shape: of a volume or picture; of the stack of pictures, where a 2D network goes over a volume.
        """
        laid, windows = self._laid(weights, shape, asked)
        return self._program(windows, asked), self._arguments(weights, laid, windows, shape[-1])

    def _program(self, windows: Windows, asked: Asked) -> Wrapped:
        if (windows, asked) not in self._compiled:
            self._compiled[windows, asked] = self.programs.over_canvas(windows, asked)
        return self._compiled[windows, asked]

    def _laid(self, weights: Any, shape: tuple[int, ...], asked: Asked) -> tuple[Laid, Windows]:
        """Lays the tiles of an image (*space m); a stack has an axis more, which tiles of one picture divide."""
        (*sides, channels), ndim = shape, self.programs.system.geometry.ndim
        stacked = len(sides) > ndim
        seen = seen_axes(self.programs.system.geometry, self.axis)
        mirror = [stacked + place for place, axis in enumerate(seen) if axis in self.way.mirror]
        options = {"stacked": stacked, "weighting": self.way.weighting, "mirror": mirror}

        def laid(tile: tuple[int, ...]) -> tuple[Laid, Windows]:
            tiling = self._tiling(tuple(sides), tile)
            windows = windows_of(tiling, self.phase.validation.tile_batch, **options)
            return lay(tiling, self._canvases.setdefault(windows, Canvases())), windows

        def memory(tile: tuple[int, ...]) -> int:
            return self._beside_canvas(weights, *laid(tile), asked, channels)

        return laid(self.tile_of(weights, tuple(sides[-ndim:]), channels, memory))

    def _tiling(self, sides: tuple[int, ...], tile: tuple[int, ...]) -> Tiling:
        geometry, stacked = self.programs.system.geometry, len(sides) - len(tile)
        return tile_volume(
            sides,
            (1,) * stacked + tile,
            overlap=self.way.overlap,
            margin=(0,) * stacked + (geometry.margin,) * geometry.ndim,
            centered=self.phase.sampling.centered,
        )

    def _arguments(self, weights: Any, laid: Laid, windows: Windows, channels: int) -> tuple[Any, ...]:
        canvas = (*(side + 2 * lost for side, lost in zip(laid.sides, windows.margin, strict=True)), channels)
        places = jax.tree.map(jax.typeof, laid.places(windows, self.way.overlap))
        return bound_shapes(weights), jax.ShapeDtypeStruct(canvas, np.float32), places

    def _on_canvas(self, weights: Any, laid: Laid, windows: Windows, asked: Asked, channels: int) -> int:
        """Bytes that lie on the device for the whole image."""
        if (windows, asked) not in self._summed:
            predict = self.programs.system.predict
            self._summed[windows, asked] = output_channels(predict, weights, windows, asked, channels)
        return canvas_bytes(laid.sides, windows, asked, channels=channels, summed=self._summed[windows, asked])

    def _beside_canvas(self, weights: Any, laid: Laid, windows: Windows, asked: Asked, channels: int) -> int:
        """Bytes that the program takes beside what lies there for the whole image; it is compiled."""
        lowered = self._program(windows, asked).lower(*self._arguments(weights, laid, windows, channels))
        needs: Any = lowered.compile().memory_analysis()
        taken = needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes
        return int(taken) - self._on_canvas(weights, laid, windows, asked, channels)

    def _check_room(
        self, case: str, weights: Any, laid: Laid, windows: Windows, asked: Asked, *, channels: int
    ) -> None:
        limit = self.programs.placement.memory_bytes()
        if limit is None:
            return
        needed = self._on_canvas(weights, laid, windows, asked, channels)
        if needed > limit:
            raise UserError(
                f"case {case}: an image of {' x '.join(map(str, laid.tiling.shape))} and the sums of its tiles take "
                f"{needed / MEGABYTE:.0f} MB of the device, which has {limit / MEGABYTE:.0f} MB; set JAX_PLATFORMS=cpu"
            )


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
    return CasePredictor(programs, phase, axis, way, _tile_rule(programs, phase, way))


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
    """Tiles of the training patch, or large ones within a limit of memory in bytes, chosen when they are asked for."""
    large: LargeTiles | None = None
    geometry = programs.system.geometry

    def tile_of(weights: State, sides: tuple[int, ...], channels: int, memory: Memory) -> tuple[int, ...]:
        nonlocal large
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
