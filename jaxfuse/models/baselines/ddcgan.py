"""DDcGAN: a dense generator fuses two images of one resolution against two critics, one for each of them.

Source: "DDcGAN: A Dual-Discriminator Conditional Generative Adversarial Network for Multi-Resolution Medical Image
Fusion" (Ma et al., TIP 2020) and the part of its public code that fuses MRI with PET. Each critic tells its own source
from the fused image by cross-entropy; the generator also keeps the intensities of the second source and the gradients
of the first (its content loss). The code sums both over pictures of 84x84 pixels; here they are means over pixels times
their number, so that other sizes have the same balance.

Departs from the code: every player moves once in a step, where there the side that lags moves up to 20 times; its first
decoder layer, which there is run through twice, is run through once; prediction normalizes by running statistics, where
there each picture is normalized by its own. Critics normalize by what they see at once, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Float, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.fusing import Fusion, Made, Seen
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.two_sources import TwoCritics, TwoSources, two_source_system
from jaxfuse.losses.adversarial import gan_form
from jaxfuse.losses.image import neighbor_difference
from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.dense_fusion import DenseFusion
from jaxfuse.nn.forms import check_choices, check_least, check_not_negative
from jaxfuse.nn.initializers import KernelInit, truncated_normal
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.reflected_conv import ReflectedConv

Gray = Float[Array, "b h w 1"]
Pair = Float[Array, "b h w 2"]
# The laws by which weights of generator and critics are drawn.
KERNEL, CRITIC = truncated_normal(0.05), truncated_normal(0.1)
# The critic of each source, in their order.
SIDES = ("first", "second")
# Pixels over which the published weights sum, and those of an infrared image of a quarter of the sides.
PIXELS, COARSE_PIXELS = 84 * 84, 21 * 21
# Cross-entropy of logits; a maker that maximizes log D.
GAME = gan_form("nonsaturating")


@dataclass(frozen=True)
class DDcGanForm:
    """The form of generator and critics; the defaults are the published size.

    Attributes:
        growth: channels of the generator's first convolution and of each dense layer.
        layers: dense layers behind the first convolution.
        narrowing: channels of the generator's later maps but for the image.
        critic_widths: channels of the maps of each critic, each half as wide and high as the one before.
        norm_decay, norm_eps: batch normalization's decay of the running statistics, and what is added to the variance.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics, images and scores are float32.
    """

    growth: int = 48
    layers: int = 4
    narrowing: tuple[int, ...] = (240, 128, 64, 32)
    critic_widths: tuple[int, ...] = (16, 32, 64)
    norm_decay: float = 0.99
    norm_eps: float = 1e-3
    dtype: str = "float32"
    kernel_init: KernelInit = KERNEL
    critic_init: KernelInit = CRITIC

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"growth": 1, "layers": 0})
        if not self.critic_widths:
            raise UserError("critic_widths is empty; give a critic at least one map")

    def norm(self, name: str, train: bool) -> BatchNorm:
        """Batch normalization with scale and shift, by the batch's own statistics in training."""
        return BatchNorm(train, name=name, decay=self.norm_decay, eps=self.norm_eps, dtype=layer_dtype(self.dtype))

    def generator(self) -> DenseFusion:
        return DenseFusion(
            self.growth, self.layers, tuple(self.narrowing), 0.0, self.kernel_init, self.norm, layer_dtype(self.dtype)
        )

    def critic(self) -> Critic:
        return Critic(tuple(self.critic_widths), self.norm, self.critic_init, layer_dtype(self.dtype))


