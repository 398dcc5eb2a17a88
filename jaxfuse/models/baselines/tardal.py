"""TarDAL: a dense generator fuses two images against two critics, one of targets and one of details.

Source: "Target-aware Dual Adversarial Learning and a Multi-scenario Multi-Modality Benchmark to Fuse Infrared and
Visible for Object Detection" (Liu et al., CVPR 2022), its direct training, and the first release of its public code:
networks, weights of the loss, and the saliency by which it weighs each pixel of either source. The second source is the
infrared one: the critic of targets sees it and the fused image where the mask is; the critic of details sees gradients
of the first source and of the fused image elsewhere. Both critics pay the penalty of WGAN-div (Wu et al., 2018) with
k = 2 and p = 6.

Departs from the code: the mask, made there by a trained saliency network, is the saliency of the infrared image; the
generator feels its critics (in the first release their scores were computed without gradient, as the second mends);
critics move first, by the fused images that they then judge; slopes of their negative part are 0.2, as in the second
release; structural likeness is that of windows within the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Key, Metrics, Params
from jaxfuse.learning.fusing import Fusion, Made, Seen
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.two_sources import TwoCritics, TwoSources, two_source_system
from jaxfuse.losses.adversarial import divergence_penalty
from jaxfuse.losses.image import gradient_length, ssim_map
from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least, check_not_negative
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.source_critic import HEADS, SourceCritic

Map = Float[Array, "b h w c"]
Gray = Float[Array, "b h w 1"]
Pair = Float[Array, "b h w 2"]
# The critics, by what they judge.
SIDES = ("target", "detail")
LEVELS = 256
# Weight of the penalty of WGAN-div; its power is that of `divergence_penalty`.
PENALTY = 2.0


@dataclass(frozen=True)
class TarDalForm:
    """The form of generator and critics; the defaults are the published size.

    Attributes:
        width: channels of the generator's first map, and of each dense layer.
        depth: dense layers.
        critic_base, critic_head: of each critic (see `SourceCritic`); the published head is "flatten".
        norm_decay, norm_eps: batch normalization's decay of the running statistics, and what is added to the variance.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics, images and scores are float32.
    """

    width: int = 32
    depth: int = 3
    critic_base: int = 32
    critic_head: str = "flatten"
    norm_decay: float = 0.9
    norm_eps: float = 1e-5
    dtype: str = "float32"
    kernel_init: KernelInit = fan_in_uniform()

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"critic_head": HEADS, "dtype": DTYPES})
        check_least(self, {"width": 1, "depth": 0, "critic_base": 1})

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def norm(self, name: str, train: bool) -> BatchNorm:
        """Batch normalization with scale and shift, by the batch's own statistics in training."""
        return BatchNorm(train, name=name, decay=self.norm_decay, eps=self.norm_eps, dtype=layer_dtype(self.dtype))

    def critic(self) -> SourceCritic:
        return SourceCritic(self.critic_base, self.critic_head, **self.common)


class Generator(nn.Module):
    """Two sources side by side, (b h w 2) in [0, 1] -> fused image (b h w 1) in (-1, 1), float32."""

    form: TarDalForm

    @nn.compact
    def __call__(self, sources: Pair, *, train: bool = False) -> Gray:
        form, width = self.form, self.form.width
        x = self._layer(sources, width, "enter", train)
        for number in range(1, form.depth + 1):
            x = jnp.concatenate([x, self._layer(x, width, f"dense_{number}", train)], axis=-1)
        x = nn.relu(Conv(4 * width, 3, **form.common, name="fuse")(x))
        x = self._layer(x, 2 * width, "narrow_1", train)
        x = self._layer(x, width, "narrow_2", train)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return jnp.tanh(Conv(1, 3, kernel_init=form.kernel_init, name="image")(x))

    def _layer(self, x: Map, features: int, name: str, train: bool) -> Float[Array, "b h w k"]:
        """Convolution, batch normalization, ReLU: submodules of the module that is being traced."""
        x = Conv(features, 3, **self.form.common, name=name)(x)
        return nn.relu(self.form.norm(f"{name}_norm", train)(x))


def saliency(images: Float[Array, "b h w m"]) -> Float[Array, "b h w m"]:
    """How far each pixel's level is from those of all others of its image, of 256 levels; the largest is 1.

    Images are in [0, 1]. A constant one has saliency 0. No gradient goes through it.
    """
    height, breadth = images.shape[1:3]
    levels = jnp.round(jnp.clip(images.astype(jnp.float32), 0, 1) * (LEVELS - 1)).astype(jnp.int32)
    apart = jnp.abs(jnp.arange(LEVELS)[:, None] - jnp.arange(LEVELS)[None]).astype(jnp.float32)

    def of(flat: Array) -> Array:
        ordered = jnp.sort(flat)
        upto = jnp.searchsorted(ordered, jnp.arange(LEVELS), side="right")
        counts = jnp.diff(upto, prepend=0).astype(jnp.float32)
        values = (apart @ (counts / flat.size))[flat]
        return values / jnp.maximum(values.max(), 1e-6)

    flat = jnp.moveaxis(levels, -1, 1).reshape(images.shape[0], images.shape[-1], -1)
    made = jax.vmap(jax.vmap(of))(flat).reshape(images.shape[0], images.shape[-1], height, breadth)
    return jax.lax.stop_gradient(jnp.moveaxis(made, 1, -1))


