"""CycleGAN in 2D, with which Hi-Net (2020) is compared: a modality synthesized from one other, slice by slice.

Source: "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks" (Zhu et al., 2017), as its
public code has it: two residual generators with instance normalization without scale and shift, two critics that score
squares of 70x70 pixels and see images alone, least squares, a pool of 50 past fakes for each critic, and a generator
that should leave an image of its own output as it is. Every convolution has a bias. Six blocks suit patches of 128x128
pixels, nine those of 256x256.

Hi-Net's authors show it paired slices; nothing here needs the pairs, so a batch may also take source and target from
two subjects. The pool keeps its fakes in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxfuse.arrays import Array, Batch, Float, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.adversarial import (
    Cycle,
    CycleLosses,
    critic_objective,
    cyclic_update,
    empty_pool,
    maker_objective,
)
from jaxfuse.learning.state import Optimizers, State, create_state, initializer_key, player_metrics
from jaxfuse.learning.synthesis_task import ONE, Task, from_signed, task_of
from jaxfuse.learning.system import SYNTHESIZED, Defaults, Geometry
from jaxfuse.losses.adversarial import gan_form
from jaxfuse.losses.image import l1
from jaxfuse.nn.conv import Conv, instance_norm
from jaxfuse.nn.forms import check_choices, check_least
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.patch_gan import PatchGan
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.reflected_conv import ReflectedConv
from jaxfuse.nn.transposed_conv import TransposedConv

# The generators' halvings; sides of the image are multiples of this.
DIVISOR = 4
# Halved twice, a map must reach over the edge by one pixel that it has.
LEAST_SIDE = 8

Slice = Float[Array, "b h w 1"]
Map = Float[Array, "b h w c"]


def by_instance(name: str, train: bool) -> Callable[[Array], Array]:
    """Instance normalization, which has neither parameters to name nor statistics to keep."""
    del name, train
    return instance_norm


@dataclass(frozen=True)
class CycleGanForm:
    """The form of generators and critics; the defaults are those of the public code for 128x128 pixels.

    Attributes:
        width: channels of a generator's first map; halved maps have twice and four times as many.
        blocks: residual blocks between the halvings and the doublings.
        critic_width, critic_layers: channels of a critic's first map, and its halvings.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics, images and scores are float32.
    """

    width: int = 64
    blocks: int = 6
    critic_width: int = 64
    critic_layers: int = 3
    dtype: str = "float32"
    kernel_init: KernelInit = normal()

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"width": 1, "blocks": 0, "critic_width": 1, "critic_layers": 1})

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution between the first map and the last."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def critic(self) -> PatchGan:
        return PatchGan(by_instance, True, self.critic_width, self.critic_layers, **self.common)


class Generator(nn.Module):
    """Slices in [-1, 1] -> slices of the other modality in (-1, 1), float32.

    Convolutions see the image reflected beyond its edge, but for those that halve and double, which see zeros.

    Raises (when traced):
        UserError: the image is not one channel whose sides are multiples of 4, and at least 8.
    """

    form: CycleGanForm

    @nn.compact
    def __call__(self, image: Slice) -> Slice:
        self._check(image)
        form = self.form
        x = Normalized(ReflectedConv(form.width, 7, **form.common, parent=None), name="enter")(image)
        for number, times in enumerate((2, 4), start=1):
            conv = Conv(form.width * times, 3, 2, **form.common, parent=None)
            x = Normalized(conv, name=f"down_{number}")(x)
        for number in range(1, form.blocks + 1):
            x = ResidualBlock(form.width * 4, **form.common, name=f"block_{number}")(x)
        for number, times in enumerate((2, 1), start=1):
            double = TransposedConv(form.width * times, 3, **form.common, parent=None)
            x = Normalized(double, name=f"up_{number}")(x)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return jnp.tanh(ReflectedConv(1, 7, kernel_init=form.kernel_init, name="leave")(x))

    def _check(self, image: Array) -> None:
        wrong = image.ndim != 4 or image.shape[-1] != 1
        if wrong or any(side % DIVISOR or side < LEAST_SIDE for side in image.shape[1:3]):
            raise UserError(
                f"a CycleGAN generator takes slices (b h w 1) whose sides are multiples of {DIVISOR}, and at least "
                f"{LEAST_SIDE}, got shape {image.shape}; pad or crop them"
            )


class Normalized(nn.Module):
    """A convolution, instance normalization, ReLU."""

    conv: nn.Module

    @nn.compact
    def __call__(self, x: Float[Array, "b h w m"]) -> Float[Array, "b out_h out_w c"]:
        return nn.relu(instance_norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """x + two normalized convolutions, with ReLU between them."""

    features: int
    kernel_init: KernelInit = normal()
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Map) -> Map:
        layer = partial(ReflectedConv, self.features, 3, kernel_init=self.kernel_init, dtype=self.dtype)
        y = nn.relu(instance_norm(layer(name="conv_1")(x)))
        return x + instance_norm(layer(name="conv_2")(y))


@dataclass(frozen=True)
class CycleSynthesis(Defaults):
    """The learning rule of CycleGAN on slices; a is the source, b the target.

    Both generators move against the critics as they stand, by adversarial terms + the cycle weight times the mean
    absolute errors of both cycles + that weight times `identity_weight` times how much either generator changes an
    image that is already of its output's modality. Then both critics move, at half the pace.

    Attributes:
        generator: the form of both, image -> image.
        critic: the form of both, image -> scores.
        task: which channel is the source and which is the target.
        losses: adversarial terms, and cycle term with its weight.
        pool_size: past fakes kept per critic; 0 disables the pool.
    """

    generator: Generator
    critic: PatchGan
    task: Task
    losses: CycleLosses
    identity_weight: float
    pool_size: int
    optimizers: Optimizers
    geometry: Geometry

    players = ("generators", "discriminators")
    primary = SYNTHESIZED
    accepts_unpaired = True

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        source, target = self.split(batch)
        shape = jax.ShapeDtypeStruct(source.shape, source.dtype)
        keys = jax.random.split(initializer_key(rng), 4)
        modules = (self.generator, self.generator, self.critic, self.critic)
        # Lazily: no forward pass is computed, nor compiled, to draw weights.
        ab, ba, a, b = (module.lazy_init(key, shape)["params"] for module, key in zip(modules, keys, strict=True))
        params = {"generators": {"ab": ab, "ba": ba}, "discriminators": {"a": a, "b": b}}
        pool = {"a": empty_pool(self.pool_size, source), "b": empty_pool(self.pool_size, target)}
        return create_state(rng, params, self.optimizers, memory={"pool": pool})

    def split(self, batch: Batch) -> tuple[Slice, Slice]:
        """(source, target) in [-1, 1]. A batch with the streams `a` and `b` takes each from its own subject."""
        sides = (batch["a"], batch["b"]) if "a" in batch else (batch, batch)
        return self.task.sources_of(sides[0]), self.task.target_of(sides[1])

    def make(self, params: Params, image: Slice) -> Slice:
        """One generator's answer."""
        return self.generator.apply({"params": params}, image)  # pyright: ignore[reportReturnType]

    def judge(self, params: Params, image: Slice) -> Array:
        """One critic's scores."""
        return self.critic.apply({"params": params}, image)  # pyright: ignore[reportReturnType]

    def translate(self, generators: Params, source: Slice, target: Slice) -> tuple[Cycle, Array, Metrics]:
        """Both directions, and the identity terms with their sum as weighted."""
        ab, ba = partial(self.make, generators["ab"]), partial(self.make, generators["ba"])
        fake_b, fake_a = ab(source), ba(target)
        terms = {"identity_a": l1(ba(source), source), "identity_b": l1(ab(target), target)}
        further = self.losses.weight * self.identity_weight * (terms["identity_a"] + terms["identity_b"])
        return Cycle(fake_a, fake_b, ba(fake_b), ab(fake_a)), further, terms

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        source, target = self.split(batch)
        return cyclic_update(
            state,
            source,
            target,
            optimizers=self.optimizers,
            maker="generators",
            translate=lambda generators: self.translate(generators, source, target),
            judge=self.judge,
            losses=self.losses,
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        """The losses of a step, each critic seeing the new fakes."""
        source, target = self.split(batch)
        critics = state.params["discriminators"]
        cycle, further, identity = self.translate(state.params["generators"], source, target)
        made, terms = maker_objective(
            cycle, source, target, lambda side, image: self.judge(critics[side], image), self.losses
        )
        fakes = {"a": cycle.fake_a, "b": cycle.fake_b}
        judged, critic_terms = critic_objective(critics, {"a": source, "b": target}, fakes, self.judge, self.losses)
        return {
            **player_metrics("generators", made + further, {**terms, **identity}),
            **player_metrics("discriminators", judged, critic_terms),
        }

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The target, `synthesized`, and the source made again from it, `cycle`; (b h w 1) each, in [0, 1].

        Of the image the source's channel alone is read.
        """
        generators = state.params["generators"]
        fake = self.make(generators["ab"], self.task.sources_of(inputs))
        return {"synthesized": from_signed(fake), "cycle": from_signed(self.make(generators["ba"], fake))}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return {
            "G_AB": params["generators"]["ab"],
            "G_BA": params["generators"]["ba"],
            "D_A": params["discriminators"]["a"],
            "D_B": params["discriminators"]["b"],
        }


FORM = CycleGanForm()


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    form: CycleGanForm = FORM,
    cycle_weight: float = 10.0,
    identity_weight: float = 0.5,
    pool_size: int = 50,
) -> CycleSynthesis:
    """CycleGAN for a source and a target such as ("t1", "flair"); `identity_weight` multiplies `cycle_weight`."""
    form.check()
    weights = {"cycle_weight": cycle_weight, "identity_weight": identity_weight, "pool_size": pool_size}
    for name, value in weights.items():
        if value < 0:
            raise UserError(f"{name} is {value}; it may not be negative")
    critic = form.critic()
    return CycleSynthesis(
        generator=Generator(form),
        critic=critic,
        task=task_of(pairs, modalities, ONE),
        losses=CycleLosses(gan_form("lsgan"), l1, cycle_weight),
        identity_weight=identity_weight,
        pool_size=pool_size,
        optimizers=optimizers,
        geometry=Geometry(2, DIVISOR, judged=critic.least_side),
    )
