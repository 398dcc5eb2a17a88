"""Fuse4Seg's second phase: fusion and segmentation learn together, through the fused image.

Every step fuses one combination of modalities. The critics move first (source vs fused image), then the follower, then
the leader by its bi-level scheme (`jaxfuse.learning.bilevel`). L^f = adversarial_weight * L_adv + correlation_weight *
L_corr + (1 - correlation_weight) * content, content being Eq. 13 with an intensity term.

Departs from the paper, whose bi-level formulas contradict each other: the default is its final objective (Eq. 6), in
which fusion leads and the task's gradient reaches it through the fused image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.combinations import Choice, Combinations
from jaxfuse.learning.fusing import AttentiveFusionPart, Fused, FusionPart, presented
from jaxfuse.learning.game import Energy, Game, Part, Scheme, part_of, remembered
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Defaults, Geometry
from jaxfuse.losses.fusion import band_correlation, fusion_content, fusion_energy_of, in_gray, smooth_fusion_energy
from jaxfuse.models.fuse4seg.judging import Critics
from jaxfuse.models.fuse4seg.parts import SegmentationPart
from jaxfuse.models.fuse4seg.turns import Pace, move_follower, move_leader, remembering

# Marks the key of a step by which a scheme draws, apart from those of networks.
_PROBES = 7


@dataclass(frozen=True)
class FusionLoss:
    """L^f and its terms; the weights are those of the module's docstring, and of `losses.fusion.fusion_content`.

    `critics` is None where there is no adversarial term.
    """

    critics: Critics | None
    adversarial_weight: float = 0.1
    correlation_weight: float = 0.25
    intensity_weight: float = 1.0
    gradient_weight: float = 10.0

    def __call__(
        self, fused: Fused, critics: Params | None, choice: Choice, sources: Array, presence: Array
    ) -> tuple[Array, Metrics]:
        """The loss of one batch's fused images and its terms; critics are held.

        Raises:
            UserError: a term has a weight, and the network makes nothing that it could judge.
        """
        sigma, loss, terms = self.correlation_weight, jnp.float32(0), {}
        if sigma:
            if fused.bands is None:
                raise UserError(f"correlation_weight is {sigma}, and this fusion network has no bands; set it to 0")
            terms["correlation"] = band_correlation(*fused.bands, presence)
            loss = loss + sigma * terms["correlation"]
        if fused.image is not None:
            content, parts = fusion_content(
                fused.image, sources, presence, intensity=self.intensity_weight, gradient=self.gradient_weight
            )
            terms |= {"content": content, **parts}
            loss = loss + (1 - sigma) * content
        if self.critics is not None:
            fakes = fakes_of(fused, sources)
            terms["adversarial"] = self.critics.maker_loss(critics, fakes, choice, presence)
            loss = loss + self.adversarial_weight * terms["adversarial"]
        return loss, terms

    def weighted(self, terms: Metrics) -> Metrics:
        """The terms of `__call__` that have a weight, with it; their sum is the loss."""
        content = 1 - self.correlation_weight
        weights = {
            "correlation": self.correlation_weight,
            "intensity": content * self.intensity_weight,
            "gradient": content * self.gradient_weight,
            "adversarial": self.adversarial_weight,
        }
        return {name: weight * terms[name] for name, weight in weights.items() if weight and name in terms}


def fakes_of(fused: Fused, sources: Array) -> Array:
    """The fused image, in gray, in every slot (b h w m), to be judged by each slot's critic."""
    if fused.image is None:
        raise UserError("without decoder there is no fused image for critics to judge; set adversarial_weight to 0")
    return jnp.broadcast_to(in_gray(fused.image), sources.shape)


