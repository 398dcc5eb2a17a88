"""Presence of modalities within networks: scale and shift of features, and parts that are left out.

Source of the former: FiLM (Perez et al., AAAI 2018), here from the presence of an example alone. Departs from it: one
hidden layer makes all of them, and they begin as the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Bool, Float, Probs

# Of the channels of absent modalities nothing but zeros is told; features are scaled and shifted by the presence; parts
# of absent modalities are left out.
ZEROED, CONDITIONED, MASKED = "zeroed", "conditioned", "masked"

Film = tuple[Float[Array, "b _"], Float[Array, "b _"]]


class Modulation(nn.Module):
    """Presence (b m) -> scale and shift of each of several feature maps, by their numbers of channels."""

    widths: tuple[int, ...]
    hidden: int = 32

    @nn.compact
    def __call__(self, presence: Bool[Array, "b m"]) -> tuple[Film, ...]:
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(presence.astype(jnp.float32)))
        zeros = nn.initializers.zeros_init()
        made = nn.Dense(2 * sum(self.widths), kernel_init=zeros, name="film")(x)
        ends = [sum(self.widths[: place + 1]) * 2 for place in range(len(self.widths))]
        parts = jnp.split(made, ends[:-1], axis=-1)
        return tuple((part[:, :width], part[:, width:]) for part, width in zip(parts, self.widths, strict=True))


def modulated(x: Float[Array, "b *space f"], film: Film) -> Float[Array, "b *space f"]:
    """Returns x (1 + scale) + shift, in the type of x."""
    scale, shift = (_over_map(one, x.ndim).astype(x.dtype) for one in film)
    return x * (1 + scale) + shift


def where_present(present: Bool[Array, " b"], x: Array, otherwise: Array | float = 0.0) -> Array:
    """Returns x (b ...) of the examples that have it; of the others something else, and no gradient comes back."""
    return jnp.where(present.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.asarray(otherwise, x.dtype))


def or_nothing(present: Bool[Array, " b"], features: Any) -> Any:
    """Returns the features of the examples that have them, in any tree; those of the others are 0."""
    return jax.tree.map(lambda one: where_present(present, one), features)


def or_background(present: Bool[Array, " b"], probs: Probs) -> Probs:
    """Returns the probabilities of the examples that have them; of the others, that all is background."""
    background = jnp.zeros_like(probs).at[..., 0].set(1.0)
    return where_present(present, probs, background)


def gains(present: Bool[Array, "b parts"], widths: Sequence[int]) -> Float[Array, "b channels"]:
    """The gain of each channel of features side by side, one part after the other by their widths.

    Those of absent parts are 0, and the others so large that sums over all parts keep their scale: the number of parts
    by that of those present.
    """
    there = present.astype(jnp.float32)
    scaled = there * present.shape[1] / jnp.maximum(there.sum(1, keepdims=True), 1.0)
    columns = [jnp.repeat(scaled[:, part : part + 1], width, axis=1) for part, width in enumerate(widths)]
    return jnp.concatenate(columns, axis=1)


def with_gains(x: Float[Array, "b *space f"], gain: Float[Array, "b f"]) -> Float[Array, "b *space f"]:
    """Returns features times their gains, exactly 0 where the gain is, whatever stood there."""
    over = _over_map(gain, x.ndim).astype(x.dtype)
    return jnp.where(over > 0, x * over, jnp.zeros((), x.dtype))


def _over_map(values: Float[Array, "b f"], ndim: int) -> Array:
    return values.reshape(values.shape[0], *(1,) * (ndim - 2), values.shape[-1])
