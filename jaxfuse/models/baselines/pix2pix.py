"""Pix2pix, with which Hi-Net (2020) is compared: a modality synthesized from one other, slice by slice.

Source: "Image-to-Image Translation with Conditional Adversarial Networks" (Isola et al., 2017), as its public code has
it: a U-Net generator, and a critic that sees the source beside the target and scores squares of 70x70 pixels. Only the
first convolution of the critic and the last of either network have a bias: all others are followed by batch
normalization, but for the generator's first and its deepest, which are not normalized and have no bias either. Seven
halvings suit patches of 128x128 pixels, eight those of 256x256.

Departs from the code: prediction drops nothing and normalizes by running statistics, so that the answer for a patch is
one and does not depend on its company. Running variances are those of the batch (divided by n, not n - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Float, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.networks import LinenNetwork, create_state_of
from jaxfuse.learning.state import Aux, Optimizers, State, apply_gradient, descend, player_metrics
from jaxfuse.learning.synthesis_task import ONE, Task, from_signed, task_of
from jaxfuse.learning.system import SYNTHESIZED, Defaults, Geometry
from jaxfuse.losses.adversarial import GanForm, gan_form
from jaxfuse.losses.image import l1
from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.forms import check_choices, check_least
from jaxfuse.nn.initializers import KernelInit, near_one, normal
from jaxfuse.nn.patch_gan import PatchGan
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.transposed_conv import TransposedConv

Slice = Float[Array, "b h w 1"]
Scores = Float[Array, "b scores_h scores_w 1"]


@dataclass(frozen=True)
class Pix2PixForm:
    """The form of generator and critic; the defaults are those of the public code for 128x128 pixels.

    Attributes:
        width: channels of the generator's first map; they double at each halving, up to `widest` times as many.
        downs: halvings; sides of the image are multiples of 2**downs.
        dropout: rate, in training alone, of the widest maps on the way up except the deepest.
        critic_width, critic_layers: channels of the critic's first map, and its halvings.
        norm_decay, norm_eps: batch normalization's decay of the running statistics, and what is added to the variance.
        bn_batch_stats_at_test: `predict` normalizes by the statistics of the patches that it is given together.
        dtype: arithmetic, "float32" or "bfloat16"; weights, statistics, images and scores are float32.
    """

    width: int = 64
    downs: int = 7
    widest: int = 8
    dropout: float = 0.5
    critic_width: int = 64
    critic_layers: int = 3
    norm_decay: float = 0.9
    norm_eps: float = 1e-5
    bn_batch_stats_at_test: bool = False
    dtype: str = "float32"
    kernel_init: KernelInit = normal()

    def check(self) -> None:
        """Refuses a form that does not exist.

        Raises:
            UserError: an option has none of its values.
        """
        check_choices(self, {"dtype": DTYPES})
        check_least(self, {"width": 1, "downs": 2, "widest": 1, "critic_width": 1, "critic_layers": 1})
        for name in ("dropout", "norm_decay"):
            if not 0.0 <= (value := getattr(self, name)) < 1.0:
                raise UserError(f"{name} is {value}; give a rate from 0 to below 1")
        if self.norm_eps <= 0:
            raise UserError(f"norm_eps is {self.norm_eps}; give a positive number")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the generator's maps on the way down."""
        return tuple(self.width * min(2**level, self.widest) for level in range(self.downs))

    @property
    def common(self) -> dict[str, Any]:
        """Options of every convolution between the first map and the last."""
        return {"kernel_init": self.kernel_init, "dtype": layer_dtype(self.dtype)}

    def norm(self, name: str, train: bool) -> BatchNorm:
        """Batch normalization with scale and shift, by the batch's own statistics in training."""
        return BatchNorm(
            train,
            name=name,
            decay=self.norm_decay,
            eps=self.norm_eps,
            dtype=layer_dtype(self.dtype),
            scale_init=near_one,
        )

    def critic(self) -> PatchGan:
        return PatchGan(self.norm, False, self.critic_width, self.critic_layers, **self.common)


