"""MM-Syns, with which Hi-Net (2020) is compared: a modality synthesized from any number of others, slice by slice.

Source: "Multimodal MR Synthesis via Modality-Invariant Latent Representation" (Chartsias et al., IEEE TMI 2018) and
what its public code does, without the spatial transformer. An encoder per source leads to latent maps that should be
alike; their maximum is decoded. There is no normalization, every convolution has a bias, and the last one is followed
by ReLU as all of the decoder's are: images are not negative.

Departs from the code: images are those of the data, in [0, 1], where the code divides each volume by its mean; the
variance, a square, then weighs less beside the errors. Where the maximum is reached by several sources, its gradient is
shared among them. Training does not end early, as the code's does after ten epochs without gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Float, Key, Metrics, Params, channels_of
from jaxfuse.errors import UserError
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.synthesis_task import ONE_OR_MORE, Task, task_of
from jaxfuse.learning.system import SYNTHESIZED, Defaults, Geometry
from jaxfuse.losses.image import l1
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least
from jaxfuse.nn.index_pool import max_pool
from jaxfuse.nn.initializers import KernelInit, glorot_uniform
from jaxfuse.nn.maximum import largest
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.unet import upsample_nearest

# The encoders' halvings; sides of the image are multiples of this.
DIVISOR = 4
# Keras starts so, in which the public code is written.
GLOROT_UNIFORM = glorot_uniform()

Slice = Float[Array, "b h w 1"]
Latent = Float[Array, "b h w l"]


@dataclass(frozen=True)
class MMSynsForm:
    """The form of encoders and decoder; the defaults are those of the public code.

    Attributes:
        width: channels of an encoder's first level, and of the decoder; the next two levels have twice and four times
            as many.
        latent: channels of the latent maps.
        slope: of the encoders' LeakyReLU.
        dtype: arithmetic, "float32" or "bfloat16"; weights, latent maps and images are float32.
    """

    width: int = 32
    latent: int = 16
    slope: float = 0.3
    dtype: str = "float32"
    kernel_init: KernelInit = GLOROT_UNIFORM

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"width": 1, "latent": 1})
        if self.slope < 0:
            raise UserError(f"slope is {self.slope}; it may not be negative")

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution but those that end a network."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}


class Encoder(nn.Module):
    """Slices of one modality -> latent maps of the same size, float32: a U-Net of three levels.

    Raises (when traced):
        UserError: the image is not one channel whose sides are multiples of 4.
    """

    form: MMSynsForm

    @nn.compact
    def __call__(self, image: Slice) -> Latent:
        if image.ndim != 4 or image.shape[-1] != 1 or any(side % DIVISOR for side in image.shape[1:3]):
            raise UserError(
                f"an encoder of MM-Syns takes slices (b h w 1) whose sides are multiples of {DIVISOR}, got shape "
                f"{image.shape}; pad or crop them"
            )
        form, widths, x = self.form, [self.form.width * times for times in (1, 2, 4)], image
        skips = []
        for level, width in enumerate(widths, start=1):
            x = max_pool(skips[-1]) if skips else x
            x = self._two(x, width, f"down_{level}")
            skips.append(x)
        x = skips.pop()
        for level in (2, 1):
            width = widths[level - 1]
            # Linear: nothing follows it but the next convolution.
            x = Conv(width, 3, **form.common, name=f"up_{level}")(upsample_nearest(x))
            x = self._two(jnp.concatenate([skips.pop(), x], axis=-1), width, f"join_{level}")
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return nn.leaky_relu(Conv(form.latent, 3, kernel_init=form.kernel_init, name="latent")(x), form.slope)

    def _two(self, x: Array, width: int, name: str) -> Array:
        for number in (1, 2):
            x = nn.leaky_relu(Conv(width, 3, **self.form.common, name=f"{name}_{number}")(x), self.form.slope)
        return x


class Decoder(nn.Module):
    """Latent maps -> slices of the target, not negative, float32."""

    form: MMSynsForm

    @nn.compact
    def __call__(self, latent: Latent) -> Slice:
        form, seen = self.form, latent
        for block in (1, 2):
            x = seen
            for number in (1, 2):
                x = nn.relu(Conv(form.width, 3, **form.common, name=f"conv_{block}_{number}")(x))
            seen = jnp.concatenate([seen, x], axis=-1)
        return nn.relu(Conv(1, 1, kernel_init=form.kernel_init, name="image")(seen))


@dataclass(frozen=True)
class InvariantSynthesis(Defaults):
    """The learning rule of MM-Syns, by one player `net`.

    The loss is the sum of the mean absolute errors of the target as decoded from each source's latent map and from
    their maximum, and of `variance_weight` times the variance of the latent maps across the sources (that of the
    sources seen, divided by their number), meant over elements. With one source the two errors are the same one,
    counted twice as in the public code, and the variance is 0.

    Attributes:
        encoder, decoder: the form of every encoder, and the decoder.
        task: which channels are sources and which is the target.
    """

    encoder: Encoder
    decoder: Decoder
    task: Task
    variance_weight: float
    optimizers: Optimizers
    geometry: Geometry

    primary = SYNTHESIZED

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        *keys, decoder_key = jax.random.split(initializer_key(rng), len(self.task.sources) + 1)
        slices = jax.ShapeDtypeStruct((*batch["image"].shape[:-1], 1), batch["image"].dtype)
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        net = {
            f"encoder_{name}": self.encoder.lazy_init(key, slices)["params"]
            for name, key in zip(self.task.sources, keys, strict=True)
        }
        latent = jax.ShapeDtypeStruct((*slices.shape[:-1], self.encoder.form.latent), jnp.float32)
        net["decoder"] = self.decoder.lazy_init(decoder_key, latent)["params"]
        return create_state(rng, {"net": net}, self.optimizers)

    def latents(self, net: Params, inputs: Batch | Mapping[str, Array]) -> Float[Array, "s b h w l"]:
        """The latent maps of each source."""
        sources = channels_of(inputs["image"], self.task.channels)
        each = [
            self.encoder.apply({"params": net[f"encoder_{name}"]}, sources[..., i : i + 1])
            for i, name in enumerate(self.task.sources)
        ]
        return jnp.stack(each)  # pyright: ignore[reportArgumentType]

    def decode(self, net: Params, latent: Latent) -> Slice:
        return self.decoder.apply({"params": net["decoder"]}, latent)  # pyright: ignore[reportReturnType]

    def loss(self, net: Params, batch: Batch) -> tuple[Array, Metrics]:
        """The loss and its terms, unweighted."""
        target = batch["image"][..., self.task.target : self.task.target + 1]
        latents = self.latents(net, batch)
        # Nothing is normalized, so that all may be decoded as one batch; in turns, so that each stays on its device.
        turns = jnp.stack([*latents, largest(latents, 0)], axis=1)
        images = self.decode(net, turns.reshape(-1, *turns.shape[2:])).reshape(*turns.shape[:2], *target.shape[1:])
        names = [f"latent_{name}" for name in self.task.sources] + ["fused"]
        terms = {name: l1(images[:, place], target) for place, name in enumerate(names)}
        variance = latents.var(0).mean()
        return sum(terms.values(), self.variance_weight * variance), {**terms, "variance": variance}

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        def objective(net: Params) -> tuple[Array, Aux]:
            loss, terms = self.loss(net, batch)
            return loss, Aux(terms)

        state, aux = descend(state, "net", self.optimizers["net"], objective)
        return state.advance(), dict(aux.metrics)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        loss, terms = self.loss(state.params["net"], batch)
        return {f"net/{name}": value for name, value in {"loss": loss, **terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The target, `synthesized` (b h w 1), in the unit of the data, not negative.

        Of the image the sources' channels alone are read.
        """
        net = state.params["net"]
        return {"synthesized": self.decode(net, largest(self.latents(net, inputs), 0))}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return dict(params["net"])


FORM = MMSynsForm()


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    form: MMSynsForm = FORM,
    variance_weight: float = 1.0,
) -> InvariantSynthesis:
    """MM-Syns for sources and a target such as ("t1+t2", "flair"), or one source."""
    form.check()
    if variance_weight < 0:
        raise UserError(f"variance_weight is {variance_weight}; it may not be negative")
    return InvariantSynthesis(
        encoder=Encoder(form),
        decoder=Decoder(form),
        task=task_of(pairs, modalities, ONE_OR_MORE),
        variance_weight=variance_weight,
        optimizers=optimizers,
        geometry=Geometry(2, DIVISOR),
    )
