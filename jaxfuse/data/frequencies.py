"""Frequencies of classes among the voxels of the training cases, for losses that weigh classes by them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxfuse.errors import UserError


def class_frequencies(classes: Sequence[str], voxels_per_class: Sequence[int], *, asked_by: str) -> tuple[float, ...]:
    """The share of each class among all counted voxels, background included; equal shares where none were counted.

    The latter is for networks that are built without any data, to count their parameters. Voxels are those of the
    prepared cases, each cropped to its brain.

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
