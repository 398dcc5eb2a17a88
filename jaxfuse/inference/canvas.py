"""Canvases: arrays of few sides in which images of many sides lie, so that few programs are compiled for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxfuse.inference.tiling import Places, Windows
from jaxfuse.inference.weighting import EQUAL, summed
from jaxfuse.patches import Tiling, tile_volume

Sides = tuple[int, ...]

# Sides of canvases are multiples of this share of a window's side, or of this many voxels.
_STEP_SHARE, _LEAST_STEP = 4, 16
# A canvas that is compiled already serves an image if it has at most this multiple of the voxels of its own.
_WORTH_A_PROGRAM = 2.0


@dataclass
class Canvases:
    """The canvases of one kind of windows in use.

    An image lies on the smallest that holds it, unless that is far too large. If there is none, the next one holds
    what the largest holds as well, so that images of a data set soon find one.
    """

    known: list[Sides] = field(default_factory=list)

    def holding(self, need: Sides, tile: Sides) -> Sides:
        """Returns the sides of a canvas for an image that needs these; it is not in use before it is kept."""
        own = tuple(-(-side // _step(t)) * _step(t) for side, t in zip(need, tile, strict=True))
        most = _WORTH_A_PROGRAM * math.prod(own)
        fitting = [one for one in self.known if all(a >= b for a, b in zip(one, need, strict=True))]
        last = self.known[-1] if self.known else own
        grown = tuple(map(max, own, last))
        allowed = [one for one in (*sorted(fitting, key=math.prod), grown) if math.prod(one) <= most]
        return allowed[0] if allowed else own

    def keep(self, sides: Sides) -> None:
        """Takes a canvas into use."""
        if sides not in self.known:
            self.known.append(sides)


@dataclass(frozen=True)
class Laid:
    """An image's place on a canvas.

    Attributes:
        tiling: of the image.
        sides: of the canvas, for outputs; an input reaches beyond it by the margin.
        lead: the image's first voxel on the canvas, per axis.
    """

    tiling: Tiling
    sides: Sides
    lead: Sides

    def image(self, image: np.ndarray) -> np.ndarray:
        """Returns the image (*space m) amid its background, as the program takes it."""
        margin = self.tiling.margin
        canvas = np.zeros((*(s + 2 * m for s, m in zip(self.sides, margin, strict=True)), image.shape[-1]), image.dtype)
        box = zip(self.lead, margin, self.tiling.shape, strict=True)
        canvas[tuple(slice(first + lost, first + lost + length) for first, lost, length in box)] = image
        return canvas

    def places(self, windows: Windows, overlap: float) -> Places:
        """Returns the windows as arguments of a program for this canvas."""
        batch, tile = windows.batch, self.tiling.tile
        starts = np.array(list(self.tiling), np.int32) + np.array(self.lead, np.int32)
        most = len(tile_volume(self.sides, tile, overlap=overlap, margin=self.tiling.margin))
        filled = np.repeat(starts[-1:], -(-most // batch) * batch - len(starts), axis=0)
        each = zip(self.sides, self.tiling.starts, self.lead, tile, strict=True)
        held = tuple(
            summed(windows.weighting, side, [one + first for one in axis], length) for side, axis, first, length in each
        )
        return Places(np.concatenate([starts, filled]), np.array(len(starts), np.int32), held)

    def cut(self, canvas: np.ndarray) -> np.ndarray:
        """Returns the image's part of an output on the canvas, as a view."""
        return canvas[tuple(slice(a, a + n) for a, n in zip(self.lead, self.tiling.shape, strict=True))]


def lay(tiling: Tiling, canvases: Canvases) -> Laid:
    """Finds the place of an image; windows that leave it lie on the canvas as a whole."""
    lead = tuple(max(0, -min(axis)) for axis in tiling.starts)
    ends = zip(lead, tiling.shape, tiling.starts, tiling.tile, strict=True)
    need = tuple(first + max(length, max(axis) + side) for first, length, axis, side in ends)
    return Laid(tiling, canvases.holding(need, tiling.tile), lead)


def windows_of(
    tiling: Tiling, batch: int, *, stacked: bool = False, weighting: str = EQUAL, mirror: Sequence[int] = ()
) -> Windows:
    """Returns the facts of these windows that a program is compiled for."""
    return Windows(tiling.tile, tiling.margin, batch, stacked, weighting, tuple(mirror))


def _step(side: int) -> int:
    return max(_LEAST_STEP, side // _STEP_SHARE)
