"""How Hi-Net learns: one generator with all its networks, and a critic of the synthesized target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Float, Key, Metrics, Params
from jaxfuse.learning.networks import LinenNetwork, create_state_of
from jaxfuse.learning.state import Optimizers, State
from jaxfuse.learning.synthesis_task import Task, from_signed
from jaxfuse.learning.system import SYNTHESIZED, Defaults, Geometry
from jaxfuse.losses.adversarial import GanForm
from jaxfuse.losses.image import l1
from jaxfuse.models.hinet.rounds import Round

Sources = Float[Array, "b h w s"]
Target = Float[Array, "b h w 1"]
# What a generator gives: the target in channel 0, then the sources given back, if any.
Made = Float[Array, "b h w k"]
Scores = Float[Array, "b scores_h scores_w 1"]


@dataclass(frozen=True)
class HybridSynthesis(Defaults):
    """The learning rule of Hi-Net (Eqs. 1 and 4 to 6), in the order of the public code.

    The generator moves (`Round`) by adversarial term + `target_weight` times the mean absolute error of the target +
    `reconstruction_weight` times that of each source, the critic at half the pace. Errors are those of images in
    [-1, 1].

    In training either network normalizes by what it sees in one pass, so the critic keeps real and fake targets apart.
    Evaluation reads running statistics, as prediction does unless `batch_stats_at_test`.

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
        return self._round(batch).update(state, self.optimizers)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        """The losses of a step, by running statistics."""
        return self._round(batch).look(state)

    def _round(self, batch: Batch) -> Round:
        sources, target = self.task.sources_of(batch), self.task.target_of(batch)
        return Round(
            target=target,
            make=lambda params, stats, train: self.generator.apply(params, stats, sources, train=train),
            fake=lambda made: made[..., :1],
            score=lambda params, stats, image, train: self.critic.apply(
                params, stats, self.judged(sources, image), train=train
            ),
            generator_loss=lambda made, scores: self._generator_loss(made, scores, sources, target),
            critic_loss=self._critic_loss,
        )

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
