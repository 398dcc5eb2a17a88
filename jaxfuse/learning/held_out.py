"""Schemes whose follower learns from one half of the subjects, while its leader is judged on the other half.

They are named with the others in `jaxfuse.learning.bilevel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxfuse import implicit
from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.game import FusionLeads, Game, Lead, Memory, Part, guard, report, with_implicit

FISHER, HESSIAN = "fisher", "hessian"
FIXED, TRACE = "fixed", "trace"


class HeldOut(FusionLeads):
    """The follower minimizes L^s on the lower half of the batch, with weight decay; F has L^s on the upper half."""

    follower_part: ClassVar[Part] = "lower"
    weight_decay: float

    def upper(self, game: Game) -> Callable[[Params, Params], tuple[Array, Metrics]]:
        return lambda phi, psi: game.upper(phi, psi, "upper")

    def lower(self, game: Game) -> Callable[[Params, Params], Array]:
        """L^s on the lower half + weight_decay |psi|^2 / 2."""

        def objective(phi: Params, psi: Params) -> Array:
            return game.task(phi, psi, "lower") + 0.5 * self.weight_decay * optax.tree.norm(psi, squared=True)

        return objective


@dataclass(frozen=True)
class fusion_leader(HeldOut):
    """F_phi - f_{phi psi} q with (C + damping) q = F_psi by conjugate gradients, f being the follower's loss.

    Attributes:
        steps: most conjugate-gradient steps.
        damping: added to the curvature; beside the weight decay, which `f` has.
        damping_scale: "trace" (`damping` is a share of the mean eigenvalue of the curvature, estimated anew at every
            step by one more product, so that it means the same for every network) or "fixed" (it is added as it is).
        warm_start: the solve begins with the q of the step before, which is kept in the memory, as large as psi.
        weight_decay: that of the follower's optimizer, whose minimum it moves.
        curvature: "hessian" (exact, and negative in places away from a minimum, where the solve stops early) or
            "fisher" (of the predicted classes: never negative; of Eq. 14 it knows the cross-entropy alone).
        entropy_weight: weight of the cross-entropy in L^s, for the Fisher information.
    """

    steps: int = 10
    damping: float = 3e-2
    damping_scale: str = TRACE
    warm_start: bool = True
    weight_decay: float = 1e-4
    curvature: str = HESSIAN
    entropy_weight: float = 0.5

    def __post_init__(self) -> None:
        refuse_unless(self.damping >= 0 and self.weight_decay >= 0 and self.steps >= 1, self)
        refuse_unless(self.entropy_weight > 0, self)
        known_choice("curvature", self.curvature, (FISHER, HESSIAN))
        known_choice("damping_scale", self.damping_scale, (TRACE, FIXED))

    def start(self, phi: Params, psi: Params) -> Memory:
        del phi
        return {"adjoint": jax.tree.map(jnp.zeros_like, psi)} if self.warm_start else {}

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        # Of the likelihood alone: Fisher information does not know the weight decay.
        beside = self.weight_decay if self.curvature == FISHER else 0.0
        damping: Any = self.damping + beside
        if self.damping_scale == TRACE:
            key = jax.random.key(0) if game.key is None else game.key
            damping = implicit.TraceShare(self.damping, key, beside=beside)
        fisher = self.curvature == FISHER
        curvature = self._fisher(game, phi, psi, damping) if fisher else implicit.hessian(damping)
        estimator = implicit.cg(steps=self.steps, start=memory["adjoint"] if self.warm_start else None)
        lead, info = with_implicit(self.upper(game), self.lower(game), phi, psi, estimator, curvature)
        return lead._replace(memory={"adjoint": _next_start(info, lead, psi)}) if self.warm_start else lead

    def _fisher(self, game: Game, phi: Params, psi: Params, damping: Any) -> implicit.fisher:
        def logits(phi: Params, psi: Params) -> Array:
            return game.logits(psi, game.fuse(phi, "lower").theta)

        pixels = math.prod(jax.eval_shape(logits, phi, psi).shape[:-1])
        return implicit.fisher(logits, "categorical", scale=self.entropy_weight / pixels, damping=damping)


def _next_start(info: implicit.Info, lead: Lead, psi: Params) -> Params:
    """The q that the next solve begins with: this one, or zero where its gradient was dropped."""
    dropped = lead.metrics["bilevel/dropped"] > 0
    return jax.tree.map(lambda q, w: jnp.where(dropped, 0, q).astype(w.dtype), info.adjoint, psi)


@dataclass(frozen=True)
class rank_one(HeldOut):
    """Outer products of gradients in place of second derivatives: F_phi - c f_phi, c = <g, F_psi> / (|g|^2 + mu).

    g = f_psi. mu is the running mean of |g|^2 over the steps before, |c| <= 1. Limits: at the follower's optimum g is
    zero, and the gradient the direct one; on one batch for both levels c would be near 1 and the gradient cancel,
    which is why each has a half of its own; and it is no curvature (see `implicit.rank_one`). The first step, which
    has no mean yet, takes the direct gradient.

    Attributes:
        memory_decay: how much of the mean a step keeps, once there have been 1 / (1 - memory_decay) of them.
        weight_decay: as in `fusion_leader`.
    """

    memory_decay: float = 0.99
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        refuse_unless(0 <= self.memory_decay < 1 and self.weight_decay >= 0, self)

    def start(self, phi: Params, psi: Params) -> Memory:
        del phi, psi
        return {"squared": jnp.zeros((), jnp.float32), "count": jnp.zeros((), jnp.int32)}

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        mean, count = memory["squared"], memory["count"]
        estimator = implicit.rank_one(damping=jnp.where(count > 0, mean, jnp.inf), limit=1.0)
        upper, lower = self.upper(game), self.lower(game)
        lead, info = with_implicit(upper, lower, phi, psi, estimator, implicit.hessian())
        squared = jnp.square(info.inner_gradient_norm).astype(mean.dtype)
        pace = jnp.maximum(1 / (count + 1), 1 - self.memory_decay)
        # One bad batch must not make the mean useless for ever.
        known = jnp.isfinite(squared)
        kept = {
            "squared": jnp.where(known, mean + pace * (squared - mean), mean),
            "count": count + known.astype(count.dtype),
        }
        return lead._replace(metrics={**lead.metrics, "bilevel/mean_squared": mean}, memory=kept)


@dataclass(frozen=True)
class unrolled(HeldOut):
    """F at the follower's weights after further steps of gradient descent on f, differentiated through: for checks.

    Attributes:
        steps: how many, from psi on.
        learning_rate: of them.
        weight_decay: as in `fusion_leader`.
    """

    steps: int = 5
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        refuse_unless(self.steps >= 1 and self.learning_rate > 0 and self.weight_decay >= 0, self)

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        upper = self.upper(game)
        direct = jax.grad(lambda phi: upper(phi, psi)[0])(phi)
        estimator = implicit.unroll(self.steps, learning_rate=self.learning_rate)
        found, info = implicit.hypergradient(upper, self.lower(game), phi, psi, estimator=estimator, policy="ignore")
        gradient, guarded = guard(direct, jax.tree.map(jnp.subtract, found, direct), info.system_residual)
        return Lead(gradient, info.value, {**info.aux["upper"], **report(info, guarded)}, memory)


def refuse_unless(sound: bool, scheme: Any) -> None:
    if not sound:
        raise UserError(f"{scheme}: counts must be at least 1, widths and rates positive, weights not negative")


def known_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
