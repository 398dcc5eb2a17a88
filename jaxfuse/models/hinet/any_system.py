"""How Hi-Net from any sources to any target learns: as Hi-Net, each example by the task that is drawn for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Bool, Float, Key, Metrics, Params
from jaxfuse.learning.networks import LinenNetwork, create_state_of
from jaxfuse.learning.state import Optimizers, State
from jaxfuse.learning.synthesis_task import from_signed
from jaxfuse.learning.system import COMPLETED, Defaults, Geometry, synthesized
from jaxfuse.losses.adversarial import GanForm
from jaxfuse.models.hinet.any_network import Answer, Judged, Question
from jaxfuse.models.hinet.any_task import AnyTask, Ask
from jaxfuse.models.hinet.rounds import Round

Image = Float[Array, "b h w 1"]
Scores = Float[Array, "b scores_h scores_w 1"]


class Drawn(NamedTuple):
    """A batch with the task of each example.

    Attributes:
        target: the image that shall be made; the background where there is none.
        there: whether an example has a target.
    """

    sources: Float[Array, "b h w s"]
    target: Image
    ask: Ask
    there: Bool[Array, " b"]


@dataclass(frozen=True)
class AnySynthesis(Defaults):
    """The learning rule of Hi-Net (`HybridSynthesis`), of other sources and another target for each example and step.

    They are drawn in the step from the run's seed, the step and the example's number (`AnyTask.draw`). Every term is
    that of the paper for the example's own sources and target, and its mean is taken over the examples: those of the
    target and of both sides of the game over the examples that have one, those of a source over all, 0 where an
    example does not show it. Encoder and decoder of a source learn from the examples alone that show it.

    Attributes:
        generator: `Question` -> `Answer`.
        critic: `Judged` -> scores.
        conditional: whether the critic sees the sources behind the target.
    """

    reads_presence = True

    generator: LinenNetwork
    critic: LinenNetwork
    task: AnyTask
    game: GanForm
    target_weight: float
    reconstruction_weight: float
    conditional: bool
    batch_stats_at_test: bool
    optimizers: Optimizers
    geometry: Geometry

    players = ("generator", "discriminator")
    primary = COMPLETED

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        drawn = self._drawn(rng, batch)
        networks = {
            "generator": (self.generator, _question(drawn)),
            "discriminator": (self.critic, self.judged(drawn, drawn.target)),
        }
        return create_state_of(rng, networks, self.optimizers)

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        return self._round(state, batch).update(state, self.optimizers)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        """The losses of a step, by running statistics, of the tasks that the step would draw."""
        return self._round(state, batch).look(state)

    def _round(self, state: State, batch: Batch) -> Round:
        drawn = self._drawn(state.key(), batch)
        return Round(
            target=drawn.target,
            make=lambda params, stats, train: self.generator.apply(params, stats, _question(drawn), train=train),
            fake=lambda answer: answer.made[0],
            score=lambda params, stats, image, train: self.critic.apply(
                params, stats, self.judged(drawn, image), train=train
            ),
            generator_loss=lambda answer, scores: self._generator_loss(answer, scores, drawn),
            critic_loss=lambda real, fake: self._critic_loss(real, fake, drawn),
        )

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every target in [0, 1], made of all the sources that an example has but the target itself.

        `completed` (b h w t) has all of them, and each stands by itself as `synthesized_<name>` (b h w 1), so that one
        alone costs no more than itself. What is made of no source at all means nothing.
        """
        own = self.task.own(inputs)
        asked = tuple(self.task.asked(own, name) for name in self.task.targets)
        question = Question(self.task.sources_of(inputs), own.sources, asked)
        made = [from_signed(one) for one in self._answer(state, question, train=self.batch_stats_at_test).made]
        each = {synthesized(name): one for name, one in zip(self.task.targets, made, strict=True)}
        return {COMPLETED: jnp.concatenate(made, axis=-1), **each}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        generator: Any = params["generator"]
        return {**generator, "discriminator": params["discriminator"]}

    def judged(self, drawn: Drawn, image: Image) -> Judged:
        """The critic's input for a target, real or fake."""
        if self.conditional:
            shown = jnp.where(drawn.ask.sources[:, None, None], drawn.sources, -1.0)
            image = jnp.concatenate([image, shown], axis=-1)
        return Judged(image, drawn.ask.target, drawn.there)

    def _drawn(self, key: Key[Array, ""], batch: Batch) -> Drawn:
        ask = self.task.draw(key, self.task.own(batch))
        targets = jnp.where(ask.target[:, None, None], self.task.targets_of(batch), 0.0)
        there = ask.target.any(axis=1)
        target = jnp.where(there[:, None, None, None], targets.sum(-1, keepdims=True), -1.0)
        return Drawn(self.task.sources_of(batch), target, ask, there)

    def _answer(self, state: State, question: Question, *, train: bool) -> Answer:
        return self.generator.apply(state.params["generator"], state.stats["generator"], question, train=train)[0]

    def _generator_loss(self, answer: Answer, fake_scores: Scores, drawn: Drawn) -> tuple[Array, Metrics]:
        terms = {
            "adversarial": _mean_over(drawn.there, self.game.maker(fake_scores)),
            "target": _mean_over(drawn.there, _error(answer.made[0], drawn.target)),
        }
        loss = terms["adversarial"] + self.target_weight * terms["target"]
        # The sum over an example's sources, not the mean, as for two of them.
        for place, name in enumerate(self.task.sources):
            error = _error(answer.given_back[..., place], drawn.sources[..., place]).mean((1, 2))
            terms[f"reconstruction_{name}"] = jnp.where(drawn.ask.sources[:, place], error, 0.0).mean()
            loss = loss + self.reconstruction_weight * terms[f"reconstruction_{name}"]
        return loss, terms

    def _critic_loss(self, real_scores: Scores, fake_scores: Scores, drawn: Drawn) -> tuple[Array, Metrics]:
        terms = {
            "real": _mean_over(drawn.there, self.game.real(real_scores)),
            "fake": _mean_over(drawn.there, self.game.fake(fake_scores)),
        }
        return 0.5 * (terms["real"] + terms["fake"]), terms


def _question(drawn: Drawn) -> Question:
    return Question(drawn.sources, drawn.ask.sources, (drawn.ask,))


def _error(made: Float[Array, "*shape"], real: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.abs(made.astype(jnp.float32) - real.astype(jnp.float32))


def _mean_over(there: Bool[Array, " b"], values: Float[Array, b * space]) -> Float[Array, ""]:
    """The mean over those examples that are there; 0 where none is."""
    each = values.mean(range(1, values.ndim))
    return jnp.where(there, each, 0.0).sum() / jnp.maximum(there.sum(), 1)
