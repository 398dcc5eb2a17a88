"""Patches of prepared volumes: the place of a window, and all that chance decides of an example.

A window is what a network's output covers. Its input, the patch, reaches `margin` voxels further on each side where
valid convolutions take them; there, as wherever a patch leaves the cropped brain, the image is the background 0. So
every voxel of a volume can lie in a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.preprocess import is_marked
from jaxfuse.errors import UserError
from jaxfuse.patches import grid_starts, tile_volume

Sides = tuple[int, ...]
# Case, sides of the window and generator -> the voxel that the window is to be centered on.
Center = Callable[[PreparedCase, Sides, np.random.Generator], tuple[int, ...]]


@dataclass(frozen=True)
class Draw:
    """All that chance decides of one example, before any voxel is read.

    Attributes:
        case: its place among the sampler's cases.
        start: first voxel of the window; the patch begins a margin before it, and both may leave the case.
        mirrored: spatial axes along which the patch is mirrored.
    """

    case: int
    start: tuple[int, ...]
    mirrored: tuple[int, ...] = ()


def tumor(case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
    """A random labeled voxel: the paper's patches "within the tumor area"."""
    del window
    return _pick(case.tumor, case, rng)


def brain(case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
    """A random voxel of the brain; needs no label."""
    del window
    return _pick(case.brain, case, rng)


def tumor_or_brain(case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
    """A random labeled voxel; of a case without any, such as an unlabeled one, a random voxel of the brain.

    A network that learns from images alone sees what the paper shows it, and can see more cases.
    """
    return tumor(case, window, rng) if len(case.tumor) else brain(case, window, rng)


def mixed(case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
    """Draws from the tumor or from the brain, each with probability one half; a case without tumor gives brain.

    A network that is to label whole volumes sees both.
    """
    return tumor(case, window, rng) if rng.random() < 0.5 and len(case.tumor) else brain(case, window, rng)


def whole(case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
    """The middle of the case: the window shows the whole picture, background around it."""
    del window, rng  # there is one such window
    return tuple(length // 2 for length in case.facts.shape)


def tiles(case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
    """The center of one of the windows that a whole case is predicted in, all equally probable; needs no label.

    They are the fewest that cover the case, spread evenly between its faces: of a picture of 160 x 180 the four corners
    of 128 x 128 (Hi-Net). Blank pictures have them too.
    """
    starts = tile_volume(case.facts.shape, window).starts
    return tuple(axis[int(rng.integers(len(axis)))] + side // 2 for axis, side in zip(starts, window, strict=True))


@dataclass(frozen=True)
class Foreground:
    """The center of a random window that holds at least one labeled voxel, all such windows equally probable.

    Windows begin at every `grid`-th voxel along each axis, the last ones at the far faces (HyperDense-Net's public
    code: 5 voxels; 1 gives every window). That code draws 1000 patches in an epoch, equally many of each case: a
    training of so many epochs is one of epochs * 1000 / batch steps, which take the cases in turn. Here a window may
    be drawn again before all others were.
    """

    grid: int = 5

    def __call__(self, case: PreparedCase, window: Sides, rng: np.random.Generator) -> tuple[int, ...]:
        found = windows_with_label(case, window, self.grid)
        start = found.start(int(rng.integers(found.count)))
        return tuple(first + side // 2 for first, side in zip(start, window, strict=True))

    def check_window(self, window: Sides) -> None:
        """Refuses a grid that is coarser than the window: some voxels would lie in no window."""
        if not 1 <= self.grid <= min(window):
            raise UserError(
                f"the grid of windows is {self.grid}; with windows of {window} choose 1 to {min(window)} "
                "voxels, so that none is left out"
            )


@dataclass(frozen=True)
class LabeledWindows:
    """The windows of a grid that hold a labeled voxel.

    Attributes:
        starts: first voxels along each axis.
        count: windows with a labeled voxel.
        packed: for each window of the grid one bit.
    """

    starts: tuple[tuple[int, ...], ...]
    count: int
    packed: np.ndarray

    def start(self, number: int) -> tuple[int, ...]:
        """Returns the first voxels of window `number`, counted among those with a labeled voxel."""
        sizes = [len(axis) for axis in self.starts]
        chosen = np.flatnonzero(np.unpackbits(self.packed, count=math.prod(sizes)))[number]
        return tuple(axis[i] for axis, i in zip(self.starts, np.unravel_index(chosen, sizes), strict=True))


@lru_cache(maxsize=4096)
def windows_with_label(case: PreparedCase, window: tuple[int, ...], grid: int) -> LabeledWindows:
    """Finds the windows of a grid that hold a labeled voxel, once in a process for each case.

    They are kept: some 7 kB for 144 x 192 x 256 voxels and a grid of 5.
    """
    starts = tuple(grid_starts(n, side, grid) for n, side in zip(case.facts.shape, window, strict=True))
    held = is_marked(np.asarray(case.label))
    for axis, (places, side) in enumerate(zip(starts, window, strict=True)):
        box: list[Any] = [slice(None)] * held.ndim
        parts = []
        for place in places:
            box[axis] = slice(max(place, 0), place + side)
            parts.append(held[tuple(box)].any(axis=axis))
        held = np.stack(parts, axis=axis)
    return LabeledWindows(starts, int(held.sum()), np.packbits(held))


def _pick(flat_indices: np.ndarray, case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    index = int(flat_indices[rng.integers(len(flat_indices))])
    return tuple(int(i) for i in np.unravel_index(index, case.facts.shape))


@dataclass(frozen=True)
class Sampling:
    """A rule that places windows in the cases that a phase learns from.

    Attributes:
        name: by which a config asks for it.
        center: chooses the center of a window.
        validation: chooses it for the fixed patches of a validation, where every case can be served.
        needs_label: whether it cannot serve a case without a labeled voxel.
        needs_brain: whether it cannot serve a case that shows nothing of the brain.
        centered: whether a window shows the whole picture in its middle, in training and in prediction.
        placed_by: for sentences: the voxel that a case without label lacks.
    """

    name: str
    center: Center
    validation: Center
    needs_label: bool = False
    needs_brain: bool = False
    centered: bool = False
    placed_by: str = ""

    def validation_center(self, cases: Sequence[PreparedCase]) -> Center:
        """The rule for the fixed patches of these cases; over the brain where one of them cannot be served."""
        served = not self.needs_label or all(len(case.tumor) for case in cases)
        return self.validation if served else brain


_TUMOR, _LABELED = "tumor voxel to center a patch on", "labeled voxel to place a patch by"
SAMPLINGS: Mapping[str, Sampling] = {
    one.name: one
    for one in (
        Sampling("tumor", tumor, tumor, needs_label=True, needs_brain=True, placed_by=_TUMOR),
        Sampling("brain", brain, brain, needs_brain=True),
        Sampling("tumor_or_brain", tumor_or_brain, tumor_or_brain, needs_brain=True),
        # Volumes are labeled all over the brain, so that the patches of a validation lie there.
        Sampling("mixed", mixed, brain, needs_brain=True),
        Sampling("whole", whole, whole, centered=True),
        Sampling("foreground", Foreground(), Foreground(), needs_label=True, needs_brain=True, placed_by=_LABELED),
        Sampling("tiles", tiles, tiles),
    )
}


def sampling_rule(name: str, options: Mapping[str, Any] | None = None) -> Sampling:
    """The sampling that a config asks for by name; only "foreground" has an option: `grid`.

    Raises:
        UserError: for an unknown name, and for an option that the rule lacks.
    """
    if name not in SAMPLINGS:
        raise UserError(f"sampling is {name!r}; choose one of {', '.join(SAMPLINGS)}")
    rule = SAMPLINGS[name]
    known = {"grid"} if isinstance(rule.center, Foreground) else set()
    if wrong := sorted(set(options or {}) - known):
        raise UserError(f'sampling="{name}" has no option {", ".join(wrong)}; leave it out of sampling_args')
    if not options:
        return rule
    return replace(rule, center=Foreground(**options), validation=Foreground(**options))


def check_sampling(cases: Sequence[PreparedCase], window: Sides, sampling: Sampling, *, pad: bool) -> None:
    """Refuses, before training, a case that the sampler cannot serve; the window is the patch without its margin.

    Raises:
        UserError: for a window that the sampling cannot place, a case of another number of axes or smaller than the
            window without `pad`, and a case without the voxel that windows are placed by.
    """
    if isinstance(sampling.center, Foreground):
        sampling.center.check_window(window)
    for case in cases:
        _check_size(case, window, sampling, pad)
        if sampling.needs_label and (case.label is None or len(case.tumor) == 0):
            raise UserError(
                f"case {case.id} has no {sampling.placed_by}; leave it out of the training "
                'split or set sampling="brain"'
            )


def _check_size(case: PreparedCase, window: Sides, sampling: Sampling, pad: bool) -> None:
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
    if sampling.centered and any(side < length for side, length in zip(window, case.facts.shape, strict=True)):
        raise UserError(
            f"the patch {window} cannot show the whole picture of case {case.id}, {case.facts.shape}; choose a "
            "larger patch, or another sampling"
        )
