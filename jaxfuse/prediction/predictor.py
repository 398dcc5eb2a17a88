"""Predictions of whole cases: tiles on canvases, and one program for many cases.

Nothing here knows what a network was built from: one that was trained here and one that was exported go through a case
alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import jax
import numpy as np
from jax.stages import Wrapped

from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.slices import order_of, pictures, volume_of
from jaxfuse.errors import UserError
from jaxfuse.inference.canvas import Canvases, Laid, lay, windows_of
from jaxfuse.inference.tiling import Asked, Predict, Windows, canvas_bytes, output_channels
from jaxfuse.patches import Tiling, tile_volume

MEGABYTE = 2**20

# Output sides of a tile -> bytes that its program takes beside the whole image. It compiles the program that will run.
Memory = Callable[[tuple[int, ...]], int]
# Weights, sides of a volume or picture, its channels, and the memory of a tile -> sides of the output tile for it.
TileRule = Callable[[Any, tuple[int, ...], int, Memory], tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """A network as predictions see it.

    Attributes:
        predict: (weights, tiles) -> named outputs of these tiles.
        primary: the name of the output that is its result.
        ndim: 2 for a network of pictures, 3 for one of volumes.
        margin: voxels that its output lacks on each side.
        tile_batch: how many tiles are predicted at once.
        centered: whether tiles lie around the middle of the image.
        over_canvas: compiles (weights, image, places) -> the outputs of a whole canvas that are asked for.
        memory_bytes: the memory of the device; None where it tells none.
    """

    predict: Predict
    primary: str
    ndim: int
    margin: int
    tile_batch: int
    centered: bool
    over_canvas: Callable[[Windows, Asked], Wrapped]
    memory_bytes: Callable[[], int | None]


@dataclass(frozen=True)
class Way:
    """The way in which a network goes over an image.

    Attributes:
        overlap: least share of a tile in common with its neighbor.
        limit_bytes: memory for a tile; 0 where tiles are the training patch.
        weighting: how voxels count where tiles overlap, by `jaxfuse.inference.weighting`.
        mirror: canonical axes of the volume, of those that the network sees, along which tiles are mirrored as well.
    """

    overlap: float
    limit_bytes: int
    weighting: str
    mirror: tuple[int, ...]


def seen_axes(ndim: int, axis: int) -> tuple[int, ...]:
    """Returns the canonical axes of a volume that the axes of a network's input are."""
    return (0, 1, 2) if ndim == 3 else order_of(axis)[1:]


def bound_shapes(tree: Any) -> Any:
    """Returns the shapes of arrays, bound to a device where the array is, as programs are compiled for either."""

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = leaf.sharding if getattr(leaf, "committed", False) else None
        return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)

    return jax.tree.map(shape_of, tree)


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
    """The prediction of whole cases by one network, on the device that the weights lie on.

    Threads may share it, each for a device of its own: a program that one of them compiles serves the others.

    Attributes:
        network: what it predicts with.
        axis: a 2D network goes over a volume one slice across this array axis after the other.
        way: the overlap of its tiles, the weights of their voxels, and mirrored passes.
    """

    network: Network
    axis: int
    way: Way
    tile_of: TileRule
    _compiled: dict[tuple[Windows, Asked], Wrapped] = field(default_factory=dict)
    _summed: dict[tuple[Windows, Asked], Mapping[str, int]] = field(default_factory=dict)
    _canvases: dict[Windows, Canvases] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock, repr=False)

    def __call__(self, weights: Any, case: PreparedCase | Prepared, asked: Asked) -> dict[str, np.ndarray]:
        """Predicts the outputs of a case on its cropped grid: values (*space k), labels (*space)."""
        return self.on_device(weights, case, asked).on_host()

    def on_device(self, weights: Any, case: PreparedCase | Prepared, asked: Asked) -> OnDevice:
        """Predicts as a call does, and leaves the outputs on the device.

        Raises:
            UserError: the whole image and the sums of its tiles do not fit there.
        """
        image = np.asarray(case.image)
        axis = None if self.network.ndim == image.ndim - 1 else self.axis
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
            self._compiled[windows, asked] = self.network.over_canvas(windows, asked)
        return self._compiled[windows, asked]

    def _laid(self, weights: Any, shape: tuple[int, ...], asked: Asked) -> tuple[Laid, Windows]:
        """Lays the tiles of an image (*space m); a stack has an axis more, which tiles of one picture divide."""
        (*sides, channels), ndim = shape, self.network.ndim
        stacked = len(sides) > ndim
        seen = seen_axes(self.network.ndim, self.axis)
        mirror = [stacked + place for place, axis in enumerate(seen) if axis in self.way.mirror]
        options = {"stacked": stacked, "weighting": self.way.weighting, "mirror": mirror}

        def laid(tile: tuple[int, ...]) -> tuple[Laid, Windows]:
            tiling = self._tiling(tuple(sides), tile)
            windows = windows_of(tiling, self.network.tile_batch, **options)
            return lay(tiling, self._canvases.setdefault(windows, Canvases())), windows

        def memory(tile: tuple[int, ...]) -> int:
            return self._beside_canvas(weights, *laid(tile), asked, channels)

        return laid(self.tile_of(weights, tuple(sides[-ndim:]), channels, memory))

    def _tiling(self, sides: tuple[int, ...], tile: tuple[int, ...]) -> Tiling:
        network, stacked = self.network, len(sides) - len(tile)
        return tile_volume(
            sides,
            (1,) * stacked + tile,
            overlap=self.way.overlap,
            margin=(0,) * stacked + (network.margin,) * network.ndim,
            centered=network.centered,
        )

    def _arguments(self, weights: Any, laid: Laid, windows: Windows, channels: int) -> tuple[Any, ...]:
        canvas = (*(side + 2 * lost for side, lost in zip(laid.sides, windows.margin, strict=True)), channels)
        places = jax.tree.map(jax.typeof, laid.places(windows, self.way.overlap))
        return bound_shapes(weights), jax.ShapeDtypeStruct(canvas, np.float32), places

    def _on_canvas(self, weights: Any, laid: Laid, windows: Windows, asked: Asked, channels: int) -> int:
        """Bytes that lie on the device for the whole image."""
        if (windows, asked) not in self._summed:
            self._summed[windows, asked] = output_channels(self.network.predict, weights, windows, asked, channels)
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
        limit = self.network.memory_bytes()
        if limit is None:
            return
        needed = self._on_canvas(weights, laid, windows, asked, channels)
        if needed > limit:
            raise UserError(
                f"case {case}: an image of {' x '.join(map(str, laid.tiling.shape))} and the sums of its tiles take "
                f"{needed / MEGABYTE:.0f} MB of the device, which has {limit / MEGABYTE:.0f} MB; set JAX_PLATFORMS=cpu"
            )
