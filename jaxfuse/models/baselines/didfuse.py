"""DIDFuse: one auto-encoder splits images into background and detail; a rule without weights fuses what it finds.

Source: "DIDFuse: Deep Image Decomposition for Infrared and Visible Image Fusion" (Zhao et al., IJCAI 2020) and its
public code. The encoder makes two early maps, a background and a detail map of an image, the decoder puts the image
together again. Training wants the backgrounds of both images alike and their details different (its L_1), and both
images made again, with the edges of the first, the visible one (its L_2). Fused are maps of the same kind, then the
decoder makes one image of them.

Where paper and code differ this follows the code: distances of maps are mean absolute ones, not squared.

Departs from the code: structural likeness is that of windows within the image; the sum of maps over sources is twice
their mean, so that the decoder may be shown three or four images, which is the sum for two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Key, Metrics, Params
from jaxfuse.learning.fusing import RUNNING, Fused, Fusion, Made, Seen
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.two_sources import two_source_system
from jaxfuse.losses.image import gradient_difference, ssim
from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.channel_weights import PReLU
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least, check_not_negative
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.reflected_conv import ReflectedConv

Map = Float[Array, "b h w c"]
Gray = Float[Array, "b h w 1"]
Sources = Float[Array, "b h w m"]
Presence = Float[Array, "b m"]
ADDITIONS = ("sum", "mean", "activity")


class Maps(NamedTuple):
    """The maps of an image, from the encoder's first layer to its last two."""

    first: Map
    second: Map
    background: Map
    detail: Map


@dataclass(frozen=True)
class DidFuseForm:
    """The form of the auto-encoder; the defaults are the published size.

    Attributes:
        width: channels of all maps.
        addition: of the maps of several sources: their "sum", their "mean", or their mean weighed by "activity", the
            absolute values around a pixel summed over channels.
        norm_decay, norm_eps: batch normalization's decay of the running statistics, and what is added to the variance.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics and images are float32.
    """

    width: int = 64
    addition: str = "sum"
    norm_decay: float = 0.9
    norm_eps: float = 1e-5
    dtype: str = "float32"
    kernel_init: KernelInit = fan_in_uniform()

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"addition": ADDITIONS, "dtype": DTYPES})
        check_least(self, {"width": 1})

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution between the first map and the last."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def norm(self, name: str, train: bool) -> BatchNorm:
        """Batch normalization with scale and shift, by the batch's own statistics in training."""
        return BatchNorm(train, name=name, decay=self.norm_decay, eps=self.norm_eps, dtype=layer_dtype(self.dtype))


class Encoder(nn.Module):
    """Image in [0, 1] -> its maps; background and detail lie in (-1, 1)."""

    form: DidFuseForm

    @nn.compact
    def __call__(self, image: Gray, *, train: bool) -> Maps:
        form, width = self.form, self.form.width
        enter = ReflectedConv(width, 3, **form.common, name="conv_1")(image)
        first = PReLU(name="slope_1")(form.norm("norm_1", train)(enter))
        second = Conv(width, 3, **form.common, name="conv_2")(first)
        second = PReLU(name="slope_2")(form.norm("norm_2", train)(second))
        split = []
        for name in ("background", "detail"):
            x = Conv(width, 3, **form.common, name=name)(second)
            split.append(jnp.tanh(form.norm(f"{name}_norm", train)(x)))
        return Maps(first, second, *split)


