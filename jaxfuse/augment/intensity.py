"""Random changes of intensities, per modality: (key, image, ...) -> image, for one example (*space m).

Statistics are those of the brain: voxels that any modality shows. What a change makes of the background is undone at
the end (`jaxfuse.augment.batch`), as images are exactly 0 there when a network is used, too: noise and shifts leave it
0, and a blur leaves no halo. nnU-Net does the same where it normalizes within a mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.arrays import Array, Bool, Float, Key
from jaxfuse.augment.draw import around_one, between, happens
from jaxfuse.augment.settings import BiasField, Blur, Brightness, Contrast, Gamma, LowResolution, Noise, Shift

Example = Float[Array, "*space m"]
Brain = Bool[Array, "*space 1"]
_TINY = 1e-7
_BIAS_ORDER = 3


class Levels(NamedTuple):
    """Least and greatest value, mean and standard deviation of each modality (m) over the brain; 0 without a brain."""

    least: Array
    most: Array
    mean: Array
    std: Array


def levels_of(image: Example, brain: Brain) -> Levels:
    """Measures each modality over the brain."""
    space = tuple(range(image.ndim - 1))
    count = jnp.maximum(brain.sum(), 1)
    shown = jnp.where(brain, image, 0)
    mean, square = shown.sum(space) / count, jnp.square(shown).sum(space) / count
    spread = jnp.maximum(square - jnp.square(mean), 0)
    least, most = jnp.where(brain, image, jnp.inf).min(space), jnp.where(brain, image, -jnp.inf).max(space)
    empty = ~brain.any()
    return Levels(jnp.where(empty, 0, least), jnp.where(empty, 0, most), mean, jnp.sqrt(spread))


def bias_field(
    key: Key[Array, ""], image: Example, brain: Brain, settings: BiasField, *, spacing_mm: Sequence[float]
) -> Example:
    """Multiplies what each modality has above its least value by a smooth field.

    Stored intensities begin near 0, normalized ones below: a field on these would turn about their mean.
    """
    whether, where, draw = jax.random.split(key, 3)
    modalities, axes = image.shape[-1], image.ndim - 1
    orders = np.array(list(itertools.product(range(_BIAS_ORDER + 1), repeat=axes)))
    kept = (orders.sum(-1) <= _BIAS_ORDER).reshape((_BIAS_ORDER + 1,) * axes)
    size = jnp.where(happens(whether, settings.probability), settings.coefficient, 0.0)
    log = size * jnp.where(kept, between(draw, (-1.0, 1.0), (modalities, *kept.shape)), 0)
    middles = between(where, (-1.0, 1.0), (axes,))
    for axis, (side, one) in enumerate(zip(image.shape[:-1], spacing_mm, strict=True)):
        half = min(1.0, side * one / settings.view_mm)  # of the patch, in halves of the field of view
        places = middles[axis] * (1 - half) + half * np.linspace(-1, 1, side)
        powers = places[:, None] ** np.arange(_BIAS_ORDER + 1)
        # Each axis in turn goes from orders to voxels, and to the end.
        log = jnp.tensordot(log, powers, ((1,), (1,)), precision=lax.Precision.HIGHEST)
    least = levels_of(image, brain).least
    return least + (image - least) * jnp.exp(jnp.moveaxis(log, 0, -1))


def noise(key: Key[Array, ""], image: Example, brain: Brain, settings: Noise) -> Example:
    """Adds Gaussian noise."""
    del brain
    whether, size, draw = jax.random.split(key, 3)
    sigma = jnp.where(happens(whether, settings.probability), between(size, (0.0, settings.sigma)), 0.0)
    return image + sigma * jax.random.normal(draw, image.shape)


def blur_matrices(key: Key[Array, ""], settings: Blur, sides: Sequence[int], modalities: int) -> list[Array]:
    """Draws a blur: per axis the share (m side side) of every voxel in every one; the identity where it is not drawn.

    Beyond the patch stands its last voxel.
    """
    whether, which, size = jax.random.split(key, 3)
    chosen = happens(whether, settings.probability) & happens(which, settings.modality_probability, (modalities,))
    sigma = between(size, settings.range, (modalities,))
    return [_or_identity(chosen, _blur(sigma, side)) for side in sides]


def _blur(sigma: Float[Array, " m"], side: int) -> Float[Array, "m side side"]:
    reach = np.arange(-4, 5)
    shares = jnp.exp(-0.5 * jnp.square(reach / jnp.maximum(sigma, _TINY)[:, None]))
    shares = shares / shares.sum(-1, keepdims=True)
    places = np.clip(np.arange(side)[:, None] + reach, 0, side - 1)
    taken = (places[:, :, None] == np.arange(side)).astype(np.float32)
    return jnp.einsum("mr,irj->mij", shares, taken, precision=lax.Precision.HIGHEST)


def low_resolution_matrices(
    key: Key[Array, ""], settings: LowResolution, sides: Sequence[int], modalities: int, thin: Sequence[int]
) -> list[Array]:
    """Draws a lower resolution: as `blur_matrices`. The axis of thick slices keeps its own."""
    whether, which, size = jax.random.split(key, 3)
    chosen = happens(whether, settings.probability) & happens(which, settings.modality_probability, (modalities,))
    share = between(size, settings.range, (modalities,))
    nothing = jnp.zeros_like(chosen)
    return [_or_identity(chosen if axis in thin else nothing, _coarser(share, side)) for axis, side in enumerate(sides)]


def _coarser(share: Float[Array, " m"], side: int) -> Float[Array, "m side side"]:
    """Returns the shares of the voxels that are nearest to those of a coarser grid, interpolated linearly."""
    count = jnp.maximum(jnp.round(share * side), 1)[:, None]
    place = jnp.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
    below = jnp.floor(place)
    above = jnp.minimum(below + 1, count - 1)
    low, high = (jnp.floor((one + 0.5) * side / count) for one in (below, above))
    here = np.arange(side)
    upper = (place - below)[..., None]
    return (1 - upper) * (low[..., None] == here) + upper * (high[..., None] == here)


def _or_identity(chosen: Bool[Array, " m"], matrices: Float[Array, "m side side"]) -> Float[Array, "m side side"]:
    return jnp.where(chosen[:, None, None], matrices, jnp.eye(matrices.shape[-1]))


def filtered(image: Example, matrices: Sequence[Array]) -> Example:
    """Applies matrices (m side side) along each axis: linear filters, of each modality its own."""
    made = jnp.moveaxis(image, -1, 0)
    for matrix in reversed(matrices):  # of the last axis, which becomes the first: in the end all are in place again
        made = jnp.einsum("mij,m...j->mi...", matrix, made, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(made, 0, -1)


def brightness(key: Key[Array, ""], image: Example, brain: Brain, settings: Brightness) -> Example:
    """Multiplies each modality."""
    del brain
    whether, draw = jax.random.split(key)
    factor = around_one(draw, settings.range, image.shape[-1:])
    return image * jnp.where(happens(whether, settings.probability), factor, 1.0)


def shift(key: Key[Array, ""], image: Example, brain: Brain, settings: Shift) -> Example:
    """Adds to each modality."""
    del brain
    whether, draw = jax.random.split(key)
    by = between(draw, (-settings.most, settings.most), image.shape[-1:])
    return image + jnp.where(happens(whether, settings.probability), by, 0.0)


def contrast(key: Key[Array, ""], image: Example, brain: Brain, settings: Contrast) -> Example:
    """Stretches each modality about its mean, within its range."""
    whether, draw = jax.random.split(key)
    factor, levels = around_one(draw, settings.range, image.shape[-1:]), levels_of(image, brain)
    changed = jnp.clip(levels.mean + (image - levels.mean) * factor, levels.least, levels.most)
    return jnp.where(happens(whether, settings.probability), changed, image)


def gamma(key: Key[Array, ""], image: Example, brain: Brain, settings: Gamma) -> Example:
    """Raises each modality, scaled to [0, 1], to a power, and keeps its mean and standard deviation."""
    whether, draw = jax.random.split(key)
    power, before = around_one(draw, settings.range, image.shape[-1:]), levels_of(image, brain)
    span = before.most - before.least
    # The background may lie outside of the brain's range; it is made 0 in the end.
    raised = jnp.clip((image - before.least) / jnp.maximum(span, _TINY), 0, 1) ** power
    after = levels_of(raised, brain)
    changed = (raised - after.mean) * (before.std / jnp.maximum(after.std, _TINY)) + before.mean
    return jnp.where(happens(whether, settings.probability), changed, image)


def inverted_gamma(key: Key[Array, ""], image: Example, brain: Brain, settings: Gamma) -> Example:
    """Does what `gamma` does to the negative."""
    return -gamma(key, -image, brain, settings)