@dataclass(frozen=True)
class TarDalWeights:
    """Weights of the generator's terms; the defaults are those of the first release.

    Attributes:
        likeness_weight: of (1 - structural likeness) / 2 to the sources.
        pixel_weight: of the absolute difference from the sources.
        target_weight, detail_weight: of either critic's term.
    """

    likeness_weight: float = 1.0
    pixel_weight: float = 20.0
    target_weight: float = 0.1
    detail_weight: float = 0.1

    def check(self) -> None:
        """Refuses weights below 0.

        Raises:
            UserError: names the weight.
        """
        check_not_negative(vars(self))


def content_terms(fused: Gray, sources: Pair) -> Metrics:
    """How far the fused image is from its sources, each pixel of either weighed by how much more salient it is.

    "likeness" is the mean of (1 - SSIM) / 2, "pixel" that of absolute differences; the weights of both sources sum to
    1 at each pixel.
    """
    marked = saliency(sources)
    share = 0.5 + 0.5 * (marked - marked[..., ::-1])
    pixel = (share * jnp.abs(fused - sources)).sum(-1).mean()
    alike = ssim_map(jnp.broadcast_to(fused, sources.shape), sources)
    likeness = (share[:, 5:-5, 5:-5] * (1 - alike) / 2).sum(-1).mean()
    return {"likeness": likeness, "pixel": pixel}


def views(image: Gray, mask: Gray) -> dict[str, Gray]:
    """An image as either critic sees it: where the mask is, and its gradients elsewhere."""
    return {"target": image * mask, "detail": gradient_length(image) * (1 - mask)}


def real_views(sources: Pair, mask: Gray) -> dict[str, Gray]:
    """The sources as the critics see them: details of the first, targets of the second."""
    return {"target": views(sources[..., 1:], mask)["target"], "detail": views(sources[..., :1], mask)["detail"]}


def mask_of(sources: Pair) -> Gray:
    """Where the targets are: the saliency of the infrared source."""
    return saliency(sources[..., 1:])


@dataclass(frozen=True)
class Critics(TwoCritics):
    """One critic of targets and one of details; parameters are {"target": ..., "detail": ...}."""

    sides = SIDES

    def scores(self, params: Params, image: Gray) -> Array:
        """Scores of one critic."""
        return self.critic.apply({"params": params}, image)  # pyright: ignore[reportReturnType]

    def maker_terms(self, params: Params, fused: Gray, mask: Gray) -> Metrics:
        """How little each critic thinks of the fused image."""
        return {side: -self.scores(params[side], view).mean() for side, view in views(fused, mask).items()}

    def loss(self, params: Params, seen: Seen, fakes: Gray, key: Key[Array, ""]) -> tuple[Array, Metrics]:
        """The losses of both, of WGAN-div: fakes score low, sources high, and slopes between them are small."""
        mask, terms = mask_of(seen.sources), {}
        real, fake = real_views(seen.sources, mask), views(fakes, mask)
        for side, own in zip(SIDES, jax.random.split(key, len(SIDES)), strict=True):
            weights = params[side]
            terms[f"real_{side}"] = -self.scores(weights, real[side]).mean()
            terms[f"fake_{side}"] = self.scores(weights, fake[side]).mean()
            slopes = divergence_penalty(
                lambda image, weights=weights: self.scores(weights, image), real[side], fake[side], own
            )
            terms[f"penalty_{side}"] = PENALTY * slopes.mean()
        return jnp.asarray(sum(terms.values())), terms


@dataclass(frozen=True)
class Contest:
    """The lesson: content, and a fused image of which both critics think well."""

    network: TwoSources
    critics: Critics
    weights: TarDalWeights

    def make(self, params: Params, seen: Seen) -> Made:
        return self.network.pass_through(params, seen.sources, train=seen.train)

    def loss(self, made: Gray, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        terms = {**content_terms(made, seen.sources), **self.critics.maker_terms(critics, made, mask_of(seen.sources))}
        loss = sum(getattr(self.weights, f"{name}_weight") * value for name, value in terms.items())
        return jnp.asarray(loss), terms

    def fakes(self, made: Gray, seen: Seen) -> Gray:
        return made


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    tardal: TarDalForm = TarDalForm(),
    weights: TarDalWeights = TarDalWeights(),
) -> Fusion:
    """TarDAL on pairs of images."""
    tardal.check()
    weights.check()
    critics = Critics(tardal.critic())
    network = TwoSources(Generator(tardal), "G")
    return two_source_system(
        network,
        Contest(network, critics, weights),
        critics,
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        pairs=pairs,
    )
