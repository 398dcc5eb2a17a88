"""Normalizations with scale and shift, as submodules of the module that is being traced."""

from __future__ import annotations

import flax.linen as nn

from jaxfuse.arrays import Array, Float


def group_norm(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
    """GroupNorm, of as many groups as `norm_groups` tells; keeps the dtype of x."""
    groups = norm_groups(x.shape[-1])
    return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, name=name)(x).astype(x.dtype)


def norm_groups(channels: int) -> int:
    """The largest divisor of the channels up to 32 that leaves two or more in a group, or 1."""
    return max((g for g in range(1, min(32, channels // 2) + 1) if channels % g == 0), default=1)


def layer_norm(x: Float[Array, "*b c"], name: str, eps: float = 1e-5) -> Float[Array, "*b c"]:
    """LayerNorm over the channels; keeps the dtype of x."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)(x).astype(x.dtype)
