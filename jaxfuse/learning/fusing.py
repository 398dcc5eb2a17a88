"""Fusion of two to four images into one, learned without labels: the contract of its networks, and its System.

What is learned is told by a `Lesson`: pure functions of the network's weights. A paper's losses are one, and a paper
that trains in two stages has two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Float, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.combinations import Choice, Combinations, combinations, number_of
from jaxfuse.learning.game import remembered
from jaxfuse.learning.optim import by_part
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import ATTENTION, FUSED, Defaults, Geometry

# The part of what `FusionPart.init` draws that is no weight: running statistics, of a network that has some.
RUNNING = "running"
Sources = Float[Array, "b h w m"]
Presence = Float[Array, "b m"]
MaybeKey = Key[Array, ""] | None


class Fused(NamedTuple):
    """Outputs of a fusion network.

    Attributes:
        theta: the input of the segmentation network, (b h w c).
        image: the fused image (b h w c) in [0, 1], or None where the network makes none. c is 1, or of an image in
            color 2 (red and cyan) or 3 (red, green, blue).
        bands: low and high band of each source, (b h w c m) each, or None where it has none.
        attention: how much each pixel of each source is attended to by the other sources, (b h w m) float32, or None
            where it was not asked for or the network has no such maps. 1 is what every pixel receives from
            indifferent attention, and the mean over the pixels of a source; sources that are absent are 0.
    """

    theta: Array
    image: Array | None
    bands: tuple[Array, Array] | None
    attention: Array | None = None


@runtime_checkable
class FusionPart(Protocol):
    """A fusion network as pure functions."""

    @property
    def divisor(self) -> int:
        """Sides of an image are multiples of it."""
        ...

    def init(self, rng: Key[Array, ""], sources: Any) -> Params: ...

    def fuse(self, params: Params, sources: Sources, presence: Presence, rng: MaybeKey) -> Fused:
        """Sources in [0, 1] with 1 in `presence` where a slot holds one. Without a key nothing is random."""
        ...

    def networks(self, params: Params) -> dict[str, Params]:
        """Names the parameters, each once."""
        ...


@runtime_checkable
class AttentiveFusionPart(FusionPart, Protocol):
    """A fusion network that can also tell where it looks. Predictions ask it to; training never does."""

    def fuse_with_attention(self, params: Params, sources: Sources, presence: Presence) -> Fused:
        """Fuses without a key, and adds `attention` where this form of the network has it."""
        ...


class Seen(NamedTuple):
    """One batch as a lesson sees it.

    Attributes:
        sources, presence: as of `FusionPart.fuse`.
        choice: the modality of each slot, and which slots are used.
        key: of what is random in the network; None where nothing is to be random.
        train: whether this is a step of training; else it is an evaluation.
    """

    sources: Sources
    presence: Presence
    choice: Choice
    key: MaybeKey
    train: bool


class Made(NamedTuple):
    """The outcome of one pass of a batch through a network in a lesson.

    Attributes:
        values: all that the loss reads; any pytree of arrays.
        running: the running statistics after the batch; None of a network that has none.
    """

    values: Any
    running: Params | None = None


@runtime_checkable
class Lesson(Protocol):
    """A task of a network in one phase. `critics` are the parameters of the critics, held; None without any.

    `params` are those of `FusionPart`, with running statistics as the part `RUNNING` of a network that has some.
    """

    def make(self, params: Params, seen: Seen) -> Made:
        """Passes the batch through the network, once. What a phase does not train is cut off by `stop_gradient`."""
        ...

    def loss(self, made: Any, critics: Params | None, seen: Seen) -> tuple[Array, Metrics]:
        """The loss of `Made.values`, and its terms by name."""
        ...

    def fakes(self, made: Any, seen: Seen) -> Any:
        """Returns the part of `Made.values` that critics are shown; None without critics."""
        ...


@runtime_checkable
class FusionCritics(Protocol):
    """Critics of what is made. Their parameters are {part: parameters}; each part has an optimizer of its own."""

    def init(self, rng: Key[Array, ""], image: Any) -> Params:
        """Draws the parameters; `image` has the shape (b h w m) of a batch."""
        ...

    def loss(self, params: Params, seen: Seen, fakes: Any, key: Key[Array, ""]) -> tuple[Array, Metrics]:
        """How badly they tell sources from fakes, and the terms by name."""
        ...

    def moves(self, choice: Choice) -> Mapping[str, Array] | None:
        """Whether each part has something to learn from a choice; None: all have."""
        ...

    def networks(self, params: Params) -> dict[str, Params]:
        """Names the parameters, each once."""
        ...


@dataclass(frozen=True)
class Fusion(Defaults):
    """A fusion network that learns from images alone. The players are "fusion" and, where there are some, "critics".

    In a step the network makes its fakes, the critics move on them, and then the network moves against the critics as
    they are now.

    Attributes:
        shown: number of the combination that is evaluated, and predicted where no presence is given.
    """

    network: FusionPart
    lesson: Lesson
    critics: FusionCritics | None
    combinations: Combinations
    shown: int
    optimizers: Optimizers
    geometry: Geometry

    primary = FUSED

    @property
    def players(self) -> tuple[str, ...]:
        return ("fusion",) if self.critics is None else ("fusion", "critics")

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        image = batch["image"]
        key_fusion, key_critics = jax.random.split(initializer_key(rng))
        sources = jax.ShapeDtypeStruct((*image.shape[:-1], self.combinations.slots), jnp.float32)
        drawn = dict(self.network.init(key_fusion, sources))
        running = drawn.pop(RUNNING, {})
        params: dict[str, Params] = {"fusion": drawn}
        if self.critics is not None:
            params["critics"] = self.critics.init(key_critics, image)
        return create_state(
            rng, params, self.optimizers, stats={**{player: {} for player in params}, "fusion": running}
        )

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        key_choice, key_network, key_critics = jax.random.split(state.key(), 3)
        choice = self.combinations.draw(key_choice)
        seen = Seen(*choice.of(batch["image"]), choice, key_network, True)
        running = state.stats["fusion"]

        def make(params: Params) -> Made:
            return self.lesson.make(_weights(params, running), seen)

        made, known = remembered(make, state.params["fusion"])
        metrics: Metrics = {}
        if (critics := self.critics) is not None:
            fakes = jax.lax.stop_gradient(self.lesson.fakes(made.values, seen))

            def judge(params: Params) -> tuple[Array, Aux]:
                loss, terms = critics.loss(params, seen, fakes, key_critics)
                return loss, Aux(terms)

            state, judged = descend(state, "critics", self.optimizers["critics"], judge, moves=critics.moves(choice))
            metrics |= judged.metrics
        opponents = state.params.get("critics")

        def objective(params: Params) -> tuple[Array, Aux]:
            made = known(params)
            loss, terms = self.lesson.loss(made.values, opponents, seen)
            return loss, Aux(terms, stats={"fusion": made.running} if running else {})

        state, learned = descend(state, "fusion", self.optimizers["fusion"], objective)
        return state.advance(), {**metrics, **learned.metrics}

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        choice = self.combinations.choice(self.shown)
        seen = Seen(*choice.of(batch["image"]), choice, None, False)
        made = self.lesson.make(_weights(state.params["fusion"], state.stats["fusion"]), seen)
        loss, terms = self.lesson.loss(made.values, state.params.get("critics"), seen)
        return {f"fusion/{name}": value for name, value in {"loss": loss, **terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The fused image "fused" (b h w c), and "attention" (b h w m) of a network that tells where it looks.

        `inputs["presence"]`, (m) or (b m), says which modalities are fused; without it, those of the combination shown.
        """
        return self.fuse(state, inputs)

    @property
    def fusing_divisor(self) -> int:
        return self.network.divisor

    @property
    def trained_combos(self) -> tuple[tuple[str, ...], ...]:
        return self.combinations.named

    def fuse(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of `predict`."""
        given = presented(inputs, self.combinations, self.shown)
        weights = _weights(state.params["fusion"], state.stats["fusion"])
        if isinstance(self.network, AttentiveFusionPart):
            fused = self.network.fuse_with_attention(weights, given.sources, given.presence)
        else:
            fused = self.network.fuse(weights, given.sources, given.presence, None)
        if fused.image is None:
            raise UserError("this fusion network makes no fused image; choose a form that has a decoder")
        outputs = {FUSED: fused.image}
        if fused.attention is not None:
            outputs[ATTENTION] = given.by_channel(fused.attention, inputs["image"])
        return outputs

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        critics = {} if self.critics is None else self.critics.networks(params["critics"])
        return {**self.network.networks(params["fusion"]), **critics}


class Presented(NamedTuple):
    """The sources of a prediction.

    Attributes:
        slots: the channel of the image that each source is.
    """

    sources: Sources
    presence: Presence
    slots: Array

    def by_channel(self, values: Float[Array, "b h w m"], image: Array) -> Float[Array, "b h w channels"]:
        """Values of sources by the channels of the image that they are; 0 for channels that are none."""
        # Added: slots that are left over name a modality too, and hold 0.
        return jnp.zeros(image.shape, jnp.float32).at[..., self.slots].add(values)


def presented(inputs: Mapping[str, Array], combinations: Combinations, shown: int) -> Presented:
    """Chooses the sources that are fused: by `presence`, (m) or (b m), else those of the combination shown."""
    image = inputs["image"]
    if "presence" not in inputs:
        choice = combinations.choice(shown)
        return Presented(*choice.of(image), choice.modality)
    presence = jnp.broadcast_to(inputs["presence"], (image.shape[0], image.shape[-1]))
    presence = (presence > 0).astype(jnp.float32)
    sources = jnp.where(presence[:, None, None, :] > 0, image, 0.0)
    return Presented(sources, presence, jnp.arange(image.shape[-1]))


def fusion_system(
    network: FusionPart,
    lesson: Lesson,
    critics: FusionCritics | None = None,
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    combos: str | Sequence[str] = "pairs",
    pairs: Sequence[str] = (),
    most: int = 4,
) -> Fusion:
    """The System of a network and a lesson.

    Args:
        combos: the combinations of modalities that are trained, as `jaxfuse.learning.combinations` reads them.
        pairs: the first of them is the combination that is evaluated, such as "mri+ct"; (): all modalities together.
        most: how many images the network can fuse at once.

    Raises:
        UserError: the network cannot fuse as many images, or what is evaluated is not trained.
    """
    trained = combinations(combos, modalities)
    if trained.slots > most:
        raise UserError(
            f"this network fuses {most} images at most, and combinations of {trained.slots} are to be trained; set "
            "combos to pairs"
        )
    shown = number_of(pairs[0] if pairs else "+".join(modalities), trained)
    parted = {player: by_part(one) if player == "critics" else one for player, one in optimizers.items()}
    return Fusion(network, lesson, critics, trained, shown, parted, Geometry(2, network.divisor))


def _weights(params: Params, running: Params) -> Params:
    """Parameters with running statistics as a part of their own, where there are such."""
    return {**params, RUNNING: running} if running else params