class Generator(nn.Module):
    """A U-Net of convolutions of kernel 4: source in [-1, 1] -> target in (-1, 1), float32.

    Drops features only where it is given a key.

    Raises (when traced):
        UserError: the image is not one channel whose sides are multiples of 2**downs.
    """

    form: Pix2PixForm

    @nn.compact
    def __call__(self, image: Slice, *, train: bool = False, key: Key[Array, ""] | None = None) -> Slice:
        self._check(image)
        form, widths, x = self.form, self.form.widths, image
        maps = []
        for level, width in enumerate(widths, start=1):
            x = nn.leaky_relu(x, 0.2) if maps else x
            x = Conv(width, 4, 2, 1, use_bias=False, **form.common, name=f"down_{level}")(x)
            x = form.norm(f"down_norm_{level}", train)(x) if 1 < level < form.downs else x
            maps.append(x)
        x = maps.pop()
        for level in range(form.downs, 1, -1):
            width = widths[level - 2]
            x = TransposedConv(width, 4, use_bias=False, **form.common, name=f"up_{level}")(nn.relu(x))
            x = form.norm(f"up_norm_{level}", train)(x)
            if key is not None and level < form.downs and width == form.width * form.widest == widths[level - 1]:
                x = dropped(x, form.dropout, jax.random.fold_in(key, level))
            x = jnp.concatenate([maps.pop(), x], axis=-1)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return jnp.tanh(TransposedConv(1, 4, kernel_init=form.kernel_init, name="up_1")(nn.relu(x)))

    def _check(self, image: Array) -> None:
        divisor = 2**self.form.downs
        if image.ndim != 4 or image.shape[-1] != 1 or any(side % divisor for side in image.shape[1:3]):
            raise UserError(
                f"a generator that halves its image {self.form.downs} times takes slices (b h w 1) whose sides are "
                f"multiples of {divisor}, got shape {image.shape}; pad or crop them, or use fewer downs"
            )


