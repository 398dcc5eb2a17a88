"""CMFT of three or more groups of modalities, which the paper names for four single ones and does not run.

One generator for each group makes all other groups of it at once, so that each group has one trunk, which is handed to
its branch of `jaxfuse.models.cmff`; one critic for each group judges what the others made of it. With two groups this
is the cycle GAN of `jaxfuse.models.cmft`.

Departs from the paper, whose extension is a cycle GAN for each pair of groups, and which leaves open what of them the
branches take over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Key, Metrics, Params
from jaxfuse.learning.adversarial import CycleLosses, adversarial_update, empty_pool, exchange
from jaxfuse.learning.state import Aux, Optimizers, State, create_state, initializer_key
from jaxfuse.learning.system import Defaults, Geometry
from jaxfuse.models.cmft import Critics, CycleForm, Pairing, UNetForm, pairing
from jaxfuse.nn.headed_unet import Network

# Images by the letter of their group; fakes by the letters of source and target.
Images = Mapping[str, Array]


@dataclass(frozen=True)
class Translations:
    """Made images of one batch.

    Attributes:
        fakes: by source and target, such as "ab": group b made of group a.
        cycles: by the same: the source made again of that fake.
    """

    fakes: dict[str, Array]
    cycles: dict[str, Array]

    def of(self, made: Mapping[str, Array], side: str, place: int) -> list[Array]:
        """Returns those whose letter at `place` is `side`."""
        return [value for name, value in made.items() if name[place] == side]


@dataclass(frozen=True)
class GroupTranslation(Defaults):
    """The learning rule of CMFT among all groups: least squares against the critics, and cycles by mean absolute error.

    The terms of a group are means over the others, so that they weigh as much as with two groups.

    Attributes:
        networks_of: the generator of each group, by the group's letter.
        pool_size: past fakes kept per critic; 0 disables the pool.
    """

    networks_of: Mapping[str, Network]
    critics: Critics
    pairing: Pairing
    optimizers: Optimizers
    losses: CycleLosses
    pool_size: int
    geometry: Geometry

    players = ("generators", "discriminators")
    primary = "fake_b"

    @property
    def sides(self) -> str:
        """The letters of the groups."""
        return self.pairing.letters

    def images(self, batch: Batch | Mapping[str, Any]) -> dict[str, Array]:
        """The images of each group by its letter."""
        return dict(zip(self.sides, self.pairing.split(batch), strict=True))

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        images, (*keys, last) = self.images(batch), jax.random.split(initializer_key(rng), len(self.sides) + 1)
        generators = {
            generator_name(side, self.sides): self.networks_of[side].init(key, images[side])
            for side, key in zip(self.sides, keys, strict=True)
        }
        params = {"generators": generators, "discriminators": self.critics.init(last, *images.values())}
        pool = {side: empty_pool(self.pool_size, image) for side, image in images.items()}
        return create_state(rng, params, self.optimizers, memory={"pool": pool})

    def _made(self, generators: Params, side: str, image: Array) -> dict[str, Array]:
        """All other groups, made of an image of one."""
        made = self.networks_of[side](generators[generator_name(side, self.sides)], image)
        others, found, start = [other for other in self.sides if other != side], {}, 0
        for other in others:
            count = len(self.pairing.groups[self.sides.index(other)])
            found[other] = made[..., start : start + count]
            start += count
        return found

    def translate(self, generators: Params, images: Images) -> Translations:
        """Every group to every other one, and back."""
        fakes, cycles = {}, {}
        for side, image in images.items():
            for other, fake in self._made(generators, side, image).items():
                fakes[side + other] = fake
                cycles[side + other] = self._made(generators, other, fake)[side]
        return Translations(fakes, cycles)

    def _maker(self, generators: Params, critics: Params, images: Images) -> tuple[Array, Metrics, Translations]:
        made, terms, adversarial, cycles = self.translate(generators, images), {}, jnp.float32(0), jnp.float32(0)
        for side, image in images.items():
            fakes = _in_turns(made.of(made.fakes, side, 1))
            terms[f"adversarial_{side}"] = self.losses.game.maker_loss(self.critics.judge(critics[side], fakes))
            errors = [self.losses.distance(cycle, image) for cycle in made.of(made.cycles, side, 0)]
            terms[f"cycle_{side}"] = sum(errors, jnp.float32(0)) / len(errors)
            adversarial, cycles = adversarial + terms[f"adversarial_{side}"], cycles + terms[f"cycle_{side}"]
        return adversarial + self.losses.weight * cycles, terms, made

    def _critic(self, critics: Params, images: Images, shown: Images) -> tuple[Array, Metrics]:
        terms = {
            f"critic_{side}": self.losses.game.critic_loss(
                self.critics.judge(critics[side], image), self.critics.judge(critics[side], shown[side])
            )
            for side, image in images.items()
        }
        return sum(terms.values(), jnp.float32(0)), terms

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        images = self.images(batch)

        def make(generators: Params, critics: Params) -> tuple[Array, Aux]:
            loss, terms, made = self._maker(generators, critics, images)
            return loss, Aux(terms, values={s: _in_turns(made.of(made.fakes, s, 1)) for s in self.sides})

        def remember(state: State, fakes: dict[str, Array]) -> tuple[State, dict[str, Array]]:
            shown, pool = {}, {}
            for side, key in zip(self.sides, jax.random.split(state.key(), len(self.sides)), strict=True):
                shown[side], pool[side] = exchange(state.memory["pool"][side], fakes[side], key)
            return state.replace(memory={**state.memory, "pool": pool}), shown

        def judge(critics: Params, shown: dict[str, Array]) -> tuple[Array, Aux]:
            loss, terms = self._critic(critics, images, shown)
            return loss, Aux(terms)

        return adversarial_update(
            state,
            maker="generators",
            critic="discriminators",
            optimizers=self.optimizers,
            make=make,
            remember=remember,
            judge=judge,
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        images, critics = self.images(batch), state.params["discriminators"]
        loss, terms, made = self._maker(state.params["generators"], critics, images)
        shown = {side: _in_turns(made.of(made.fakes, side, 1)) for side in self.sides}
        critic, critic_terms = self._critic(critics, images, shown)
        makers = {f"generators/{name}": value for name, value in {"loss": loss, **terms}.items()}
        return makers | {f"discriminators/{name}": value for name, value in {"loss": critic, **critic_terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Each group as the mean of what the others made of it, and of its cycles."""
        made = self.translate(state.params["generators"], self.images(inputs))
        fakes = {f"fake_{side}": _mean(made.of(made.fakes, side, 1)) for side in self.sides}
        return fakes | {f"cycle_{side}": _mean(made.of(made.cycles, side, 0)) for side in self.sides}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        generators = {f"G_{name.upper()}": tree for name, tree in params["generators"].items()}
        return generators | {f"D_{side.upper()}": tree for side, tree in params["discriminators"].items()}


def _in_turns(images: Sequence[Array]) -> Array:
    """Several batches as one, the examples of one place after each other, so that each stays on its device."""
    together = jnp.stack(images, axis=1)
    return together.reshape(-1, *together.shape[2:])


def _mean(images: Sequence[Array]) -> Array:
    return sum(images[1:], images[0]) / len(images)


def generator_name(side: str, sides: str) -> str:
    """The name of the generator of a group: its letter and those of the groups that it makes, such as "ab"."""
    return side + sides.replace(side, "")


def make_group_translation(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    unet: UNetForm = UNetForm(),
    cycle: CycleForm = CycleForm(),
) -> GroupTranslation:
    """CMFT among two to four groups."""
    groups, critics = pairing(pairs, modalities, most=4), cycle.critics(unet)
    count = sum(map(len, groups.groups))
    generators = {
        side: unet.network(count - len(group)) for side, group in zip(groups.letters, groups.groups, strict=True)
    }
    geometry = unet.geometry(3, critics)
    return GroupTranslation(generators, critics, groups, optimizers, cycle.losses(), cycle.pool_size, geometry)