class Decoder(nn.Module):
    """Maps -> image in (0, 1), float32."""

    form: DidFuseForm

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool) -> Gray:
        form, x = self.form, maps.background
        for number, beside in ((1, maps.detail), (2, maps.second)):
            x = Conv(form.width, 3, **form.common, name=f"conv_{number}")(jnp.concatenate([x, beside], -1))
            x = PReLU(name=f"slope_{number}")(form.norm(f"norm_{number}", train)(x))
        x = ReflectedConv(1, 3, **form.common, name="image")(jnp.concatenate([x, maps.first], -1))
        x = form.norm("image_norm", train)(x)
        # In float32 even of bfloat16 features, so that losses start from full precision.
        return jax.nn.sigmoid(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


class AutoEncoder(nn.Module):
    """Encoder and decoder; every source is a batch of its own, so that each is normalized by itself in training."""

    form: DidFuseForm

    def setup(self) -> None:
        self.encoder, self.decoder = Encoder(self.form), Decoder(self.form)

    def __call__(self, sources: Sources, presence: Presence, *, train: bool = False) -> Gray:
        """Fuses; what an absent source holds has no influence."""
        shown = jnp.where(presence[:, None, None] > 0, sources, 0)
        maps = [self.encoder(one, train=train) for one in _apart(shown)]
        fused = (added(kind, presence, self.form.addition) for kind in zip(*maps, strict=True))
        return self.decoder(Maps(*fused), train=train)

    def reconstruct(self, sources: Sources, *, train: bool = False) -> tuple[Sources, tuple[Maps, ...]]:
        """Every source made again by itself, and its maps."""
        maps = tuple(self.encoder(one, train=train) for one in _apart(sources))
        return jnp.concatenate([self.decoder(one, train=train) for one in maps], axis=-1), maps


def _apart(sources: Sources) -> list[Gray]:
    return [sources[..., slot : slot + 1] for slot in range(sources.shape[-1])]


def added(maps: Sequence[Map], presence: Presence, addition: str) -> Map:
    """Adds the maps of one kind over the sources that are present, by a name of ADDITIONS."""
    stacked = jnp.stack(maps, axis=-1)
    present = presence[:, None, None, None].astype(stacked.dtype)
    if addition == "activity":
        weights = present * _activity(stacked)
        return (weights * stacked).sum(-1) / jnp.maximum(weights.sum(-1), jnp.finfo(stacked.dtype).tiny)
    mean = (present * stacked).sum(-1) / jnp.maximum(present.sum(-1), 1)
    return 2 * mean if addition == "sum" else mean


def _activity(maps: Float[Array, "b h w c m"]) -> Float[Array, "b h w 1 m"]:
    """The absolute values of a pixel and its eight neighbors, over all channels: those beyond the border are 0."""
    total = jnp.abs(maps).sum(3, keepdims=True)
    height, breadth = total.shape[1:3]
    wide = jax.vmap(lambda one: jnp.pad(one, ((1, 1), (1, 1), (0, 0), (0, 0))))(total)
    rows = wide[:, :height] + wide[:, 1 : height + 1] + wide[:, 2:]
    return rows[:, :, :breadth] + rows[:, :, 1 : breadth + 1] + rows[:, :, 2:]


@dataclass(frozen=True)
class DecompositionWeights:
    """Weights of the terms of `decomposition_loss`; the defaults are those of the code, alpha_1 to alpha_4 and lambda.

    Attributes:
        detail_weight: of how different the details are.
        first_weight, second_weight: of either image made again.
        gradient_weight: of the edges of the first.
        likeness_weight: of structural likeness beside the squared error of an image made again.
    """

    detail_weight: float = 0.5
    first_weight: float = 2.0
    second_weight: float = 2.0
    gradient_weight: float = 10.0
    likeness_weight: float = 5.0

    def check(self) -> None:
        """Refuses weights below 0.

        Raises:
            UserError: names the weight.
        """
        check_not_negative(vars(self))


def decomposition_loss(
    sources: Float[Array, "b h w 2"],
    made: Float[Array, "b h w 2"],
    maps: Sequence[Maps],
    weights: DecompositionWeights = DecompositionWeights(),
) -> tuple[Float[Array, ""], Metrics]:
    """L_1 + L_2 with its terms, unweighted: of two images, the first of which has the edges.

    "background" and "detail" are tanh of the mean absolute difference of maps; "first" and "second" the squared error
    of an image made again + likeness_weight * (1 - SSIM) / 2; "gradient" the mean absolute difference of the gradients.
    """
    first, second = maps
    error = jnp.square(made - sources).mean((0, 1, 2)) + weights.likeness_weight * (1 - ssim(made, sources).mean(0)) / 2
    terms = {
        "background": jnp.tanh(_distance(first.background, second.background)),
        "detail": jnp.tanh(_distance(first.detail, second.detail)),
        "first": error[0],
        "second": error[1],
        "gradient": gradient_difference(made[..., :1], sources[..., :1]).mean(),
    }
    loss = terms["background"] - weights.detail_weight * terms["detail"] + weights.gradient_weight * terms["gradient"]
    return loss + weights.first_weight * terms["first"] + weights.second_weight * terms["second"], terms


def _distance(a: Map, b: Map) -> Float[Array, ""]:
    return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


@dataclass(frozen=True)
class Rule:
    """The auto-encoder as a fusion network, of any number of sources."""

    module: AutoEncoder
    divisor: int = 1

    def init(self, rng: Key[Array, ""], sources: Any) -> Params:
        presence = jax.ShapeDtypeStruct((sources.shape[0], sources.shape[-1]), jnp.float32)
        variables = self.module.lazy_init(rng, sources, presence)
        return {**variables["params"], RUNNING: variables["batch_stats"]}

    def fuse(self, params: Params, sources: Sources, presence: Presence, rng: Key[Array, ""] | None) -> Fused:
        del rng
        image: Any = self.module.apply(_variables(params), sources, presence)
        return Fused(image, image, None)

    def networks(self, params: Params) -> dict[str, Params]:
        return dict(params)


def _variables(params: Params) -> dict[str, Params]:
    weights = {name: part for name, part in params.items() if name != RUNNING}
    return {"params": weights, "batch_stats": params[RUNNING]}


@dataclass(frozen=True)
class Decomposition:
    """The lesson: both sources made again, and `decomposition_loss`."""

    module: AutoEncoder
    weights: DecompositionWeights

    def make(self, params: Params, seen: Seen) -> Made:
        variables, method = _variables(params), "reconstruct"
        if not seen.train:
            return Made(self.module.apply(variables, seen.sources, method=method), params[RUNNING])
        made, changed = self.module.apply(variables, seen.sources, train=True, method=method, mutable=["batch_stats"])
        return Made(made, changed["batch_stats"])

    def loss(self, made: Any, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        again, maps = made
        return decomposition_loss(seen.sources, again, maps, self.weights)

    def fakes(self, made: Any, seen: Seen) -> Any:
        return None


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    didfuse: DidFuseForm = DidFuseForm(),
    weights: DecompositionWeights = DecompositionWeights(),
) -> Fusion:
    """DIDFuse on pairs of images; the rule by which it fuses takes up to four."""
    didfuse.check()
    weights.check()
    module = AutoEncoder(didfuse)
    return two_source_system(
        Rule(module),
        Decomposition(module, weights),
        optimizers=optimizers,
        modalities=modalities,
        combos=combos,
        pairs=pairs,
    )
