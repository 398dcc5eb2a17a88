"""The turns of follower and leader in cooperative training: how often each of them moves, and what is told of it.

Where a follower learns from one batch, as here, the literature has two ways to let it come nearer to its optimum before
the leader moves. Several updates on the same batch are the inner loop of MAML (Finn et al. 2017); an update on each of
several batches, each drawn anew, is that of stocBiO (Ji, Yang and Liang 2021) and AmIGO (Arbel and Mairal 2022). The
first costs no data and no fused image, the second does not fit one batch. `Pace` has both, and their product counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.game import Game, Scheme, led, shares
from jaxfuse.learning.optim import paced
from jaxfuse.learning.state import Aux, Optimizers, State, apply_gradient, descend

# In the memory of a state: what the leader was told at its last move, and the shares of terms in it.
LED, SHARES = "led", "shares"


@dataclass(frozen=True)
class Pace:
    """How often each player moves; schedules count steps of the run whatever the pace.

    Attributes:
        warmup_steps: first steps in which the fusion network gets no task gradient, and no scheme is paid for.
        follower_steps: updates of the follower in a step, all on the batch of that step.
        leader_every: the leader moves in the first of so many steps; follower and critics move in all of them. What is
            logged of it in between is what it was at its last move.
        share_every: at every so many moves of the leader each term's share of its gradient is measured, which costs a
            backward pass through the fusion network for each term; 0: never.
    """

    warmup_steps: int = 0
    follower_steps: int = 1
    leader_every: int = 1
    share_every: int = 0

    def check(self, scheme: Scheme) -> None:
        """Refuses numbers that make no sense.

        Raises:
            UserError: one is too small, or shares are asked for where the fusion network does not lead.
        """
        if self.follower_steps < 1 or self.leader_every < 1:
            raise UserError(
                f"follower_steps is {self.follower_steps} and leader_every {self.leader_every}; each must be at least 1"
            )
        if self.share_every < 0:
            raise UserError(f"share_every is {self.share_every}; it must not be negative")
        if self.share_every and scheme.leader != "fusion":
            raise UserError(
                f"share_every is {self.share_every}, and in this scheme segmentation leads, whose loss has one term; "
                "leave it at 0"
            )

    def optimizers(self, optimizers: Optimizers, scheme: Scheme) -> Optimizers:
        """The optimizers of the players, schedules of leader and follower at their own pace."""
        follower = "segmentation" if scheme.leader == "fusion" else "fusion"
        every = {scheme.leader: self.leader_every, follower: 1 / self.follower_steps}
        return {player: paced(one, every.get(player, 1)) for player, one in optimizers.items()}


def move_follower(
    state: State,
    player: str,
    optimizer: optax.GradientTransformation,
    objective: Callable[[Params], tuple[Array, Aux]],
    times: int,
) -> tuple[State, Metrics]:
    """Makes so many updates on one objective; the metrics are those before the first of them."""
    if times == 1:
        state, aux = descend(state, player, optimizer, objective)
        return state, aux.metrics

    def one(now: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Metrics]:
        params, opt_state = now
        here = state.replace(params={**state.params, player: params}, opt_state={**state.opt_state, player: opt_state})
        after, aux = descend(here, player, optimizer, objective)
        return (after.params[player], after.opt_state[player]), aux.metrics

    (params, opt_state), told = jax.lax.scan(one, (state.params[player], state.opt_state[player]), None, times)
    state = _moved(state, player, params, opt_state)
    return state, {name: values[0] for name, values in told.items()}


def move_leader(
    state: State, game: Game, scheme: Scheme, optimizer: optax.GradientTransformation, pace: Pace
) -> tuple[State, Metrics]:
    """Moves the leader along the gradient of its scheme where it is its turn."""

    def move() -> tuple[Any, Any, dict[str, Any], Metrics]:
        memory: dict[str, Any] = dict(state.memory)
        phi, psi = state.params["fusion"], state.params["segmentation"]
        warming = state.step < pace.warmup_steps if pace.warmup_steps else None
        lead = led(scheme, game, phi, psi, memory.get("bilevel", {}), warming)
        told = lead.metrics
        if lead.memory:
            memory["bilevel"] = dict(lead.memory)
        if pace.share_every:
            memory[SHARES] = _shares(state, game, phi, lead.gradient, pace)
            told = {**told, **memory[SHARES]}
        after, aux = apply_gradient(state, scheme.leader, optimizer, lead.gradient, lead.loss, Aux(told))
        if pace.leader_every > 1:
            memory[LED] = dict(aux.metrics)
        return after.params[scheme.leader], after.opt_state[scheme.leader], memory, dict(aux.metrics)

    def rest() -> tuple[Any, Any, dict[str, Any], Metrics]:
        leader, memory = scheme.leader, dict(state.memory)
        return state.params[leader], state.opt_state[leader], memory, dict(memory[LED])

    if LED not in state.memory:
        params, opt_state, memory, metrics = move()
    else:
        params, opt_state, memory, metrics = jax.lax.cond(state.step % pace.leader_every == 0, move, rest)
    return _moved(state, scheme.leader, params, opt_state).replace(memory=memory), metrics


def _shares(state: State, game: Game, phi: Params, gradient: Params, pace: Pace) -> Metrics:
    """The shares where they are due, and what they were where not."""
    if SHARES not in state.memory:
        return shares(game, phi, gradient)
    due = (state.step // pace.leader_every) % pace.share_every == 0
    return jax.lax.cond(due, lambda: shares(game, phi, gradient), lambda: dict(state.memory[SHARES]))


def remembering(train_step: Callable[[State, Any], tuple[State, Metrics]], state: State, batch: Any) -> State:
    """Returns a first state with room for what the turns remember: zeros, which the first step overwrites."""
    learned = {**batch, "label": jnp.asarray(batch["label"], jnp.int32)}
    memory: Mapping[str, Any] = jax.eval_shape(train_step, state, learned)[0].memory
    room = {name: jax.tree.map(jnp.zeros_like, memory[name]) for name in (LED, SHARES) if name in memory}
    return state.replace(memory={**state.memory, **room})


def _moved(state: State, player: str, params: Any, opt_state: Any) -> State:
    return state.replace(params={**state.params, player: params}, opt_state={**state.opt_state, player: opt_state})
