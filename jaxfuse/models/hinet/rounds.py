"""The round of Hi-Net's two players, whatever its generator is asked and its critic is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.learning.adversarial import adversarial_update
from jaxfuse.learning.state import Aux, Optimizers, State, player_metrics

Losses = tuple[Array, Metrics]


class Fakes(NamedTuple):
    """Handed from the generator's step to the critic's: the fakes, and the critic's statistics after judging them."""

    image: Array
    stats: Params


@dataclass(frozen=True)
class Round:
    """Both players on one batch.

    The generator moves against the critic as it stands; then the critic moves on the same fakes, which the generator
    made before it moved. The critic's running statistics move three times: by the fake in the generator's part, then
    by real and fake.

    Attributes:
        target: the real image.
        make: (generator's parameters, statistics, whether it trains) -> what it makes, and its statistics.
        fake: what it makes -> the image that is judged.
        score: (critic's parameters, statistics, an image, whether it trains) -> scores, and its statistics.
        generator_loss: (what was made, scores of the fake) -> loss and terms.
        critic_loss: (scores of the target, scores of the fake) -> loss and terms.
    """

    target: Array
    make: Callable[[Params, Params, bool], tuple[Any, Params]]
    fake: Callable[[Any], Array]
    score: Callable[[Params, Params, Array, bool], tuple[Array, Params]]
    generator_loss: Callable[[Any, Array], Losses]
    critic_loss: Callable[[Array, Array], Losses]

    def update(self, state: State, optimizers: Optimizers) -> tuple[State, Metrics]:
        """Moves the players "generator" and "discriminator"."""
        before = state.stats

        def make(params: Params, critic: Params) -> tuple[Array, Aux]:
            made, stats = self.make(params, before["generator"], True)
            fake = self.fake(made)
            scores, critic_stats = self.score(critic, before["discriminator"], fake, True)
            loss, terms = self.generator_loss(made, scores)
            moved = {"generator": stats, "discriminator": critic_stats}
            return loss, Aux(terms, stats=moved, values=Fakes(fake, critic_stats))

        def judge(params: Params, fakes: Fakes) -> tuple[Array, Aux]:
            real_scores, stats = self.score(params, fakes.stats, self.target, True)
            fake_scores, stats = self.score(params, stats, fakes.image, True)
            loss, terms = self.critic_loss(real_scores, fake_scores)
            return loss, Aux(terms, stats={"discriminator": stats})

        return adversarial_update(
            state,
            maker="generator",
            critic="discriminator",
            optimizers=optimizers,
            make=make,
            remember=lambda state, fakes: (state, fakes),
            judge=judge,
        )

    def look(self, state: State) -> Metrics:
        """The losses of both players, by running statistics."""
        params, stats = state.params["discriminator"], state.stats["discriminator"]
        made, _ = self.make(state.params["generator"], state.stats["generator"], False)
        real_scores, _ = self.score(params, stats, self.target, False)
        fake_scores, _ = self.score(params, stats, self.fake(made), False)
        return {
            **player_metrics("generator", *self.generator_loss(made, fake_scores)),
            **player_metrics("discriminator", *self.critic_loss(real_scores, fake_scores)),
        }
