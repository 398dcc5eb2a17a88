"""How Hi-Net learns: one generator with all its networks, and a critic of the synthesized target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Float, Key, Metrics, Params
from jaxfuse.learning.adversarial import adversarial_update
from jaxfuse.learning.networks import LinenNetwork, create_state_of
from jaxfuse.learning.state import Aux, Optimizers, State, player_metrics
from jaxfuse.learning.synthesis_task import Task, from_signed
from jaxfuse.learning.system import SYNTHESIZED, Defaults, Geometry
from jaxfuse.losses.adversarial import GanForm
from jaxfuse.losses.image import l1

Sources = Float[Array, "b h w s"]
Target = Float[Array, "b h w 1"]
# What a generator gives: the target in channel 0, then the sources given back, if any.
Made = Float[Array, "b h w k"]
Scores = Float[Array, "b scores_h scores_w 1"]


class Shown(NamedTuple):
    """Handed from the generator's step to the critic's: the fake, and the critic's statistics after judging it."""

    fake: Array
    stats: Params


@dataclass(frozen=True)
class HybridSynthesis(Defaults):
    """The learning rule of Hi-Net (Eqs. 1 and 4 to 6), in the order of the public code.

    The generator moves against the critic as it stands, by adversarial term + `target_weight` times the mean absolute
    error of the target + `reconstruction_weight` times that of each source; then the critic moves, at half the pace,
    on the same target, which the generator made before it moved. Errors are those of images in [-1, 1].

    In training either network normalizes by what it sees in one pass, so the critic keeps real and fake targets apart,
    and its running statistics move three times a step: fake, in the generator's part, then real and fake. Evaluation
    reads running statistics, as prediction does unless `batch_stats_at_test`.

    Attributes:
        generator, critic: pure functions of parameters and running statistics.
        task: which channels are sources and which is the target.
        game: the adversarial terms, of scores one by one.
        reconstructs: whether the generator gives the sources back.
        conditional: whether the critic sees the sources before the target.
    """

    generator: LinenNetwork
    critic: LinenNetwork
    task: Task
    game: GanForm
    target_weight: float
    reconstruction_weight: float
    reconstructs: bool
    conditional: bool
    batch_stats_at_test: bool
    optimizers: Optimizers
    geometry: Geometry

    players = ("generator", "discriminator")
    primary = SYNTHESIZED

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        sources, target = self.task.sources_of(batch), self.task.target_of(batch)
        networks = {
            "generator": (self.generator, sources),
            "discriminator": (self.critic, self.judged(sources, target)),
        }
        return create_state_of(rng, networks, self.optimizers)

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        sources, target = self.task.sources_of(batch), self.task.target_of(batch)
        before = state.stats

        def make(params: Params, critic: Params) -> tuple[Array, Aux]:
            made, stats = self.generator.apply(params, before["generator"], sources, train=True)
            fake = made[..., :1]
            scores, critic_stats = self._scores(critic, before["discriminator"], sources, fake, train=True)
            loss, terms = self._generator_loss(made, scores, sources, target)
            moved = {"generator": stats, "discriminator": critic_stats}
            return loss, Aux(terms, stats=moved, values=Shown(fake, critic_stats))

        def judge(params: Params, shown: Shown) -> tuple[Array, Aux]:
            real_scores, stats = self._scores(params, shown.stats, sources, target, train=True)
            fake_scores, stats = self._scores(params, stats, sources, shown.fake, train=True)
            loss, terms = self._critic_loss(real_scores, fake_scores)
            return loss, Aux(terms, stats={"discriminator": stats})

        return adversarial_update(
            state,
            maker="generator",
            critic="discriminator",
            optimizers=self.optimizers,
            make=make,
            remember=lambda state, shown: (state, shown),
            judge=judge,
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        """The losses of a step, by running statistics."""
        sources, target = self.task.sources_of(batch), self.task.target_of(batch)
        params, stats = state.params["discriminator"], state.stats["discriminator"]
        made = self._made(state, sources, train=False)
        real_scores, _ = self._scores(params, stats, sources, target, train=False)
        fake_scores, _ = self._scores(params, stats, sources, made[..., :1], train=False)
        return {
            **player_metrics("generator", *self._generator_loss(made, fake_scores, sources, target)),
            **player_metrics("discriminator", *self._critic_loss(real_scores, fake_scores)),
        }

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The target, `synthesized` (b h w 1), and the sources given back, `reconstructed` (b h w s), in [0, 1].

        Of the image the sources' channels alone are read.
        """
        made = from_signed(self._made(state, self.task.sources_of(inputs), train=self.batch_stats_at_test))
        outputs = {"synthesized": made[..., :1]}
        if self.reconstructs:
            outputs["reconstructed"] = made[..., 1:]
        return outputs

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        generator: Any = params["generator"]
        return {**generator, "discriminator": params["discriminator"]}

    def judged(self, sources: Sources, target: Target) -> Float[Array, "b h w m"]:
        """The critic's input for a target, real or fake."""
        return jnp.concatenate([sources, target], axis=-1) if self.conditional else target

    def _made(self, state: State, sources: Sources, *, train: bool) -> Made:
        return self.generator.apply(state.params["generator"], state.stats["generator"], sources, train=train)[0]

    def _scores(
        self, params: Params, stats: Params, sources: Sources, target: Target, *, train: bool
    ) -> tuple[Scores, Params]:
        return self.critic.apply(params, stats, self.judged(sources, target), train=train)

    def _generator_loss(
        self, made: Made, fake_scores: Scores, sources: Sources, target: Target
    ) -> tuple[Array, Metrics]:
        terms = {"adversarial": self.game.maker(fake_scores).mean(), "target": l1(made[..., :1], target)}
        loss = terms["adversarial"] + self.target_weight * terms["target"]
        if self.reconstructs:
            # The sum over the sources, not the mean, as in the public code.
            for i, name in enumerate(self.task.sources):
                terms[f"reconstruction_{name}"] = l1(made[..., i + 1], sources[..., i])
                loss = loss + self.reconstruction_weight * terms[f"reconstruction_{name}"]
        return loss, terms

    def _critic_loss(self, real_scores: Scores, fake_scores: Scores) -> tuple[Array, Metrics]:
        terms = {"real": self.game.real(real_scores).mean(), "fake": self.game.fake(fake_scores).mean()}
        return 0.5 * (terms["real"] + terms["fake"]), terms
