"""From a prepared volume to a patch: where a window is placed, and what an example holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxfuse.data.preprocess import PreparedCase
from jaxfuse.errors import UserError
from jaxfuse.patches import crop, window_around

Example = dict[str, np.ndarray]
Center = Callable[[PreparedCase, np.random.Generator], tuple[int, ...]]


def tumor(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """A random labelled voxel: the paper's patches "within the tumor area"."""
    return _pick(case.tumor, case, rng)


def brain(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """A random voxel of the brain; needs no label."""
    return _pick(case.brain, case, rng)


def mixed(case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    """Of tumor and brain, each with probability one half: a network that is to label whole volumes sees both.

    A case without tumor gives brain.
    """
    return tumor(case, rng) if rng.random() < 0.5 and len(case.tumor) else brain(case, rng)


CENTERS: dict[str, Center] = {"tumor": tumor, "brain": brain, "mixed": mixed}


def _pick(flat_indices: np.ndarray, case: PreparedCase, rng: np.random.Generator) -> tuple[int, ...]:
    index = int(flat_indices[rng.integers(len(flat_indices))])
    return tuple(int(i) for i in np.unravel_index(index, case.facts.shape))


def center_rule(name: str) -> Center:
    """The rule by name; refuses an unknown one."""
    if name not in CENTERS:
        raise UserError(f"sampling is {name!r}; choose one of {', '.join(CENTERS)}")
    return CENTERS[name]


def sample_patch(case: PreparedCase, patch: Sequence[int], center: Center, rng: np.random.Generator) -> Example:
    """One random window: `image` (*space m) float32 and, for a labelled case, `label` (*space) int32."""
    start = window_around(center(case, rng), patch, case.facts.shape)
    return cut(case, start, patch)


def cut(case: PreparedCase, start: Sequence[int], patch: Sequence[int]) -> Example:
    """The window that begins at `start`; the background 0 where it leaves the cropped brain."""
    example: dict[str, Any] = {"image": crop(case.image, start, patch)}
    if case.label is not None:
        example["label"] = crop(case.label, start, patch).astype(np.int32)
    return example


def check_sampling(cases: Sequence[PreparedCase], patch: Sequence[int], sampling: str, *, pad: bool) -> None:
    """Refuses, before training, a case that the sampler cannot serve."""
    for case in cases:
        volume = case.facts.original_shape
        if len(patch) != len(volume):
            raise UserError(
                f"the patch {tuple(patch)} has {len(patch)} sides and case {case.id} {len(volume)} axes; choose a "
                "network and a patch of as many sides, or another data.source (slices cuts volumes into 2D cases)"
            )
        if not pad and any(side > length for side, length in zip(patch, volume, strict=True)):
            raise UserError(
                f"the patch {tuple(patch)} is larger than the volume {volume} of case {case.id}; "
                "choose a smaller patch, or set pad=True to surround the volume with background"
            )
        if sampling == "tumor" and (case.label is None or len(case.tumor) == 0):
            raise UserError(
                f"case {case.id} has no tumor voxel to center a patch on; leave it out of the training split or "
                'set sampling="brain"'
            )
