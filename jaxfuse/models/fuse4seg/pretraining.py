"""Fuse4Seg's first phase: encoder and decoder learn to split every source into bands and to put it together again.

Eq. 9: adversarial_weight * L_adv + correlation_weight * L_corr + (1 - correlation_weight) * L_content, a critic per
modality telling sources from reconstructions. Departs from the paper: terms that it sums over two modalities are means
over those that a batch shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Metrics, Params
from jaxfuse.learning.adversarial import adversarial_update
from jaxfuse.learning.combinations import Choice, Combinations
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Defaults, Geometry
from jaxfuse.losses.fusion import band_correlation, reconstruction
from jaxfuse.models.fuse4seg.fusion import FusionForm, FusionNet
from jaxfuse.models.fuse4seg.judging import Critics


@dataclass(frozen=True)
class Pretraining(Defaults):
    """The players are "fusion" (encoder and decoder) and "critics"; the latter is absent without adversarial term.

    Attributes:
        form: of the fusion module; only encoder and decoder are drawn.
        critics: None removes the adversarial term and the critics' update.
        shown: number of the combination that is evaluated.
    """

    form: FusionForm
    critics: Critics | None
    combinations: Combinations
    shown: int
    adversarial_weight: float
    correlation_weight: float
    optimizers: Optimizers
    geometry: Geometry

    primary = "reconstruction"

    @property
    def players(self) -> tuple[str, ...]:
        return ("fusion",) if self.critics is None else ("fusion", "critics")

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        image = batch["image"]
        key_fusion, key_critics = jax.random.split(initializer_key(rng))
        shape = jax.ShapeDtypeStruct((*image.shape[:-1], self.combinations.slots), jnp.float32)
        variables = self.form.network().lazy_init(key_fusion, shape, method=FusionNet.reconstruct)
        params = {"fusion": variables["params"]}
        if self.critics is not None:
            params["critics"] = self.critics.init(key_critics, image)
        return create_state(rng, params, self.optimizers)

    def objective(self, fusion: Params, critics: Params | None, choice: Choice, image: Array) -> tuple[Array, Aux]:
        """Eq. 9 for one combination; the reconstructions (b h w slots) are its values."""
        sources, presence = choice.of(image)
        made = self._reconstruct(fusion, sources)
        low, high = (jnp.stack(made[name], axis=-1) for name in ("low", "high"))
        # A source is gray: every channel of an image in color is to be like it.
        channels = [made["channels"][..., number] for number in range(self.form.image_channels)]
        contents = [reconstruction(sources, channel, presence) for channel in channels]
        terms = {
            "content": jnp.stack(contents).mean(),
            "correlation": band_correlation(low, high, presence),
        }
        sigma = self.correlation_weight
        loss = sigma * terms["correlation"] + (1 - sigma) * terms["content"]
        if self.critics is not None:
            fakes = made["reconstruction"]
            terms["adversarial"] = self.critics.maker_loss(critics, fakes, choice, presence)
            loss = loss + self.adversarial_weight * terms["adversarial"]
        return loss, Aux(terms, values=made["reconstruction"])

    def _reconstruct(self, fusion: Params, sources: Array) -> dict:
        return self.form.network().apply({"params": fusion}, sources, method="reconstruct")  # pyright: ignore

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        key_choice, key_penalty = jax.random.split(state.key())
        choice, image = self.combinations.draw(key_choice), batch["image"]
        critics = self.critics
        if critics is None:
            state, aux = descend(
                state, "fusion", self.optimizers["fusion"], lambda fusion: self.objective(fusion, None, choice, image)
            )
            return state.advance(), dict(aux.metrics)
        sources, presence = choice.of(image)

        def judge(params: Params, fakes: Array) -> tuple[Array, Aux]:
            loss, terms = critics.critic_loss(params, sources, fakes, choice, presence, key_penalty)
            return loss, Aux(terms)

        return adversarial_update(
            state,
            maker="fusion",
            critic="critics",
            optimizers=self.optimizers,
            make=lambda fusion, critics: self.objective(fusion, critics, choice, image),
            remember=lambda state, fakes: (state, fakes),
            judge=judge,
            moves=critics.moves(choice),
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        choice = self.combinations.choice(self.shown)
        loss, aux = self.objective(state.params["fusion"], state.params.get("critics"), choice, batch["image"])
        return {f"fusion/{name}": value for name, value in {"loss": loss, **aux.metrics}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every channel of the image (b h w m), encoded and decoded alone."""
        return {"reconstruction": self._reconstruct(state.params["fusion"], inputs["image"])["reconstruction"]}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        critics = {} if self.critics is None else self.critics.networks(params["critics"])
        return {**params["fusion"], **critics}
