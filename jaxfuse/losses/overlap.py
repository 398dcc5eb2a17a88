"""Losses between class probabilities and a label map. All of them are computed in float32.

Label maps hold class indices. Voxels labeled `IGNORED` count nowhere, and no gradient comes from them. Any other index
outside 0..k-1 belongs to no class and counts against every class.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxfuse.arrays import Array, Float, Label, Logits, Probs
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED


def dice_loss(
    probs: Probs,
    label: Label,
    *,
    include_background: bool = False,
    squared: bool = False,
    over_batch: bool = False,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """Mean over the batch and over classes of 1 - (2 sum y s + eps) / (sum y + sum s + eps), in [0, 1].

    Sums run over the voxels of one example and one class, so a small class weighs as much as a large one (CMFF,
    eq. 8, made soft). A class that is neither present nor predicted adds 0; one that is absent but predicted adds
    nearly 1 however little is predicted.

    Args:
        include_background: also scores class 0.
        squared: squares the terms of the denominator (V-Net, Milletari et al., 2016).
        over_batch: sums run over the whole batch (TransUNet), for slices that lack most classes.

    Raises:
        UserError: class 0 is the only one and is not included.
    """
    classes = probs.shape[-1]
    if classes == 1 and not include_background:
        raise UserError("Dice loss without background needs at least 2 classes, got 1; add a class or include class 0")
    first = 0 if include_background else 1
    s = jnp.where(known(label)[..., None], probs[..., first:].astype(jnp.float32), 0.0)
    y = jax.nn.one_hot(label, classes, dtype=jnp.float32)[..., first:]
    voxels = tuple(range(0 if over_batch else 1, probs.ndim - 1))
    predicted = jnp.square(s).sum(voxels) if squared else s.sum(voxels)
    overlap = (y * s).sum(voxels)
    return 1.0 - ((2.0 * overlap + eps) / (y.sum(voxels) + predicted + eps)).mean()


def dice_loss_of_logits(
    logits: Logits,
    label: Label,
    *,
    include_background: bool = False,
    squared: bool = False,
    over_batch: bool = False,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """`dice_loss` of the softmax of the logits; the Dice row of HyperFusionNet has over_batch and eps 1."""
    probs = jax.nn.softmax(logits.astype(jnp.float32))
    return dice_loss(
        probs, label, include_background=include_background, squared=squared, over_batch=over_batch, eps=eps
    )


def cross_entropy(logits: Logits, label: Label) -> Float[Array, ""]:
    """Mean of -log softmax(logits)[label] over the voxels of the whole batch, in nats.

    Ignored voxels count in neither the sum nor the mean; if all are, the loss is 0.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    # A product with the one-hot label, 0 where it is ignored, and not a gather, whose gradient is a scatter.
    chosen = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    return -(chosen * log_probs).sum() / jnp.maximum(known(label).sum(), 1)


def known(label: Label) -> Bool[Array, "*shape"]:
    """Marks the voxels that count."""
    return label != IGNORED


def dice_and_cross_entropy(
    logits: Logits,
    label: Label,
    *,
    include_background: bool = False,
    squared: bool = False,
    over_batch: bool = False,
    dice_weight: float = 1.0,
    entropy_weight: float = 1.0,
    eps: float = 1e-5,
) -> Float[Array, ""]:
    """dice_weight * `dice_loss` of the softmax + entropy_weight * `cross_entropy`.

    It takes logits: the logarithm of a probability that has rounded to 0 has no gradient to come back with.
    Fuse4Seg's Eq. 14, with TransUNet's Dice, is both weights 0.5 and all three switches on.
    """
    dice = dice_loss_of_logits(
        logits, label, include_background=include_background, squared=squared, over_batch=over_batch, eps=eps
    )
    return dice_weight * dice + entropy_weight * cross_entropy(logits, label)