class Critic(nn.Module):
    """Image (b h w 1) -> logits (b 1), float32; its weights fix the size of the image.

    It normalizes by what it sees at once, its first map aside, and keeps no running statistics.
    """

    widths: tuple[int, ...]
    norm: Callable[[str, bool], BatchNorm]
    kernel_init: KernelInit
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, image: Gray) -> Float[Array, "b 1"]:
        x = image
        for number, width in enumerate(self.widths, start=1):
            x = ReflectedConv(width, 3, 2, self.kernel_init, self.dtype, name=f"down_{number}")(x)
            x = nn.relu(self.norm(f"norm_{number}", True)(x) if number > 1 else x)
        flat = x.reshape(x.shape[0], 1, 1, -1)
        score = Conv(1, 1, kernel_init=self.kernel_init, dtype=self.dtype, name="score")(flat)[:, 0, 0]
        # (1 + tanh score) / 2 is the sigmoid of twice the score.
        return 2 * score.astype(jnp.promote_types(score.dtype, jnp.float32))


@dataclass(frozen=True)
class DDcGanWeights:
    """Weights of the generator's content; the defaults are those of the code.

    Attributes:
        content_weight: of both terms beside those of the critics.
        gradient_weight: of the gradients of the first source beside the intensities of the second.
    """

    content_weight: float = 0.6
    gradient_weight: float = 1.2

    def check(self) -> None:
        """Refuses weights below 0.

        Raises:
            UserError: names the weight.
        """
        check_not_negative(vars(self))


def content_loss(
    fused: Gray, sources: Pair, weights: DDcGanWeights = DDcGanWeights()
) -> tuple[Float[Array, ""], Metrics]:
    """The generator's content with its terms, unweighted means over pixels.

    "intensity" is the squared error of the second source, "gradient" the absolute error of the `neighbor_difference` of
    the first.
    """
    edges = neighbor_difference(fused - sources[..., :1])
    terms = {"intensity": jnp.square(fused - sources[..., 1:]).mean(), "gradient": jnp.abs(edges).mean()}
    loss = COARSE_PIXELS * terms["intensity"] + weights.gradient_weight * PIXELS * terms["gradient"]
    return weights.content_weight * loss, terms


@dataclass(frozen=True)
class Critics(TwoCritics):
    """One critic for each source; parameters are {"first": ..., "second": ...}."""

    sides = SIDES

    def scores(self, params: Params, image: Gray) -> Float[Array, "b 1"]:
        """Logits of one critic."""
        return self.critic.apply({"params": params}, image, mutable=["batch_stats"])[0]

    def maker_terms(self, params: Params, fused: Gray) -> Metrics:
        """How far each critic is from taking the fused image for its source."""
        return {f"adversarial_{side}": GAME.maker_loss(self.scores(params[side], fused)) for side in SIDES}

    def loss(self, params: Params, seen: Seen, fakes: Gray, key: Key[Array, ""]) -> tuple[Array, Metrics]:
        del key
        terms = {}
        for slot, side in enumerate(SIDES):
            terms[f"real_{side}"] = GAME.real(self.scores(params[side], seen.sources[..., slot : slot + 1])).mean()
            terms[f"fake_{side}"] = GAME.fake(self.scores(params[side], fakes)).mean()
        return jnp.asarray(sum(terms.values())), terms


@dataclass(frozen=True)
class Contest:
    """The lesson: content, and a fused image that both critics take for their source."""

    network: TwoSources
    critics: Critics
    weights: DDcGanWeights

    def make(self, params: Params, seen: Seen) -> Made:
        return self.network.pass_through(params, seen.sources, train=seen.train)

    def loss(self, made: Gray, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        content, terms = content_loss(made, seen.sources, self.weights)
        adversarial = self.critics.maker_terms(critics, made)
        return content + sum(adversarial.values(), jnp.float32(0)), {**terms, **adversarial}

    def fakes(self, made: Gray, seen: Seen) -> Gray:
        return made


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    ddcgan: DDcGanForm = DDcGanForm(),
    weights: DDcGanWeights = DDcGanWeights(),
) -> Fusion:
    """DDcGAN on pairs of images."""
    ddcgan.check()
    weights.check()
    network, critics = TwoSources(ddcgan.generator(), "G"), Critics(ddcgan.critic())
    return two_source_system(
        network,
        Contest(network, critics, weights),
        critics,
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        pairs=pairs,
    )