@dataclass(frozen=True)
class Cooperation(Defaults):
    """The players are "fusion", "critics" (absent without adversarial term) and "segmentation".

    Attributes:
        shown: number of the combination that is evaluated, and predicted where no presence is given.
        scheme: finds the leader's gradient.
        fusion_weight: of L^f beside the task in the leader's objective (lambda of Eq. 6). A state holds it as
            `memory["fusion_weight"]`, which is what a step reads: one compiled step serves all weights.
        pace: how often follower and leader move.
    """

    fusion: FusionPart
    segmentation: SegmentationPart
    fusion_loss: FusionLoss
    combinations: Combinations
    shown: int
    scheme: Scheme
    fusion_weight: float
    pace: Pace
    optimizers: Optimizers
    geometry: Geometry

    primary = "S"
    probabilities = ("S",)

    @property
    def players(self) -> tuple[str, ...]:
        return ("fusion", "segmentation") if self.fusion_loss.critics is None else ("fusion", "critics", "segmentation")

    @property
    def holds_out(self) -> bool:
        return self.scheme.follower_part != "all"

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        image = batch["image"]
        key_fusion, key_critics, key_segmentation = jax.random.split(initializer_key(rng), 3)
        sources = jax.ShapeDtypeStruct((*image.shape[:-1], self.combinations.slots), jnp.float32)
        fusion = self.fusion.init(key_fusion, sources)
        presence = jax.ShapeDtypeStruct((len(image), self.combinations.slots), jnp.float32)
        fused = jax.eval_shape(lambda *of: self.fusion.fuse(of[0], of[1], of[2], None), fusion, sources, presence)
        params = {"fusion": fusion, "segmentation": self.segmentation.init(key_segmentation, fused.theta)}
        if self.fusion_loss.critics is not None:
            params["critics"] = self.fusion_loss.critics.init(key_critics, image)
        memory: dict[str, Any] = {"fusion_weight": jnp.float32(self.fusion_weight)}
        if kept := self.scheme.start(fusion, params["segmentation"]):
            memory["bilevel"] = dict(kept)
        state = create_state(rng, params, self.optimizers, memory=memory)
        told_later = self.pace.leader_every > 1 or self.pace.share_every
        return remembering(self.train_step, state, batch) if told_later else state

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        key_choice, key_networks, key_penalty = jax.random.split(state.key(), 3)
        choice = self.combinations.draw(key_choice)
        sources, presence = choice.of(batch["image"])

        def fuse(phi: Params) -> Fused:
            return self.fusion.fuse(phi, sources, presence, key_networks)

        # What it makes now serves critics and follower, for neither of which it is differentiated; and, where that is
        # all that a scheme asks of it, the leader.
        kept, phi = self.scheme.back_propagates, state.params["fusion"]
        fused, known = remembered(fuse, phi) if kept else (fuse(phi), fuse)
        metrics: Metrics = {}
        if (critics := self.fusion_loss.critics) is not None:
            fakes = jax.lax.stop_gradient(fakes_of(fused, sources))
            judge = partial(critics.critic_loss, real=sources, fakes=fakes, choice=choice)
            judge = _objective(partial(judge, presence=presence, key=key_penalty))
            moves = critics.moves(choice)
            state, judged = descend(state, "critics", self.optimizers["critics"], judge, moves=moves)
            metrics |= judged.metrics
        weight, warmup = 1.0, self.pace.warmup_steps
        if warmup:
            weight = (state.step >= warmup).astype(jnp.float32)
        held, memory = state.params.get("critics"), state.memory
        game = self.game(held, batch, choice, key_networks, task_weight=weight, memory=memory)
        psi = state.params["segmentation"]
        if self.scheme.leader == "fusion":
            follower, follow = "segmentation", lambda psi: self.scheme.follow(game, fused, psi)
        else:
            follower, follow = "fusion", lambda phi: self.scheme.follow(game, game.fuse(phi, "all"), psi)
        optimizer, times = self.optimizers[follower], self.pace.follower_steps
        state, followed = move_follower(state, follower, optimizer, _objective(follow), times)
        # A scheme is asked once the task has its weight.
        led = replace(game, task_weight=1.0, key=jax.random.fold_in(key_networks, _PROBES))
        led = replace(led, fuse=lambda phi, part: known(phi)) if kept else led
        state, told = move_leader(state, led, self.scheme, self.optimizers[self.scheme.leader], self.pace)
        return state.advance(), {**metrics, **followed, **told}

    def game(
        self,
        critics: Params | None,
        batch: Batch,
        choice: Choice,
        rng: Key[Array, ""] | None,
        *,
        task_weight: float | Array = 1.0,
        memory: Mapping[str, Any] = MappingProxyType({}),
    ) -> Game:
        """The bi-level game of one batch, a function of the weights of both networks.

        The weight of L^f is that of a state's memory, and of the recipe where there is none, as in an evaluation.
        """
        sources, presence = choice.of(batch["image"])

        def fuse(phi: Params, part: Part) -> Fused:
            return self.fusion.fuse(phi, part_of(sources, part), part_of(presence, part), rng)

        def fusion_loss(made: Fused) -> tuple[Array, Metrics]:
            return self.fusion_loss(made, critics, choice, sources, presence)

        return Game(
            fuse=fuse,
            fusion_loss=fusion_loss,
            fusion_terms=lambda made: self.fusion_loss.weighted(fusion_loss(made)[1]),
            segmentation_loss=lambda psi, theta, part: self.segmentation.loss(
                psi, theta, part_of(batch["label"], part), rng
            ),
            logits=lambda psi, theta: self.segmentation.segment(psi, theta, rng),
            energy=partial(pixel_energy, sources, presence),
            task_weight=task_weight,
            fusion_weight=memory.get("fusion_weight", self.fusion_weight),
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        choice = self.combinations.choice(self.shown)
        game = self.game(state.params.get("critics"), batch, choice, None, memory=state.memory)
        made = game.fuse(state.params["fusion"], "all")
        theta = self.scheme.image(made.theta, game.energy)
        loss, terms = game.judged(made, theta, state.params["segmentation"])
        metrics = {f"fusion/{name}": value for name, value in {"loss": loss, **terms}.items() if name != "task_loss"}
        return {**metrics, "segmentation/loss": terms["task_loss"]}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The fused image "fused" (b h w c), class probabilities "S" (b h w k), and "attention" (b h w m).

        `inputs["presence"]`, (m) or (b m), says which modalities are fused; without it, those of the combination shown.
        "attention" is `Fused.attention` in the order of the image's channels, 0 for those that are not fused; its
        mean of 1 is that over `inputs["image"]`, so over a patch where an image is predicted in several. "fused" is
        absent without decoder, "attention" where the fusion network has none.

        "fused" is the image that segmentation reads. Where the scheme settles another one than the network makes, that
        of the network is "fused_by_network".
        """
        theta, outputs = self._fused(state, inputs)
        logits = self.segmentation.segment(state.params["segmentation"], theta, None)
        return {**outputs, "S": jax.nn.softmax(logits.astype(jnp.float32))}

    @property
    def fusing_divisor(self) -> int:
        return self.fusion.divisor

    @property
    def trained_combos(self) -> tuple[tuple[str, ...], ...]:
        return self.combinations.named

    def fuse(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The fused images and the attention of `predict`, without the segmentation network."""
        return self._fused(state, inputs)[1]

    def _fused(self, state: State, inputs: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Fuses; returns what segmentation reads, and the outputs that `fuse` gives."""
        given = presented(inputs, self.combinations, self.shown)
        sources, presence = given.sources, given.presence
        fused = self._predicted(state.params["fusion"], sources, presence)
        theta, outputs = fused.theta, {"fused": fused.image}
        if self.scheme.settles:
            theta = self.scheme.image(theta, partial(pixel_energy, sources, presence))
            outputs = {"fused": theta, "fused_by_network": fused.image}
        if fused.attention is not None:
            outputs["attention"] = given.by_channel(fused.attention, inputs["image"])
        return theta, {name: output for name, output in outputs.items() if output is not None}

    def _predicted(self, phi: Params, sources: Array, presence: Array) -> Fused:
        if isinstance(self.fusion, AttentiveFusionPart):
            return self.fusion.fuse_with_attention(phi, sources, presence)
        return self.fusion.fuse(phi, sources, presence, None)

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        critics = self.fusion_loss.critics
        return {
            **self.fusion.networks(params["fusion"]),
            **self.segmentation.networks(params["segmentation"]),
            **({} if critics is None else critics.networks(params["critics"])),
        }


def pixel_energy(sources: Array, presence: Array, *, gamma: float, kappa: float, width: float) -> Energy:
    """`losses.fusion.smooth_fusion_energy` as residuals, their convex function, and its reweighting."""
    convex = partial(fusion_energy_of, gamma=gamma, kappa=kappa, width=width)

    def residuals(theta: Array, output: Array) -> dict[str, Array]:
        if theta.shape[-1] != 1:
            raise UserError(
                "bilevel 'pixel' needs a gray fused image, and there is none in color or without decoder; use 'joint'"
            )
        return smooth_fusion_energy(theta, output, sources, presence, gamma=gamma, kappa=kappa, width=width)[1]

    def weights(residuals: dict[str, Array]) -> dict[str, Any]:
        penalties = {"intensity": gamma, "gradient": gamma * kappa}
        reweighted = {name: scale / jnp.hypot(residuals[name], width) for name, scale in penalties.items()}
        return {"fidelity": jnp.ones_like(residuals["fidelity"]), **reweighted}

    return Energy(residuals, convex, weights)


def _objective(function: Callable[[Params], tuple[Array, Metrics]]) -> Callable[[Params], tuple[Array, Aux]]:
    """A loss with its terms, as `descend` wants it."""

    def objective(params: Params) -> tuple[Array, Aux]:
        loss, terms = function(params)
        return loss, Aux(terms)

    return objective