def dropped(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""]) -> Float[Array, "*shape"]:
    """Each element 0 with probability `rate`, else divided by 1 - rate, which keeps its mean."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


@dataclass(frozen=True)
class PairedTranslation(Defaults):
    """The learning rule of pix2pix, in the order of the public code.

    The generator makes the target once. First the critic moves, at half the pace, on that fake and the real target;
    then the generator moves against the critic as it now is, by adversarial term + `target_weight` times the mean
    absolute error of images in [-1, 1]. In training either network normalizes by what it sees in one pass, and the
    critic's running statistics move three times a step: fake, real, and fake in the generator's part. Evaluation reads
    running statistics and drops nothing, as prediction does.

    Attributes:
        generator, critic: pure functions of parameters and running statistics.
        task: which channel is the source and which is the target.
        game: the adversarial terms, of scores one by one.
        batch_stats_at_test: `predict` normalizes by the patches that it is given together.
    """

    generator: LinenNetwork
    critic: LinenNetwork
    task: Task
    game: GanForm
    target_weight: float
    batch_stats_at_test: bool
    optimizers: Optimizers
    geometry: Geometry

    players = ("generator", "discriminator")
    primary = SYNTHESIZED

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        source, target = self.task.sources_of(batch), self.task.target_of(batch)
        networks = {"generator": (self.generator, source), "discriminator": (self.critic, judged(source, target))}
        return create_state_of(rng, networks, self.optimizers)

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        source, target = self.task.sources_of(batch), self.task.target_of(batch)
        weights, running, key = state.params["generator"], state.stats["generator"], state.key()
        # One pass forward for both players: the fake's own gradient waits until the critic has moved.
        fake, back, stats = jax.vjp(lambda params: self.make(params, running, source, key), weights, has_aux=True)

        def judge(params: Params) -> tuple[Array, Aux]:
            told, critic_stats = self._training_scores(params, state.stats["discriminator"], source, fake)
            real, critic_stats = self._training_scores(params, critic_stats, source, target)
            loss, terms = self._critic_loss(real, told)
            return loss, Aux(terms, stats={"discriminator": critic_stats})

        after, moved = descend(state, "discriminator", self.optimizers["discriminator"], judge)
        critic, before = after.params["discriminator"], after.stats["discriminator"]

        def answer_for(fake: Slice) -> tuple[Array, Aux]:
            told, critic_stats = self._training_scores(critic, before, source, fake)
            loss, terms = self._generator_loss(fake, told, target)
            return loss, Aux(terms, stats={"generator": stats, "discriminator": critic_stats})

        (loss, aux), slope = jax.value_and_grad(answer_for, has_aux=True)(fake)
        (gradient,) = back(slope)
        after, made = apply_gradient(after, "generator", self.optimizers["generator"], gradient, loss, aux)
        return after.advance(), {**made.metrics, **moved.metrics}

    def make(self, params: Params, stats: Params, source: Slice, key: Key[Array, ""]) -> tuple[Slice, Params]:
        """A fake target as in training, with features dropped, and the statistics after it."""
        variables = {"params": params, "batch_stats": stats}
        fake, changed = self.generator.module.apply(variables, source, train=True, key=key, mutable=["batch_stats"])
        return fake, changed["batch_stats"]

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        """The losses of a step, by running statistics and with nothing dropped."""
        source, target = self.task.sources_of(batch), self.task.target_of(batch)
        params, stats = state.params["discriminator"], state.stats["discriminator"]
        fake = self._answer(state, source, train=False)
        real_scores, fake_scores = (
            self.critic.apply(params, stats, judged(source, image), train=False)[0] for image in (target, fake)
        )
        return {
            **player_metrics("generator", *self._generator_loss(fake, fake_scores, target)),
            **player_metrics("discriminator", *self._critic_loss(real_scores, fake_scores)),
        }

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The target, `synthesized` (b h w 1), in [0, 1]; of the image the source's channel alone is read."""
        answer = self._answer(state, self.task.sources_of(inputs), train=self.batch_stats_at_test)
        return {"synthesized": from_signed(answer)}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return {"generator": params["generator"], "discriminator": params["discriminator"]}

    def _answer(self, state: State, source: Slice, *, train: bool) -> Slice:
        return self.generator.apply(state.params["generator"], state.stats["generator"], source, train=train)[0]

    def _training_scores(self, params: Params, stats: Params, source: Slice, image: Slice) -> tuple[Scores, Params]:
        return self.critic.apply(params, stats, judged(source, image), train=True)

    def _generator_loss(self, fake: Slice, scores: Scores, target: Slice) -> tuple[Array, Metrics]:
        terms = {"adversarial": self.game.maker(scores).mean(), "target": l1(fake, target)}
        return terms["adversarial"] + self.target_weight * terms["target"], terms

    def _critic_loss(self, real: Scores, fake: Scores) -> tuple[Array, Metrics]:
        terms = {"real": self.game.real(real).mean(), "fake": self.game.fake(fake).mean()}
        return 0.5 * (terms["real"] + terms["fake"]), terms


def judged(source: Slice, target: Slice) -> Float[Array, "b h w 2"]:
    """Joins source and target, real or fake, to the critic's input."""
    return jnp.concatenate([source, target], axis=-1)


FORM = Pix2PixForm()


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    form: Pix2PixForm = FORM,
    target_weight: float = 100.0,
) -> PairedTranslation:
    """Pix2pix for a source and a target such as ("t1", "flair")."""
    form.check()
    if target_weight < 0:
        raise UserError(f"target_weight is {target_weight}; it may not be negative")
    critic = form.critic()
    return PairedTranslation(
        generator=LinenNetwork(Generator(form)),
        critic=LinenNetwork(critic),
        task=task_of(pairs, modalities, ONE),
        # Cross-entropy of logits, of a generator that maximizes log D.
        game=gan_form("nonsaturating"),
        target_weight=target_weight,
        batch_stats_at_test=form.bn_batch_stats_at_test,
        optimizers=optimizers,
        geometry=Geometry(2, 2**form.downs, judged=critic.least_side),
    )
