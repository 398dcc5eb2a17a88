"""The voxel size of a new case beside that of the training: a network knows the size of things in voxels only."""

from __future__ import annotations

from collections.abc import Sequence

from jaxfuse.errors import UserError
from jaxfuse.io.geometry import sides_told

# Least and greatest side in mm of the training's voxels per axis; empty for pictures, which have no size.
Range = tuple[tuple[float, ...], ...]
ANY_SPACING = "any_spacing"
ANY_SPACING_HELP = "Take cases whose voxel sides differ from those of the training by more than 10 % along an axis."
# Greatest difference from the training's sides, as a share of them.
_ALLOWED = 0.1
# Sides in headers are floats of 32 bits.
_ROUNDING = 1e-4


def check_spacing(
    what: str, spacing_mm: Sequence[float], shape: Sequence[int], trained_mm: Range, axes: Sequence[int] = (0, 1, 2)
) -> None:
    """Refuses voxels that are larger or smaller than those of the training by more than a tenth along any axis.

    An axis of one voxel has no distance between slices and is not looked at.

    Args:
        what: the case or file, for the sentence.
        spacing_mm, shape: voxel sides and count per canonical axis.
        trained_mm: the range of the training per canonical axis; empty where there is none: nothing is refused.
        axes: the canonical axes of the volume that stand for the training's, where slices across another axis are
            shown.
    """
    for (low, high), axis in zip(trained_mm, axes, strict=bool(trained_mm)):
        side = spacing_mm[axis]
        if shape[axis] > 1 and not low * (1 - _ALLOWED - _ROUNDING) <= side <= high * (1 + _ALLOWED + _ROUNDING):
            raise UserError(
                f"{what} has voxels of {sides_told(spacing_mm)} mm, and the run was trained on {_told(trained_mm)} mm: "
                f"sides may differ by {_ALLOWED:.0%}; resample it, or pass --{ANY_SPACING} to take it as it is"
            )


def axes_across(trained: int, shown: int) -> tuple[int, int, int]:
    """The canonical axes that stand for those of slices across `trained` where slices across `shown` are seen.

    Rows stand for rows, columns for columns, and the distance of slices for that of slices.
    """
    place = {trained: shown} | dict(zip(_in_plane(trained), _in_plane(shown), strict=True))
    return place[0], place[1], place[2]


def _in_plane(axis: int) -> list[int]:
    return [other for other in range(3) if other != axis]


def _told(trained_mm: Range) -> str:
    """The range for sentences, such as 1 x 1 x 5, or 0.9 to 1 x 1 x 5."""
    low, high = (sides_told([ends[k] for ends in trained_mm]).split(" x ") for k in range(2))
    return " x ".join(a if a == b else f"{a} to {b}" for a, b in zip(low, high, strict=True))
