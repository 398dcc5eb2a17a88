"""The way in which networks go over an image: their tiles, the weights of voxels there, and mirrored passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxfuse.config import Phase
from jaxfuse.errors import UserError
from jaxfuse.inference.large_tiles import MEGABYTE
from jaxfuse.inference.mirrors import ALL, NONE, asked_axes
from jaxfuse.inference.weighting import EQUAL, GAUSSIAN, check_weighting
from jaxfuse.learning.system import Geometry, System, fuses_alone
from jaxfuse.prediction.predictor import Way, seen_axes


@dataclass(frozen=True)
class Passes:
    """The way in which networks go over an image; what is None is that of their phase's validation.

    Attributes:
        whole: each slice in one pass, filled up with background to sides that the network can take; else in patches of
            the training's size, averaged where they overlap.
        overlap, memory_mb, weighting, mirror: as of `jaxfuse.config.Validation`.
    """

    whole: bool = False
    overlap: float | None = None
    memory_mb: int | None = None
    weighting: str | None = None
    mirror: str | None = None

    def __post_init__(self) -> None:
        for name, value in {"overlap": self.overlap, "memory_mb": self.memory_mb, "weighting": self.weighting}.items():
            if self.whole and value is not None:
                raise UserError(
                    f"--whole_slices sees slices in one pass, for which --{name} means nothing; leave it out"
                )
        check_weighting("weighting", self.weighting or EQUAL)
        if (self.memory_mb or 0) < 0:
            raise UserError(f"memory_mb is {self.memory_mb}; give a limit in MB, or 0 for tiles of the training patch")
        asked_axes("mirror", self.mirror or NONE)

    def filled(self, phase: Phase) -> Passes:
        """Returns passes of which nothing is None, for a network of this phase."""
        own = phase.validation
        return Passes(
            overlap=own.overlap if self.overlap is None else self.overlap,
            memory_mb=own.memory_mb if self.memory_mb is None else self.memory_mb,
            weighting=self.weighting or own.weighting,
            mirror=self.mirror or own.mirror,
        )


PATCHES = Passes()


def way_of(passes: Passes, phase: Phase, system: System, axis: int) -> Way:
    """Returns the way of one network.

    Args:
        axis: of the slices that a 2D network was trained on.

    Raises:
        UserError: a limit of memory for a network that knows one size of tile only, mirrors that it does not see,
            weights for tiles that never overlap, or either for pictures that are seen whole.
    """
    asked, margin, seen = passes.filled(phase), system.geometry.margin, seen_axes(system.geometry.ndim, axis)
    if asked.memory_mb and not margin:
        raise UserError(
            f"memory_mb is {asked.memory_mb}, but the network of phase {phase.name} has no valid convolutions and "
            "predicts in tiles of its training patch; leave it at 0"
        )
    if fuses_alone(system) and (asked.overlap or asked.weighting == GAUSSIAN):
        raise UserError(
            f"overlap is {asked.overlap} and weighting {asked.weighting}, but phase {phase.name} fuses each picture in "
            f"one pass, without tiles; leave them at 0 and {EQUAL}"
        )
    if asked.weighting == GAUSSIAN and _side_by_side(system.geometry, asked):
        raise UserError(
            f"weighting is {GAUSSIAN}, but the tiles of phase {phase.name}, of valid convolutions, lie side by side at "
            "overlap 0; give an overlap, or leave weighting at equal"
        )
    mirror = asked_axes("mirror", asked.mirror or NONE)
    if asked.mirror != ALL and (unseen := [each for each in mirror if each not in seen]):
        raise UserError(
            f"mirror is {asked.mirror}, but the slices of phase {phase.name} lie across axis {unseen[0]}, and each is "
            f"the same in a mirror there; choose of {', '.join(map(str, sorted(seen)))}, or all"
        )
    chosen = tuple(each for each in mirror if each in seen)
    return Way(asked.overlap or 0.0, (asked.memory_mb or 0) * MEGABYTE, asked.weighting or EQUAL, chosen)


def each_of(passes: Passes, members: Sequence[tuple[str, Phase, Geometry, int]]) -> list[Passes]:
    """Returns the passes of each of several networks, of which every option changes at least one.

    Args:
        members: name, phase, geometry and axis of slices of each network.

    Raises:
        UserError: an option would change none of them.
    """
    names = ", ".join(name for name, *_ in members)
    filled = [(passes.filled(phase), geometry, seen_axes(geometry.ndim, axis)) for _, phase, geometry, axis in members]
    if passes.memory_mb and not any(geometry.margin for _, geometry, _ in filled):
        raise UserError(
            f"memory_mb is {passes.memory_mb}, but no network of {names} has valid convolutions: they predict in tiles "
            "of their training patch; leave it out"
        )
    beside = [_side_by_side(geometry, one) for one, geometry, _ in filled]
    if passes.weighting == GAUSSIAN and all(beside):
        raise UserError(
            f"weighting is {GAUSSIAN}, but the tiles of {names}, of valid convolutions, lie side by side at overlap 0; "
            "give an overlap, or leave weighting out"
        )
    axes = () if passes.mirror in (None, ALL) else asked_axes("mirror", passes.mirror)
    if unseen := [each for each in axes if not any(each in seen for _, _, seen in filled)]:
        raise UserError(
            f"mirror is {passes.mirror}, but all slices of {names} lie across axis {unseen[0]}, and each is the same "
            "in a mirror there; leave that axis out, or give all"
        )
    return [
        replace(
            passes,
            memory_mb=passes.memory_mb if geometry.margin else None,
            weighting=EQUAL if passes.weighting and own else passes.weighting,
            mirror=",".join(str(each) for each in axes if each in seen) or NONE if axes else passes.mirror,
        )
        for (_, geometry, seen), own in zip(filled, beside, strict=True)
    ]


def _side_by_side(geometry: Geometry, passes: Passes) -> bool:
    """Whether no voxel lies in two tiles, as `jaxfuse.patches.tile_volume` lays those of valid convolutions."""
    return bool(geometry.margin) and not passes.overlap
