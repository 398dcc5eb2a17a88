"""From a prepared volume to a patch: where a window is placed, and what an example holds.

A window is what a network's output covers. Its input, the patch, reaches `margin` voxels further on each side where
valid convolutions take them; there, as wherever a patch leaves the cropped brain, the image is the background 0. So
every voxel of a volume can lie in a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.errors import UserError
from jaxfuse.patches import crop, grid_starts, output_sides, tile_volume, window_around

Example = dict[str, np.ndarray]
Center = Callable[[PreparedCase, np.random.Generator], tuple[int, ...]]


def tumor(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """A random labeled voxel: the paper's patches "within the tumor area"."""
    return _pick(case.tumor, case, rng)


def brain(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """A random voxel of the brain; needs no label."""
    return _pick(case.brain, case, rng)


def mixed(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """Of tumor and brain, each with probability one half: a network that is to label whole volumes sees both.

    A case without tumor gives brain.
    """
    return tumor(case, rng) if rng.random() < 0.5 and len(case.tumor) else brain(case, rng)


def whole(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """The middle: the window shows the whole picture, background around it."""
    del rng  # there is one such window
    return tuple(length // 2 for length in case.facts.shape)


@dataclass(frozen=True)
class Tiles:
    """The center of one of the windows that a whole case is predicted in, all equally probable; needs no label.

    They are the fewest that cover the case, spread evenly between its faces: of a picture of 160 x 180 the four corners
    of 128 x 128 (Hi-Net). Blank pictures have them too.

    Attributes:
        window: its sides.
    """

    window: tuple[int, ...]

    def __call__(self, case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
        starts = tile_volume(case.facts.shape, self.window).starts
        return tuple(
            axis[int(rng.integers(len(axis)))] + side // 2 for axis, side in zip(starts, self.window, strict=True)
        )


@dataclass(frozen=True)
class Foreground:
    """The center of a random window that holds at least one labeled voxel, all such windows equally probable.

    Windows begin at every `grid`-th voxel along each axis, the last ones at the far faces (HyperDense-Net's public
    code: 5 voxels; 1 gives every window). That code draws 1000 patches in an epoch, equally many of each case: a
    training of so many epochs is one of epochs * 1000 / batch steps, which take the cases in turn. Here a window may
    be drawn again before all others were.

    Attributes:
        window: its sides.
    """

    window: tuple[int, ...]
    grid: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= min(self.window):
            raise UserError(
                f"the grid of windows is {self.grid}; with windows of {self.window} choose 1 to {min(self.window)} "
                "voxels, so that none is left out"
            )

    def __call__(self, case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
        found = windows_with_label(case, self.window, self.grid)
        start = found.start(int(rng.integers(found.count)))
        return tuple(first + side // 2 for first, side in zip(start, self.window, strict=True))


@dataclass(frozen=True)
class LabeledWindows:
    """Which windows of a grid hold a labeled voxel.

    Attributes:
        starts: first voxels along each axis.
        count: windows with a labeled voxel.
        packed: for each window of the grid one bit.
    """

    starts: tuple[tuple[int, ...], ...]
    count: int
    packed: np.ndarray

    def start(self, number: int) -> tuple[int, ...]:
        """Where the window of this number, counted among those with a labeled voxel, begins."""
        sizes = [len(axis) for axis in self.starts]
        chosen = np.flatnonzero(np.unpackbits(self.packed, count=math.prod(sizes)))[number]
        return tuple(axis[i] for axis, i in zip(self.starts, np.unravel_index(chosen, sizes), strict=True))


@lru_cache(maxsize=4096)
def windows_with_label(case: PreparedCase, window: tuple[int, ...], grid: int) -> LabeledWindows:
    """Found once in a process for each case and kept: some 7 kB for 144 x 192 x 256 voxels and a grid of 5."""
    starts = tuple(grid_starts(n, side, grid) for n, side in zip(case.facts.shape, window, strict=True))
    held = np.asarray(case.label) > 0
    for axis, (places, side) in enumerate(zip(starts, window, strict=True)):
        box: list[Any] = [slice(None)] * held.ndim
        parts = []
        for place in places:
            box[axis] = slice(max(place, 0), place + side)
            parts.append(held[tuple(box)].any(axis=axis))
        held = np.stack(parts, axis=axis)
    return LabeledWindows(starts, int(held.sum()), np.packbits(held))


CENTERS: dict[str, Center] = {"tumor": tumor, "brain": brain, "mixed": mixed, "whole": whole}


def _pick(flat_indices: np.ndarray, case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    index = int(flat_indices[rng.integers(len(flat_indices))])
    return tuple(int(i) for i in np.unravel_index(index, case.facts.shape))


def center_rule(name: str, *, window: Sequence[int], options: Mapping[str, Any] | None = None) -> Center:
    """The rule by name, for windows of these sides; refuses an unknown one, and options that it lacks.

    Only "foreground" has an option: `grid`.
    """
    if name not in ("foreground", "tiles", *CENTERS):
        raise UserError(f"sampling is {name!r}; choose one of {', '.join([*CENTERS, 'foreground', 'tiles'])}")
    known = {"grid"} if name == "foreground" else set()
    if wrong := sorted(set(options or {}) - known):
        raise UserError(f'sampling="{name}" has no option {", ".join(wrong)}; leave it out of sampling_args')
    if name == "tiles":
        return Tiles(tuple(window))
    return Foreground(tuple(window), **(options or {})) if name == "foreground" else CENTERS[name]


def needs_label(name: str) -> bool:
    """Whether the rule of this name cannot serve a case without a labeled voxel."""
    return name in ("tumor", "foreground")


def needs_brain(name: str) -> bool:
    """Whether the rule of this name cannot serve a case that shows nothing of the brain."""
    return name in ("brain", "mixed") or needs_label(name)


def sample_patch(
    case: PreparedCase, patch: Sequence[int], center: Center, rng: np.random.Generator, *, margin: int = 0
) -> Example:
    """One random window: `image` (*space m) float32 and, for a labeled case, `label` (*inner) int32.

    The image has the patch's sides, the label those of the window, which are smaller by twice the margin.
    """
    start = window_around(center(case, rng), output_sides(patch, margin), case.facts.shape)
    return cut(case, start, patch, margin=margin)


def cut(case: PreparedCase, start: Sequence[int], patch: Sequence[int], *, margin: int = 0) -> Example:
    """The example whose window begins at `start`; the background 0 where it leaves the cropped brain."""
    example: dict[str, Any] = {"image": crop(case.image, [first - margin for first in start], patch)}
    if case.label is not None:
        example["label"] = crop(case.label, start, output_sides(patch, margin)).astype(np.int32)
    return example


def check_sampling(cases: Sequence[PreparedCase], window: Sequence[int], sampling: str, *, pad: bool) -> None:
    """Refuses, before training, a case that the sampler cannot serve; the window is the patch without its margin."""
    for case in cases:
        _check_size(case, tuple(window), sampling, pad)
        if needs_label(sampling) and (case.label is None or len(case.tumor) == 0):
            raise UserError(
                f"case {case.id} has no {'tumor' if sampling == 'tumor' else 'labeled'} voxel to "
                f"{'center a patch on' if sampling == 'tumor' else 'place a patch by'}; leave it out of the training "
                'split or set sampling="brain"'
            )


def _check_size(case: PreparedCase, window: tuple[int, ...], sampling: str, pad: bool) -> None:
    volume = case.facts.original_shape
    if len(window) != len(volume):
        raise UserError(
            f"the patch {window} has {len(window)} sides and case {case.id} {len(volume)} axes; choose a "
            "network and a patch of as many sides, or another data.source (slices cuts volumes into 2D cases)"
        )
    if not pad and any(side > length for side, length in zip(window, volume, strict=True)):
        raise UserError(
            f"the patch {window} is larger than the volume {volume} of case {case.id}; "
            "choose a smaller patch, or set pad=True to surround the volume with background"
        )
    if sampling == "whole" and any(side < length for side, length in zip(window, case.facts.shape, strict=True)):
        raise UserError(
            f"the patch {window} cannot show the whole picture of case {case.id}, {case.facts.shape}; choose a "
            "larger patch, or another sampling"
        )
