"""U-HVED (Dorent et al., MICCAI 2019): tumors segmented, and modalities completed, from any subset of the modalities.

Source: "Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation", and its public code,
whose sizes are the defaults. Each modality has an encoder of its own, which at each of four levels tells means and
log-variances of half as many latent maps as it has channels. The latent maps of an example are distributed as the
product of what its modalities tell and a standard normal distribution, so that any subset has its answer in closed
form. A draw of all levels is decoded to logits, and by one further decoder for each modality to that modality. The loss
is that of the logits, 0.1 times a divergence (of the product from those of all subsets, and of these from the standard
normal) and 0.1 times the mean squared error of the modalities.

It is here rather than RobustSeg (Chen et al., MICCAI 2019), the other network of its day for this task: layers, losses
and weights of U-HVED can be read off one public file each, while RobustSeg is given as a pipeline of three codes and
gates whose sizes the paper does not tell.

Departs from the code:

- Nothing is read of a modality that an example lacks: it is neither a target of reconstruction nor part of a subset
  whose divergence counts. The code simulates absence, and uses all images in training.
- Answers are decoded from the mean of the product, so that they are the same each time; the code labels by a draw.
- Instance normalization has neither scale nor shift; that of the library on which the code builds may have both, which
  would be 2,872 parameters more.
- Between voxels it is interpolated with corners in their places. The code names blocks residual, and adds nothing in
  them: nor is anything added here.
- The recipe has the loss of the logits and the optimizer; the code decays weights, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Bool, Float, Label, Logits, Metrics, Shown
from jaxfuse.errors import UserError
from jaxfuse.learning.several_terms import SegmentationByTerms, Terms
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.system import Geometry, SegmentationLoss
from jaxfuse.nn.conv import Conv, instance_norm
from jaxfuse.nn.forms import check_choices, check_least, check_volume
from jaxfuse.nn.initializers import KernelInit, he_normal
from jaxfuse.nn.interpolation import upsample_linear
from jaxfuse.nn.maximum import largest
from jaxfuse.nn.precision import DTYPES, layer_dtype

# The slope of TensorFlow's LeakyReLU.
SLOPE = 0.2
# Log-variances are cut there, and variances are no less than this, so that products of them stay numbers.
MOST_LOG, LEAST = 50.0, 1e-7
HE = he_normal(SLOPE)

# (b d h w c), of sides and channels that layers change.
Map = Float[Array, "b _ _ _ _"]
# One number of each example.
PerExample = Float[Array, " b"]


@dataclass(frozen=True)
class UHVEDForm:
    """The form of the network; the defaults are those of the public code.

    Attributes:
        base: channels of the finest level, an even number; they double at each coarser one.
        levels: resolutions; sides of a patch are multiples of 2**(levels - 1), and at least twice that.
        remat: each level is computed again in the backward pass.
        dtype: arithmetic, "float32" or "bfloat16"; weights, norms, distributions, logits and losses are float32.
    """

    base: int = 8
    levels: int = 4
    kernel_init: KernelInit = HE
    remat: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"base": 2, "levels": 2})
        if self.base % 2:
            raise UserError(f"base is {self.base}; half of the channels are means, so give an even number")

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.base * 2**level for level in range(self.levels))


class Gaussians(NamedTuple):
    """Normal distributions of latent maps, each voxel and channel by itself; log-variances beside means."""

    mean: Float[Array, "b *several d h w c"]
    log_variance: Float[Array, "b *several d h w c"]


class Made(NamedTuple):
    """Outputs that training reads.

    Attributes:
        images: each modality as it is reconstructed.
        latent: what each modality tells of the latent maps, level by level, the finest first.
    """

    logits: Logits
    images: Float[Array, "b d h w m"]
    latent: tuple[Gaussians, ...]


class Layers(nn.Module):
    """Two times instance normalization, LeakyReLU and a convolution without bias."""

    widths: tuple[int, int]
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        layer = partial(Conv, kernel_size=3, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype)
        for number, width in enumerate(self.widths, start=1):
            x = layer(width, name=f"conv_{number}")(nn.leaky_relu(instance_norm(x), SLOPE))
        return x


class Encoder(nn.Module):
    """One modality -> what it tells of the latent maps of each level, the finest first."""

    form: UHVEDForm

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w 1"]) -> tuple[Gaussians, ...]:
        form, found = self.form, []
        level = nn.remat(Layers) if form.remat else Layers
        x = nn.leaky_relu(Conv(form.base, 1, use_bias=False, **form.common, name="enter")(x), SLOPE)
        for number, width in enumerate(form.widths, start=1):
            x = level((width, width), **form.common, name=f"level_{number}")(halved(x) if number > 1 else x)
            mean, log_variance = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, axis=-1)
            found.append(Gaussians(mean, jnp.clip(log_variance, -MOST_LOG, MOST_LOG)))
        return tuple(found)


def halved(x: Map) -> Map:
    """The largest of each 2 x 2 x 2 voxels."""
    batch, *sides, channels = x.shape
    return largest(x.reshape(batch, *(n for side in sides for n in (side // 2, 2)), channels), (2, 4, 6))


class Decoder(nn.Module):
    """Latent maps of all levels, the finest first -> one map of the image's size, in float32."""

    form: UHVEDForm
    outputs: int

    @nn.compact
    def __call__(self, latent: Sequence[Map]) -> Map:
        form, x = self.form, latent[-1]
        level = nn.remat(Layers) if form.remat else Layers
        for number in range(form.levels - 1, 0, -1):
            width, skip = form.widths[number - 1], latent[number - 1]
            joined = jnp.concatenate([upsample_linear(x, 2).astype(skip.dtype), skip], axis=-1)
            x = level((width, width // 2), **form.common, name=f"level_{number}")(joined)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return Conv(self.outputs, 1, use_bias=False, kernel_init=form.kernel_init, name="leave")(x)


class UHVED(nn.Module):
    """An image and which of its modalities are there -> logits; in training `Made`, from draws if it may draw.

    Raises (when traced):
        UserError: sides of the image are no multiples of 2**(levels - 1), or less than twice that.
    """

    form: UHVEDForm
    classes: int

    @nn.compact
    def __call__(self, shown: Shown, *, train: bool) -> Logits | Made:
        image, presence = shown
        check_volume(image, self.form.levels, called="a U-HVED")
        numbers = range(1, image.shape[-1] + 1)
        told = [Encoder(self.form, name=f"encoder_{n}")(image[..., n - 1 : n]) for n in numbers]
        by_level = [
            Gaussians(*(jnp.stack(side, axis=1) for side in zip(*level, strict=True))) for level in _turned(told)
        ]
        latent = [
            self._drawn(product(level, presence)) if train else product(level, presence).mean for level in by_level
        ]
        logits = Decoder(self.form, self.classes, name="decoder")(latent)
        if not train:
            return logits
        images = [Decoder(self.form, 1, name=f"decoder_{number}")(latent) for number in numbers]
        return Made(logits, jnp.concatenate(images, axis=-1), tuple(by_level))

    def _drawn(self, latent: Gaussians) -> Map:
        """A draw; the mean where nothing is to be drawn."""
        if not self.has_rng("noise"):
            return latent.mean
        noise = jax.random.normal(self.make_rng("noise"), latent.mean.shape, latent.mean.dtype)
        return latent.mean + jnp.exp(0.5 * latent.log_variance) * noise


def _turned(told: Sequence[Sequence[Gaussians]]) -> list[tuple[Gaussians, ...]]:
    """By level, what each modality tells."""
    return list(zip(*told, strict=True))


def product(told: Gaussians, members: Bool[Array, "b m"]) -> Gaussians:
    """The product of what the members (b m ...) tell and of the standard normal distribution, (b ...).

    No gradient comes back to those that are no members.
    """
    there = members.reshape(*members.shape, *(1,) * (told.mean.ndim - 2))
    precision = 1.0 / (jnp.exp(told.log_variance) + LEAST)
    # The precision of the standard normal distribution is 1, and its mean 0.
    total = 1.0 + jnp.where(there, precision, 0.0).sum(axis=1)
    mean = jnp.where(there, told.mean * precision, 0.0).sum(axis=1) / total
    return Gaussians(mean, jnp.log(1.0 / total + LEAST))


def divergence(a: Gaussians, b: Gaussians) -> PerExample:
    """The Kullback-Leibler divergence of a from b, the mean over voxels and channels."""
    variances, gap = jnp.exp(a.log_variance), jnp.square(a.mean - b.mean)
    values = b.log_variance - a.log_variance - 1.0 + (variances + gap) / (jnp.exp(b.log_variance) + LEAST)
    return 0.5 * values.mean(axis=tuple(range(1, values.ndim)))


def divergence_of_subsets(told: Gaussians, presence: Bool[Array, "b m"]) -> Float[Array, ""]:
    """How far products of fewer modalities lie from that of all that are there, and from the standard normal.

    The former is the mean over the proper subsets of what an example has, the latter over all of them; then the mean
    over examples.
    """
    whole = product(told, presence)
    standard = jax.tree.map(jnp.zeros_like, whole)
    count = presence.shape[1]
    chosen = [row for row in itertools.product((False, True), repeat=count) if any(row)]

    @jax.checkpoint
    def of_subset(subset: Bool[Array, " m"]) -> tuple[PerExample, PerExample]:
        part = product(told, jnp.broadcast_to(subset, presence.shape))
        has_all = jnp.where(subset, presence, True).all(axis=1)
        return tuple(jnp.where(has_all, one, 0.0) for one in (divergence(whole, part), divergence(part, standard)))  # pyright: ignore[reportReturnType]

    # One subset after the other, so that no more than one lies in memory.
    between, prior = jax.lax.map(of_subset, jnp.asarray(np.array(chosen)))
    subsets = 2.0 ** presence.sum(axis=1) - 1.0
    return (
        between.sum(axis=0) / jnp.maximum(subsets - 1.0, 1.0) + prior.sum(axis=0) / jnp.maximum(subsets, 1.0)
    ).mean()


def reconstruction(images: Float[Array, "b d h w m"], shown: Shown) -> Float[Array, ""]:
    """The mean squared error of the modalities that an example has, then the mean over examples."""
    errors = jnp.square(images - shown.image).mean(axis=(1, 2, 3))
    kept = jnp.where(shown.presence, errors, 0.0).sum(axis=1)
    return (kept / jnp.maximum(shown.presence.sum(axis=1), 1)).mean()


def terms_of(loss: SegmentationLoss) -> Terms:
    """Returns the terms "segmentation", "divergence" (the mean over levels) and "reconstruction"."""

    def terms(made: Made, shown: Shown, label: Label) -> Metrics:
        by_level = jnp.stack([divergence_of_subsets(level, shown.presence) for level in made.latent])
        return {
            "segmentation": loss(made.logits, label),
            "divergence": by_level.mean(),
            "reconstruction": reconstruction(made.images, shown),
        }

    return terms


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    loss: SegmentationLoss,
    form: UHVEDForm = UHVEDForm(),
    divergence_weight: float = 0.1,
    reconstruction_weight: float = 0.1,
) -> SegmentationByTerms:
    """U-HVED over all modalities of the data."""
    form.check()
    weights: Mapping[str, float] = {"divergence": divergence_weight, "reconstruction": reconstruction_weight}
    for name, value in weights.items():
        if value < 0:
            raise UserError(f"{name}_weight is {value}; it may not be negative")
    numbers = range(1, len(modalities) + 1)
    parts = [f"{part}_{number}" for part in ("encoder", "decoder") for number in numbers]
    return SegmentationByTerms(
        module=UHVED(form, classes),
        draws="noise",
        terms=terms_of(loss),
        weights={"segmentation": 1.0, **weights},
        channels=tuple(range(len(modalities))),
        optimizers=optimizers,
        geometry=Geometry(3, 2 ** (form.levels - 1)),
        name="segmentation",
        parts=("decoder", *parts),
    )
