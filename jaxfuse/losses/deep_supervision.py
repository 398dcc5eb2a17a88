"""Deep supervision: a loss on what a network makes of coarser levels, too.

Source: Deeply-Supervised Nets (Lee et al., 2015), with the weights of nnU-Net (Isensee et al., 2021): each level counts
half as much as the finer one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxfuse.arrays import Array, Float, Label, Logits


def supervised(loss: Callable[[Logits, Label], Array]) -> Callable[[Any, Label], Array]:
    """Returns the loss of logits (b *space k), or of a tuple of them from fine to coarse.

    It is the mean of their losses by the weights 1, 1/2, 1/4, ... Where the sides of logits are a half, a quarter, ...
    of the label map's, they are held against its every second, fourth, ... voxel.
    """

    def total(logits: Any, label: Label) -> Array:
        if not isinstance(logits, tuple):
            return loss(logits, label)
        weights = [0.5**level for level in range(len(logits))]
        terms = [weight * loss(one, _as_coarse(label, one)) for weight, one in zip(weights, logits, strict=True)]
        return sum(terms[1:], terms[0]) / sum(weights)

    return total


def _as_coarse(label: Array, logits: Float[Array, "b *coarse k"]) -> Array:
    steps = [side // coarse for side, coarse in zip(label.shape[1:], logits.shape[1:-1], strict=True)]
    return label[(slice(None), *(slice(None, None, step) for step in steps))]
