"""The training state by player, and the one gradient step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxfuse.arrays import Array, Key, Metrics, Params
from jaxfuse.learning.optim import held

Optimizers = Mapping[str, optax.GradientTransformation]


# Rebuilt with whatever a map over its leaves returns (shapes, shardings), so its annotations are not enforced.
@no_type_check
@struct.dataclass
class State:
    """Everything that a step reads and writes; a pytree that is checkpointed whole.

    Attributes:
        step: updates done, int32 scalar.
        rng: root key; the randomness of a step is `fold_in(rng, step)`.
        params: player -> trainable parameters.
        stats: player -> running statistics; empty where a network has none.
        opt_state: player -> optimizer state.
        memory: further arrays that must survive a restart, such as a pool of past fakes.
        average: moving averages of `params` and `stats`, by these names; empty where none are kept.
    """

    step: Array
    rng: Key[Array, ""]
    params: dict[str, Params]
    stats: dict[str, Params]
    opt_state: dict[str, Any]
    memory: dict[str, Any]
    average: dict[str, Any] = struct.field(default_factory=dict)

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> State:
            """The state with some of its parts replaced; `struct.dataclass` makes it."""
            ...

    def key(self) -> Key[Array, ""]:
        """The key of this step."""
        return jax.random.fold_in(self.rng, self.step)

    def advance(self) -> State:
        return self.replace(step=self.step + 1)


class Aux(NamedTuple):
    """Outputs of an objective beside its loss.

    `metrics` are logged, `stats` replace the running statistics of the players they name, and `values`
    (the fakes that a critic will judge, say) go to the next descend.
    """

    metrics: Metrics
    stats: Mapping[str, Params] = MappingProxyType({})
    values: Any = None


def create_state(
    rng: Key[Array, ""],
    params: dict[str, Params],
    optimizers: Optimizers,
    *,
    stats: dict[str, Params] | None = None,
    memory: dict[str, Any] | None = None,
) -> State:
    """A state at step 0 with fresh optimizers; the players are the keys of `params`."""
    if set(params) != set(optimizers):
        raise ValueError(f"players {sorted(params)} and optimizers {sorted(optimizers)} must be the same")
    return State(
        step=jnp.zeros((), jnp.int32),
        rng=rng,
        params=params,
        stats=stats or {player: {} for player in params},
        opt_state={player: optimizers[player].init(params[player]) for player in params},
        memory=memory or {},
    )


def initializer_key(rng: Key[Array, ""]) -> Key[Array, ""]:
    """A key of the hardware generator made from `rng`.

    A deep 3D network drawn with threefry compiles for tens of seconds on a CPU. Initializers alone use this
    key: under `vmap` its numbers differ from those of a loop.
    """
    words = jax.random.key_data(rng).reshape(-1)
    return jax.random.wrap_key_data(jnp.concatenate([words, words])[:4], impl="rbg")


def apply_gradient(
    state: State,
    player: str,
    optimizer: optax.GradientTransformation,
    gradient: Params,
    loss: Array,
    aux: Aux,
    *,
    moves: Mapping[str, Array] | None = None,
) -> tuple[State, Aux]:
    """Moves one player along a gradient that was found elsewhere; all else as in `descend`."""
    update, opt_state = optimizer.update(gradient, state.opt_state[player], state.params[player])
    params = optax.apply_updates(state.params[player], update)
    if moves is not None:
        params, opt_state = held(moves, params, state.params[player]), held(moves, opt_state, state.opt_state[player])
    state = state.replace(
        params={**state.params, player: params},
        opt_state={**state.opt_state, player: opt_state},
        stats={**state.stats, **aux.stats},
    )
    return state, aux._replace(metrics=player_metrics(player, loss, aux.metrics))


def player_metrics(player: str, loss: Array, terms: Metrics) -> Metrics:
    """A player's loss and its terms by the names that they are logged under, such as `<player>/loss`."""
    return {f"{player}/{name}": value for name, value in {"loss": loss, **terms}.items()}


def descend(
    state: State,
    player: str,
    optimizer: optax.GradientTransformation,
    objective: Callable[[Params], tuple[Array, Aux]],
    *,
    moves: Mapping[str, Array] | None = None,
) -> tuple[State, Aux]:
    """Makes one gradient step of one player on `objective(params) -> (loss, Aux)`.

    Changes `params[player]`, `opt_state[player]` and the statistics that the objective returns; nothing else.
    The loss is added to the metrics as `<player>/loss`.

    Args:
        moves: for a player of parts whose optimizer is made `by_part`, whether each part moves. The others keep their
            parameters and moments: without a gradient, momentum and weight decay would still move them.
    """
    (loss, aux), gradient = jax.value_and_grad(objective, has_aux=True)(state.params[player])
    return apply_gradient(state, player, optimizer, gradient, loss, aux, moves=moves)
