"""Frequencies of classes among the voxels of the training cases, for losses that weigh classes by them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxfuse.errors import UserError

# Where voxels are counted: in cases cropped to their brain, or in these filled up with background to the patch.
CROP, SEEN = "crop", "seen"


def seen_voxels(
    voxels_per_class: Sequence[int], shapes: Sequence[tuple[tuple[int, ...], int]], patch: Sequence[int]
) -> tuple[int, ...]:
    """Returns voxels per class of cases that are filled up with background where the patch is larger.

    Args:
        voxels_per_class: those of the cases as cropped; empty where none are counted.
        shapes: sides of the labeled cases, each with the number of cases that have them.
        patch: the sides that a network sees.
    """
    if not voxels_per_class:
        return ()
    padding = sum(
        count * (math.prod(max(pair) for pair in zip(shape, patch, strict=True)) - math.prod(shape))
        for shape, count in shapes
    )
    return (voxels_per_class[0] + padding, *voxels_per_class[1:])


def class_frequencies(classes: Sequence[str], voxels_per_class: Sequence[int], *, asked_by: str) -> tuple[float, ...]:
    """The share of each class among all counted voxels, background included; equal shares where none were counted.

    The latter is for networks that are built without any data, to count their parameters.

    Args:
        asked_by: whose weights these are to be, for the refusal.

    Raises:
        UserError: a class that occurs nowhere, so that it has no finite weight.
    """
    if not voxels_per_class:
        return (1 / len(classes),) * len(classes)
    if absent := [name for name, voxels in zip(classes, voxels_per_class, strict=True) if not voxels]:
        raise UserError(
            f"{asked_by} weighs classes by frequency, but no training case holds a voxel of {', '.join(absent)}; "
            "choose another split or another loss"
        )
    return tuple(voxels / sum(voxels_per_class) for voxels in voxels_per_class)
