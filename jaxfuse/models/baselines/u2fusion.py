"""U2Fusion: a dense network whose fused image keeps as much of either source as that source has to tell.

Source: "U2Fusion: A Unified Unsupervised Image Fusion Network" (Xu et al., TPAMI 2022) and its public code. How much
there is in a source is measured by its gradients (its information measurement), and the measures of both sources,
divided by a constant, become weights by a softmax (its information preservation degrees); the fused image is to be like
each source, by SSIM and squared error, as far as its weight goes (its L_sim = L_ssim + alpha L_mse). Which of the two
comes first is drawn anew for every batch.

Departs from the paper: gradients are measured on the image itself, not on the features of five blocks of a VGG-16,
whose trained weights are not at hand. There is one kind of pairs, so that nothing has to be kept from kinds learned
before (its elastic weight consolidation), as in the public code, whose weight for it is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.fusing import Fusion, Made, Seen
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.two_sources import TwoSources, two_source_system
from jaxfuse.losses.image import neighbor_difference, ssim
from jaxfuse.nn.dense_fusion import DenseFusion
from jaxfuse.nn.forms import check_choices, check_least, check_not_negative
from jaxfuse.nn.initializers import KernelInit, truncated_normal
from jaxfuse.nn.precision import DTYPES, layer_dtype

Gray = Float[Array, "b h w 1"]
Pair = Float[Array, "b h w 2"]
# The law by which weights are drawn.
KERNEL = truncated_normal(0.05)


@dataclass(frozen=True)
class U2FusionForm:
    """The form of the network; the defaults are the published size.

    Attributes:
        growth: channels of the first convolution and of each dense layer.
        layers: dense layers behind the first convolution.
        narrowing: channels of the decoder's maps but for the image.
        dtype: arithmetic, "float32" or "bfloat16"; weights and images are float32.
    """

    growth: int = 44
    layers: int = 5
    narrowing: tuple[int, ...] = (128, 64, 32)
    dtype: str = "float32"
    kernel_init: KernelInit = KERNEL

    def network(self) -> DenseFusion:
        """The network of this form.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"growth": 1, "layers": 0})
        return DenseFusion(
            self.growth, self.layers, tuple(self.narrowing), 0.2, self.kernel_init, dtype=layer_dtype(self.dtype)
        )


@dataclass(frozen=True)
class KeepingForm:
    """Weights of the terms by which the fused image keeps its sources.

    Attributes:
        constant: divides the measures of the sources before their softmax; the smaller, the more the source with the
            stronger gradients is preferred. The published 3,500 belongs to features of a VGG-16; measures of images in
            [0, 1] lie near 0.001, and this one leaves the weaker source a weight of about a third.
        error_weight: of the squared error beside structural likeness.
    """

    constant: float = 0.003
    error_weight: float = 20.0

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        if self.constant <= 0:
            raise UserError(f"constant is {self.constant}; the measures are divided by it: give a positive number")
        check_not_negative({"error_weight": self.error_weight})


def preservation(sources: Pair, constant: float) -> Float[Array, "b 2"]:
    """How far each source is to be kept, its information preservation degree: weights that sum to 1.

    The measure of a source is the mean square of the differences between its pixels and their neighbors.
    """
    measures = jnp.square(neighbor_difference(sources)).mean((1, 2))
    return jax.nn.softmax(measures / constant)


def keeping_loss(fused: Gray, sources: Pair, form: KeepingForm = KeepingForm()) -> tuple[Float[Array, ""], Metrics]:
    """L_sim with its terms, unweighted, means over examples.

    "likeness" is 1 - SSIM and "error" the squared error, both of the fused image and each source, weighed by
    `preservation`.
    """
    weights = preservation(sources, form.constant)
    alike = ssim(jnp.broadcast_to(fused, sources.shape), sources)
    terms = {
        "likeness": (weights * (1 - alike)).sum(-1).mean(),
        "error": (weights * jnp.square(fused - sources).mean((1, 2))).sum(-1).mean(),
    }
    return terms["likeness"] + form.error_weight * terms["error"], terms


@dataclass(frozen=True)
class Keeping:
    """The lesson: sources in a drawn order, and `keeping_loss`."""

    network: TwoSources
    form: KeepingForm

    def make(self, params: Params, seen: Seen) -> Made:
        sources = seen.sources
        if seen.key is not None:
            sources = jnp.where(jax.random.bernoulli(seen.key), sources, sources[..., ::-1])
        return self.network.pass_through(params, sources, train=seen.train)

    def loss(self, made: Gray, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        return keeping_loss(made, seen.sources, self.form)

    def fakes(self, made: Any, seen: Seen) -> Any:
        return None


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    u2fusion: U2FusionForm = U2FusionForm(),
    keeping: KeepingForm = KeepingForm(),
) -> Fusion:
    """U2Fusion on pairs of images."""
    keeping.check()
    network = TwoSources(u2fusion.network())
    return two_source_system(
        network, Keeping(network, keeping), optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs
    )
