"""RFN-Nest: a nested auto-encoder, then networks that fuse its maps at each of four scales while it is held.

Source: "RFN-Nest: An end-to-end residual fusion network for infrared and visible images" (Li et al., Information
Fusion 2021) and its public code. The first phase makes every source again by itself (L_auto): squared error + 100 *
(1 - SSIM). The second holds the auto-encoder and trains the residual fusion networks alone (L_RFN): the fused image is
to have the details of the first source, the visible one, by 700 * (1 - SSIM), and fused maps are to come near 3 times
those of the first and 6 times those of the second source, weighed 1, 10, 100 and 1000 from fine to coarse. Images enter
as gray levels of 0 to 255.

Departs from the code: there is no ReLU behind the last convolution, by which an image that begins below 0 would stay 0
for good; what is below 0 in a fused image is cut. Structural likeness is that of one scale, as in the paper. Maps nine
times as large make an image nine times as bright: the code stretches each image to its whole range, here it is divided
by nine, so that the answer for a patch does not depend on the rest of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.fusing import Fusion, Made, Seen
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.two_sources import TwoSources, two_source_system
from jaxfuse.losses.image import ssim
from jaxfuse.nn.forms import check_choices, check_not_negative
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.reflected_conv import ReflectedConv
from jaxfuse.nn.unet import upsample_nearest

Map = Float[Array, "b _ _ _"]
Maps = tuple[Map, ...]
Gray = Float[Array, "b h w 1"]
Pair = Float[Array, "b h w 2"]
# Scales of the encoder; sides of an image are multiples of 2 to the power of one less.
SCALES = 4
DIVISOR = 2 ** (SCALES - 1)
LEVELS = 255.0


@dataclass(frozen=True)
class RfnNestForm:
    """The form of auto-encoder and fusion networks; the defaults are the published size.

    Attributes:
        enter: channels of the first map.
        widths: channels of the encoder's maps, from fine to coarse.
        first_times, second_times: how often the maps of either source stand in the fused ones that are wanted.
        dtype: arithmetic, "float32" or "bfloat16"; weights and images are float32.
    """

    enter: int = 16
    widths: tuple[int, ...] = (64, 112, 160, 208)
    first_times: float = 3.0
    second_times: float = 6.0
    dtype: str = "float32"
    kernel_init: KernelInit = fan_in_uniform()

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        if len(self.widths) != SCALES or min(self.widths) < 2:
            raise UserError(f"widths is {tuple(self.widths)}; give {SCALES} numbers of at least 2, from fine to coarse")
        if self.enter < 2:
            raise UserError(f"enter is {self.enter}; give at least 2")
        if min(self.first_times, self.second_times) < 0 or not self.first_times + self.second_times:
            given = f"first_times is {self.first_times} and second_times {self.second_times}"
            raise UserError(f"{given}; neither may be negative, nor both 0")

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}


class Block(nn.Module):
    """Two convolutions of kernel 3 and 1, half as many channels as enter between them; each with ReLU."""

    features: int
    common: dict[str, Any]

    @nn.compact
    def __call__(self, x: Map) -> Map:
        x = nn.relu(ReflectedConv(x.shape[-1] // 2, 3, **self.common, name="conv_1")(x))
        return nn.relu(ReflectedConv(self.features, 1, **self.common, name="conv_2")(x))


class Encoder(nn.Module):
    """Gray levels -> maps at four scales, each half as wide and high as the one before."""

    form: RfnNestForm

    @nn.compact
    def __call__(self, image: Gray) -> Maps:
        form, maps = self.form, []
        x = nn.relu(ReflectedConv(form.enter, 1, **form.common, name="enter")(image))
        for number, width in enumerate(form.widths, start=1):
            x = Block(width, form.common, name=f"block_{number}")(max_pool(x) if maps else x)
            maps.append(x)
        return tuple(maps)


class Decoder(nn.Module):
    """Maps at four scales -> gray levels, through nested skips: a map reads all of its own scale before it.

    It also reads the coarser map that is as far from the encoder as the last of its own scale.
    """

    form: RfnNestForm

    @nn.compact
    def __call__(self, maps: Maps) -> Gray:
        form = self.form
        # By scale, from the encoder's map on.
        nested = [[one] for one in maps]
        for depth in range(1, SCALES):
            for scale in range(SCALES - depth):
                beside = [*nested[scale], upsample_nearest(nested[scale + 1][depth - 1])]
                block = Block(form.widths[scale], form.common, name=f"block_{scale + 1}_{depth}")
                nested[scale].append(block(jnp.concatenate(beside, axis=-1)))
        # In float32 even of bfloat16 features, so that losses start from full precision.
        last = nested[0][-1]
        last = last.astype(jnp.promote_types(last.dtype, jnp.float32))
        return ReflectedConv(1, 1, kernel_init=form.kernel_init, name="image")(last)


class ResidualFusion(nn.Module):
    """Maps of one scale of both sources -> a fused map: a convolution of both, and what a deeper path adds."""

    form: RfnNestForm

    @nn.compact
    def __call__(self, first: Map, second: Map) -> Map:
        width = first.shape[-1]

        def layer(x: Map, side: int, name: str) -> Map:
            return nn.relu(ReflectedConv(width, side, **self.form.common, name=name)(x))

        plain = layer(jnp.concatenate([second, first], axis=-1), 3, "both")
        x = jnp.concatenate([layer(second, 3, "second"), layer(first, 3, "first")], axis=-1)
        for number, side in enumerate((1, 3, 3), start=1):
            x = layer(x, side, f"deep_{number}")
        return plain + x


class FusionNetworks(nn.Module):
    """A `ResidualFusion` for each scale."""

    form: RfnNestForm

    @nn.compact
    def __call__(self, first: Maps, second: Maps) -> Maps:
        pairs = enumerate(zip(first, second, strict=True), start=1)
        return tuple(ResidualFusion(self.form, name=f"scale_{number}")(*pair) for number, pair in pairs)


class RfnNest(nn.Module):
    """Two sources side by side, (b h w 2) in [0, 1] -> fused image (b h w 1), float32.

    Parameters lie under "encoder", "decoder" and "rfn".
    """

    form: RfnNestForm

    def setup(self) -> None:
        self.encoder, self.decoder, self.rfn = Encoder(self.form), Decoder(self.form), FusionNetworks(self.form)

    def __call__(self, pair: Pair, *, train: bool = False) -> Gray:
        return self.fuse(pair, train=train)[0]

    def fuse(self, pair: Pair, *, train: bool = False) -> tuple[Gray, tuple[Maps, Maps, Maps]]:
        """The fused image, and the maps of the first source, of the second and of the fused image."""
        del train
        first, second = (self.encoder(LEVELS * pair[..., slot : slot + 1]) for slot in range(2))
        fused = self.rfn(first, second)
        times = self.form.first_times + self.form.second_times
        return self.decoder(fused) / (LEVELS * times), (first, second, fused)

    def reconstruct(self, pair: Pair, *, train: bool = False) -> Pair:
        """Both sources made again, each by itself."""
        del train
        made = [self.decoder(self.encoder(LEVELS * pair[..., slot : slot + 1])) for slot in range(2)]
        return jnp.concatenate(made, axis=-1) / LEVELS


def reconstruction_loss(made: Pair, sources: Pair, likeness_weight: float = 100.0) -> tuple[Float[Array, ""], Metrics]:
    """L_auto with its terms, unweighted: "error", the mean squared error in gray levels, and "likeness", 1 - SSIM."""
    terms = {
        "error": jnp.square(LEVELS * (made - sources)).mean(),
        "likeness": 1 - ssim(made, sources).mean(),
    }
    return terms["error"] + likeness_weight * terms["likeness"], terms


def fusion_loss(
    fused: Gray, maps: tuple[Maps, Maps, Maps], sources: Pair, form: RfnNestForm, detail_weight: float = 700.0
) -> tuple[Float[Array, ""], Metrics]:
    """L_RFN with its terms: "detail", 1 - SSIM to the first source, and "feature", that of fused maps, as weighed."""
    errors = [
        10.0**scale * jnp.square(made - (form.first_times * first + form.second_times * second)).mean()
        for scale, (first, second, made) in enumerate(zip(*maps, strict=True))
    ]
    terms = {"detail": 1 - ssim(fused, sources[..., :1]).mean(), "feature": jnp.asarray(sum(errors))}
    return detail_weight * terms["detail"] + terms["feature"], terms


@dataclass(frozen=True)
class Reconstruction:
    """The lesson of the first phase."""

    network: TwoSources
    likeness_weight: float

    def make(self, params: Params, seen: Seen) -> Made:
        return self.network.pass_through(params, seen.sources, train=seen.train, method="reconstruct")

    def loss(self, made: Pair, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        return reconstruction_loss(made, seen.sources, self.likeness_weight)

    def fakes(self, made: Any, seen: Seen) -> Any:
        return None


@dataclass(frozen=True)
class ResidualFusing:
    """The lesson of the second phase; the auto-encoder is held."""

    network: TwoSources
    form: RfnNestForm
    detail_weight: float

    def make(self, params: Params, seen: Seen) -> Made:
        held = {name: part if name == "rfn" else jax.lax.stop_gradient(part) for name, part in params.items()}
        return self.network.pass_through(held, seen.sources, train=seen.train, method="fuse")

    def loss(self, made: Any, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        del critics
        fused, maps = made
        return fusion_loss(fused, maps, seen.sources, self.form, self.detail_weight)

    def fakes(self, made: Any, seen: Seen) -> Any:
        return None


def make_reconstruction(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    rfn_nest: RfnNestForm = RfnNestForm(),
    likeness_weight: float = 100.0,
) -> Fusion:
    """The first phase, the auto-encoder.

    Args:
        likeness_weight: of 1 - SSIM beside the squared error of gray levels.
    """
    network = _network(rfn_nest, likeness_weight=likeness_weight)
    lesson = Reconstruction(network, likeness_weight)
    return two_source_system(network, lesson, optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs)


def make_fusion(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    rfn_nest: RfnNestForm = RfnNestForm(),
    detail_weight: float = 700.0,
) -> Fusion:
    """The second phase, the residual fusion networks.

    Args:
        detail_weight: of 1 - SSIM to the first source beside the errors of maps.
    """
    network = _network(rfn_nest, detail_weight=detail_weight)
    lesson = ResidualFusing(network, rfn_nest, detail_weight)
    return two_source_system(network, lesson, optimizers=optimizers, modalities=modalities, combos=combos, pairs=pairs)


def _network(form: RfnNestForm, **weights: float) -> TwoSources:
    form.check()
    check_not_negative(weights)
    return TwoSources(RfnNest(form), divisor=DIVISOR)
