"""Rivals of CMFT in its place: U-Nets that learn images from images by mean absolute error, without critics.

The row "self" of the paper reconstructs each group of modalities from itself. Two further rows are not the paper's.
Denoising reconstructs it from a noisy one. Paired translation learns each group from the other, voxel by voxel: CMFT
without its critics and cycles, so that the difference is what these bring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Metrics, Params
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, descend, initializer_key
from jaxfuse.learning.system import Defaults, Geometry
from jaxfuse.losses.image import l1
from jaxfuse.models.cmft import Pairing, UNetForm, pairing
from jaxfuse.nn.headed_unet import Network


@dataclass(frozen=True)
class Lesson:
    """One U-Net and what it learns.

    Attributes:
        source, target: places of the group that it reads, and of the one that it makes.
        output: the name of what it makes.
        title: the name of the U-Net, for `describe`.
    """

    network: Network
    source: int
    target: int
    output: str
    title: str


@dataclass(frozen=True)
class ImagesFromImages(Defaults):
    """U-Nets that each learn one group of modalities from one, by mean absolute error; none shares a weight.

    Attributes:
        lessons: by the names of the U-Nets' parameters.
        corruption: the standard deviation of Gaussian noise that training adds to what is read.
        accepts_unpaired: whether no lesson compares one group with the other.
    """

    lessons: Mapping[str, Lesson]
    pairing: Pairing
    optimizers: Optimizers
    corruption: float
    geometry: Geometry

    players = ("generators",)

    @property
    def primary(self) -> str:
        return next(iter(self.lessons.values())).output

    @property
    def accepts_unpaired(self) -> bool:
        return all(lesson.source == lesson.target for lesson in self.lessons.values())

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        images, keys = self.pairing.split(batch), jax.random.split(initializer_key(rng), len(self.lessons))
        generators = {
            name: lesson.network.init(key, images[lesson.source])
            for key, (name, lesson) in zip(keys, self.lessons.items(), strict=True)
        }
        return create_state(rng, {"generators": generators}, self.optimizers)

    def _made(self, generators: Params, images: Sequence[Array]) -> dict[str, Array]:
        return {name: lesson.network(generators[name], images[lesson.source]) for name, lesson in self.lessons.items()}

    def _terms(self, generators: Params, inputs: Sequence[Array], targets: Sequence[Array]) -> tuple[Array, Metrics]:
        made = self._made(generators, inputs)
        terms = {f"l1_{name}": l1(made[name], targets[lesson.target]) for name, lesson in self.lessons.items()}
        return sum(terms.values(), jnp.float32(0)), terms

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        images = self.pairing.split(batch)
        keys = jax.random.split(state.key(), len(images))
        noisy = [
            x + self.corruption * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(images, keys, strict=True)
        ]

        def objective(generators: Params) -> tuple[Array, Aux]:
            loss, terms = self._terms(generators, noisy if self.corruption else images, images)
            return loss, Aux(terms)

        state, aux = descend(state, "generators", self.optimizers["generators"], objective)
        return state.advance(), dict(aux.metrics)

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        images = self.pairing.split(batch)
        loss, terms = self._terms(state.params["generators"], images, images)
        return {f"generators/{name}": value for name, value in {"loss": loss, **terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        made = self._made(state.params["generators"], self.pairing.split(inputs))
        return {lesson.output: made[name] for name, lesson in self.lessons.items()}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return {lesson.title: params["generators"][name] for name, lesson in self.lessons.items()}


def make_reconstruction(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    unet: UNetForm = UNetForm(),
    corruption: float = 0.0,
) -> ImagesFromImages:
    """A U-Net of each group, A -> A, B -> B, in place of CMFT: the row "self", or "denoising" with a `corruption`."""
    groups = pairing(pairs, modalities, most=4)
    lessons = {
        side: Lesson(unet.network(len(group)), place, place, f"reconstruction_{side}", f"R_{side.upper()}")
        for place, (side, group) in enumerate(zip(groups.letters, groups.groups, strict=True))
    }
    return ImagesFromImages(lessons, groups, optimizers, corruption, unet.geometry(3))


def make_paired_translation(
    *, optimizers: Optimizers, modalities: Sequence[str], pairs: Sequence[str], unet: UNetForm = UNetForm()
) -> ImagesFromImages:
    """Two U-Nets, A -> B and B -> A, that learn from images of one subject: the generators of CMFT without its game."""
    groups = pairing(pairs, modalities)
    lessons = {
        "ab": Lesson(unet.network(len(groups.groups[1])), 0, 1, "fake_b", "G_AB"),
        "ba": Lesson(unet.network(len(groups.groups[0])), 1, 0, "fake_a", "G_BA"),
    }
    return ImagesFromImages(lessons, groups, optimizers, 0.0, unet.geometry(3))
