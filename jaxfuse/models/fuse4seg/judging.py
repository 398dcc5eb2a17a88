"""The adversarial side of Fuse4Seg's training: one critic per modality, and what each side of the game wants (Eq. 10).

Departs from Eq. 10, a sum over two modalities: losses are means over the modalities that a batch shows, so that
weights do not depend on their number. The default form does not stall where a critic is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float, Image, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.combinations import Choice
from jaxfuse.learning.optim import by_part
from jaxfuse.learning.state import Optimizers
from jaxfuse.losses.adversarial import GanForm, gan_form, gradient_penalty
from jaxfuse.losses.fusion import present_mean
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.initializers import KernelInit, fan_in_uniform
from jaxfuse.nn.precision import DTYPES, layer_dtype
from jaxfuse.nn.source_critic import SourceCritic

Sources = Float[Array, "b h w m"]
Presence = Float[Array, "b m"]


@dataclass(frozen=True)
class Critics:
    """One critic per modality; parameters are {modality: parameters}, and each has an optimizer of its own.

    Attributes:
        network: one critic.
        modalities: names, in the order of the image's channels.
        game: what makers and critics want.
        penalty_weight: of the gradient penalty, where the game has one.
    """

    network: SourceCritic
    modalities: tuple[str, ...]
    game: GanForm
    penalty_weight: float

    def init(self, rng: Key[Array, ""], image: Image) -> Params:
        shape = jax.ShapeDtypeStruct((*image.shape[:-1], 1), image.dtype)
        keys = jax.random.split(rng, len(self.modalities))
        return {
            name: self.network.lazy_init(key, shape)["params"] for name, key in zip(self.modalities, keys, strict=True)
        }

    def maker_loss(self, params: Params, fakes: Sources, choice: Choice, presence: Presence) -> Array:
        """How far the fake in each slot is from what that slot's critic takes for real."""
        losses = [self._mean(self.game.maker, p, fakes, i) for i, p in enumerate(self._of_slots(params, choice))]
        return present_mean(jnp.stack(losses, axis=-1), presence)

    def critic_loss(
        self,
        params: Params,
        real: Sources,
        fakes: Sources,
        choice: Choice,
        presence: Presence,
        key: Key[Array, ""],
    ) -> tuple[Array, Metrics]:
        """How badly each slot's critic tells its source from the fake, and the terms."""
        chosen = self._of_slots(params, choice)
        terms = {
            "real": [self._mean(self.game.real, p, real, i) for i, p in enumerate(chosen)],
            "fake": [self._mean(self.game.fake, p, fakes, i) for i, p in enumerate(chosen)],
        }
        if self.game.penalized:
            keys = jax.random.split(key, len(chosen))
            terms["penalty"] = [
                self.penalty_weight * gradient_penalty(self._scores(p), _slot(real, i), _slot(fakes, i), keys[i])
                for i, p in enumerate(chosen)
            ]
        means = {name: present_mean(jnp.stack(values, axis=-1), presence) for name, values in terms.items()}
        return sum(means.values(), jnp.float32(0)), means

    def moves(self, choice: Choice) -> dict[str, Array]:
        """Whether each critic has something to learn from a choice: those of modalities not shown are to rest."""
        return dict(zip(self.modalities, choice.shows(len(self.modalities)), strict=True))

    def networks(self, params: Params) -> dict[str, Params]:
        return {f"D_{name}": params[name] for name in self.modalities}

    def _of_slots(self, params: Params, choice: Choice) -> Sequence[Params]:
        """Parameters of the critic of each slot; which one that is may be known on the device alone."""
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in self.modalities))
        return [jax.tree.map(lambda leaf, at=at: leaf[at], stacked) for at in choice.modality]

    def _scores(self, params: Params) -> Callable[[Array], Array]:
        return lambda image: self.network.apply({"params": params}, image)  # pyright: ignore[reportReturnType]

    def _mean(self, loss: Callable[[Array], Array], params: Params, images: Sources, slot: int) -> Float[Array, b]:
        """Mean over an image's scores of the loss of each."""
        scores = self._scores(params)(_slot(images, slot))
        return loss(scores).reshape(images.shape[0], -1).mean(1)


@dataclass(frozen=True)
class CriticForm:
    """Critics and their game.

    Attributes:
        adversarial_weight: weight of the makers' adversarial term (lambda_a); 0 removes the critics altogether.
        gan: "minimax" (Eq. 10 to the letter), "nonsaturating", "lsgan" or "wgan-gp".
        penalty_weight: of the gradient penalty of "wgan-gp".
        critic_base, critic_head: of each critic (see `SourceCritic`).
        dtype: arithmetic, "float32" or "bfloat16".
        kernel_init: where critics without normalization start must keep the size of what passes them; from weights of
            0.02 the first gradient that a maker gets is thousands of times smaller.
    """

    adversarial_weight: float = 0.1
    gan: str = "nonsaturating"
    penalty_weight: float = 10.0
    critic_base: int = 32
    critic_head: str = "patch"
    dtype: str = "float32"
    kernel_init: KernelInit = fan_in_uniform()

    def critics(self, modalities: Sequence[str]) -> Critics | None:
        """The critics, or None where their weight is 0."""
        if self.adversarial_weight < 0:
            raise UserError(f"adversarial_weight is {self.adversarial_weight}; it must not be negative")
        check_choices(self, {"dtype": DTYPES})
        game = gan_form(self.gan)
        if not self.adversarial_weight:
            return None
        network = SourceCritic(
            base=self.critic_base, head=self.critic_head, kernel_init=self.kernel_init, dtype=layer_dtype(self.dtype)
        )
        return Critics(network, tuple(modalities), game, self.penalty_weight)


def apart(optimizers: Optimizers) -> Optimizers:
    """The optimizers of the players, that of the critics for each of them apart."""
    return {player: by_part(one) if player == "critics" else one for player, one in optimizers.items()}


def _slot(images: Sources, slot: int) -> Float[Array, "b h w 1"]:
    return images[..., slot : slot + 1]
