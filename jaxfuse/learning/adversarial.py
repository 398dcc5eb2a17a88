"""Adversarial learning: makers and critics in the order in which they move, cycles, and the pool of past fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Key, Metrics, Params
from jaxfuse.learning.state import Aux, Optimizers, State, descend


class FakePool(NamedTuple):
    """The last fakes shown to one critic. images: (size *space m) bfloat16; count: int32, how many are filled."""

    images: Array
    count: Array


def empty_pool(size: int, image: Array) -> FakePool:
    """A pool for fakes shaped like one example of the batch `image` (b *space m)."""
    return FakePool(jnp.zeros((size, *image.shape[1:]), jnp.bfloat16), jnp.zeros((), jnp.int32))


def exchange(pool: FakePool, fakes: Array, key: Key[Array, ""]) -> tuple[Array, FakePool]:
    """Hands out, for each new fake, itself or a stored one (the image pool of the public CycleGAN code).

    Until the pool is full each fake is stored and returned. Afterwards, with probability one half, a random
    stored fake is returned and the new one takes its place; otherwise the new one is returned and not stored.
    A size of 0 returns the fakes as they are. Stored fakes come back rounded to bfloat16.
    """
    size = pool.images.shape[0]
    if size == 0:
        return fakes, pool

    def one(pool: FakePool, item: tuple[Array, Array]) -> tuple[FakePool, Array]:
        fake, key = item
        choose, place = jax.random.split(key)
        full = pool.count >= size
        swap = full & jax.random.bernoulli(choose)
        slot = jnp.where(full, jax.random.randint(place, (), 0, size), pool.count)
        old = jax.lax.dynamic_index_in_dim(pool.images, slot, keepdims=False)
        kept = jnp.where(swap | ~full, fake.astype(pool.images.dtype), old)
        images = jax.lax.dynamic_update_index_in_dim(pool.images, kept, slot, 0)
        return FakePool(images, jnp.minimum(pool.count + 1, size)), jnp.where(swap, old.astype(fake.dtype), fake)

    pool, shown = jax.lax.scan(one, pool, (fakes, jax.random.split(key, fakes.shape[0])))
    return shown, pool


def adversarial_update(
    state: State,
    *,
    maker: str,
    critic: str,
    optimizers: Optimizers,
    make: Callable[[Params, Params], tuple[Array, Aux]],
    remember: Callable[[State, Any], tuple[State, Any]],
    judge: Callable[[Params, Any], tuple[Array, Aux]],
    moves: Mapping[str, Array] | None = None,
) -> tuple[State, Metrics]:
    """The maker moves against the critic as it stands; then the critic moves on the same, pre-update fakes.

    Args:
        make: (maker's parameters, critic's parameters) -> loss; `Aux.values` are the fakes.
        remember: (state, fakes without gradient) -> the fakes that the critic sees, through a pool perhaps.
        judge: (critic's parameters, fakes shown) -> loss.
        moves: the parts of the critic that move, as in `descend`; None: it moves as a whole.
    """
    opponent = state.params[critic]
    state, made = descend(state, maker, optimizers[maker], lambda params: make(params, opponent))
    state, shown = remember(state, jax.lax.stop_gradient(made.values))
    state, judged = descend(state, critic, optimizers[critic], lambda params: judge(params, shown), moves=moves)
    return state.advance(), {**made.metrics, **judged.metrics}


class Cycle(NamedTuple):
    """Both directions of a translation: A -> fake B -> cycle A and B -> fake A -> cycle B."""

    fake_a: Array
    fake_b: Array
    cycle_a: Array
    cycle_b: Array


class AdversarialGame(Protocol):
    """The losses of both sides; `losses.adversarial.GanForm` is such a game."""

    def maker_loss(self, fake_scores: Array) -> Array: ...

    def critic_loss(self, real_scores: Array, fake_scores: Array) -> Array: ...


class CycleLosses(NamedTuple):
    """The terms of a cycle-consistent GAN.

    Attributes:
        game: the adversarial terms of generators and critics.
        distance: (cycle, real) -> the cycle term, multiplied by `weight`.
    """

    game: AdversarialGame
    distance: Callable[[Array, Array], Array]
    weight: float


def maker_objective(
    cycle: Cycle, real_a: Array, real_b: Array, judge: Callable[[str, Array], Array], losses: CycleLosses
) -> tuple[Array, Metrics]:
    """The generators' loss: both adversarial terms + weight * both cycle terms; `judge(side, image)` gives scores."""
    terms = {
        "adversarial_a": losses.game.maker_loss(judge("a", cycle.fake_a)),
        "adversarial_b": losses.game.maker_loss(judge("b", cycle.fake_b)),
        "cycle_a": losses.distance(cycle.cycle_a, real_a),
        "cycle_b": losses.distance(cycle.cycle_b, real_b),
    }
    loss = terms["adversarial_a"] + terms["adversarial_b"] + losses.weight * (terms["cycle_a"] + terms["cycle_b"])
    return loss, terms


def critic_objective(
    critics: Params,
    real: dict[str, Array],
    fake: dict[str, Array],
    judge: Callable[[Params, Array], Array],
    losses: CycleLosses,
) -> tuple[Array, Metrics]:
    """The sum of both critics' losses; `judge(one critic's parameters, images)` scores each image by itself.

    Real and fake images go through a critic in one batch, in turns, so that each stays on its device.
    """
    terms = {}
    for side in ("a", "b"):
        pairs = jnp.stack([real[side], fake[side].astype(real[side].dtype)], axis=1)
        scores = judge(critics[side], pairs.reshape(-1, *pairs.shape[2:]))
        scores = scores.reshape(-1, 2, *scores.shape[1:])
        terms[f"critic_{side}"] = losses.game.critic_loss(scores[:, 0], scores[:, 1])
    return terms["critic_a"] + terms["critic_b"], terms


def cyclic_update(
    state: State,
    real_a: Array,
    real_b: Array,
    *,
    optimizers: Optimizers,
    maker: str,
    translate: Callable[[Params], tuple[Cycle, Array, Metrics]],
    judge: Callable[[Params, Array], Array],
    losses: CycleLosses,
) -> tuple[State, Metrics]:
    """One step of a cycle-consistent GAN: all generators by one optimizer, then both critics by one.

    Args:
        maker: the player that holds the generators. The critics are the player `discriminators`, whose
            parameters are {"a": ..., "b": ...}; `state.memory["pool"]` has a FakePool under the same names.
        translate: generators' parameters -> (cycle, further loss to add, its metrics).
    """

    def make(params: Params, critics: Params) -> tuple[Array, Aux]:
        cycle, further, metrics = translate(params)
        loss, terms = maker_objective(cycle, real_a, real_b, lambda side, image: judge(critics[side], image), losses)
        return loss + further, Aux({**terms, **metrics}, values={"a": cycle.fake_a, "b": cycle.fake_b})

    def remember(state: State, fakes: dict[str, Array]) -> tuple[State, dict[str, Array]]:
        shown, pool = {}, {}
        for side, key in zip(("a", "b"), jax.random.split(state.key()), strict=True):
            shown[side], pool[side] = exchange(state.memory["pool"][side], fakes[side], key)
        return state.replace(memory={**state.memory, "pool": pool}), shown

    def judge_shown(critics: Params, shown: dict[str, Array]) -> tuple[Array, Aux]:
        loss, terms = critic_objective(critics, {"a": real_a, "b": real_b}, shown, judge, losses)
        return loss, Aux(terms)

    return adversarial_update(
        state,
        maker=maker,
        critic="discriminators",
        optimizers=optimizers,
        make=make,
        remember=remember,
        judge=judge_shown,
    )
