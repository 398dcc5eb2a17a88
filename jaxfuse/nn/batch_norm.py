"""Batch normalization of channels-last maps, as several papers have it."""

from __future__ import annotations

import flax.linen as nn
from jax.typing import DTypeLike

from jaxfuse.nn.initializers import KernelInit


def batch_norm(
    name: str,
    train: bool,
    *,
    decay: float,
    eps: float,
    dtype: DTypeLike | None,
    scale_init: KernelInit = nn.initializers.ones,
) -> nn.BatchNorm:
    """Returns a layer with scale and shift, which normalizes by the batch's own statistics in training.

    Args:
        decay: of the running statistics, by which it normalizes outside of training.
        eps: added to the variance.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=decay,
        epsilon=eps,
        dtype=dtype,
        scale_init=scale_init,
        # E x^2 - (E x)^2 cancels on raw intensities, and on black slices, whose maps are constant.
        use_fast_variance=False,
        name=name,
    )
