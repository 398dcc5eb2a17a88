"""Gradients of a leader whose follower answers: fusion that leads segmentation, and the other ways to read the two.

A `Game` (see `jaxfuse.learning.game`) says, for one batch, what there is to differentiate; a scheme turns it into the
gradient of the leader's objective F = task_weight * L^s + fusion_weight * L^f (Fuse4Seg 2024, Eq. 6), L^s being the
segmentation loss of the fused image theta and L^f the fusion loss. The paper's Eqs. 1-5 mix several bi-level problems;
each scheme is one that is consistent:

- `joint`: plain back-propagation through theta. Also the exact answer of the problem below where both levels have the
  same loss on the same data: at the follower's optimum its slope, and with it the implicit part, is zero.
- `fusion_leader`, `rank_one`, `unrolled`: the follower is the segmentation network, trained on the lower half
  of the batch; the leader is judged on the upper half, which is of other subjects.
- `pixel`: the follower is the image, the minimum of an energy around the output of the fusion network. Segmentation is
  trained on that image, and it is the one that users get.
- `weights`: the segmentation network leads, the fusion network follows.
- `detached`: no gradient of the task reaches the leader.

Lower case, like functions: that is how a recipe names them. Everything else about a scheme is in its fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxfuse import implicit
from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.game import Energy, Game, Lead, Memory, Part, Scheme, guard, part_of, report, with_implicit
from jaxfuse.learning.settling import settle

FISHER, HESSIAN, GAUSS_NEWTON = "fisher", "hessian", "gauss_newton"


class FusionLeads:
    """A scheme in which the fusion network leads and the segmentation network learns from `follower_part`."""

    leader: ClassVar[str] = "fusion"
    follower_part: ClassVar[Part] = "all"
    settles: ClassVar[bool] = False
    back_propagates: ClassVar[bool] = False

    def start(self) -> Memory:
        return {}

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        del energy
        return output

    def follow(self, game: Game, made: Any, psi: Params) -> tuple[Array, Metrics]:
        theta = jax.lax.stop_gradient(part_of(self.image(made.theta, game.energy), self.follower_part))
        return game.segmentation_loss(psi, theta, self.follower_part), {}


@dataclass(frozen=True)
class joint(FusionLeads):
    """The gradient of F through theta, psi held (Eq. 7 with all its factors). No second derivatives."""

    back_propagates: ClassVar[bool] = True

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        (value, terms), gradient = jax.value_and_grad(game.upper, has_aux=True)(phi, psi)
        return Lead(gradient, value, terms, memory)


@dataclass(frozen=True)
class detached(FusionLeads):
    """The gradient of fusion_weight * L^f alone: segmentation reads theta but does not shape it."""

    back_propagates: ClassVar[bool] = True

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        def objective(phi: Params) -> tuple[Array, Metrics]:
            fusion, terms = game.fusion_loss(game.fuse(phi, "all"))
            return game.fusion_weight * fusion, {**terms, "fusion_loss": fusion}

        (value, terms), gradient = jax.value_and_grad(objective, has_aux=True)(phi)
        return Lead(gradient, value, terms, memory)


@dataclass(frozen=True)
class pixel(FusionLeads):
    """The task judges theta* = argmin E(theta; Phi(phi)), an image near the output that the energy has smoothed.

    Segmentation learns from theta* too, and predictions give it, as a picture: cut to [0, 1], beyond which the energy
    may go where edges are steep. L^f judges Phi, which it shapes.
    E depends on phi through Phi alone, so the implicit gradient is one image: with H q = dL^s/dtheta at theta*, the
    task's part is J_Phi' q, ordinary back-propagation of q. As gamma -> 0, theta* = Phi and it is that of `joint`. The
    guard compares q with the image that `joint` sends back, and puts that one in its place.

    Attributes:
        gamma, kappa, width: of the energy (`losses.fusion.smooth_fusion_energy`).
        inner_steps: reweighted Gauss-Newton steps from Phi to theta*; 0 takes Phi for theta*.
        steps: most conjugate-gradient steps, of each of them and of the adjoint solve.
        curvature: "gauss_newton" (never negative; leaves out the bend of the gradient's absolute value) or "hessian"
            (exact, and negative in places once gamma is large).
    """

    settles: ClassVar[bool] = True
    gamma: float = 1e-2
    kappa: float = 1.0
    width: float = 1e-2
    inner_steps: int = 4
    steps: int = 20
    curvature: str = GAUSS_NEWTON

    def __post_init__(self) -> None:
        _refuse_unless(self.gamma >= 0 and self.kappa >= 0 and self.width > 0, self)
        _refuse_unless(self.inner_steps >= 0 and self.steps >= 1, self)
        _known("curvature", self.curvature, (GAUSS_NEWTON, HESSIAN))

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        return _picture(settle(self._energy(energy), output, self.inner_steps, self.steps))

    def _energy(self, energy: Callable[..., Energy] | None) -> Energy:
        if energy is None:
            raise UserError("bilevel 'pixel' needs the energy of an image, and this game has none; use 'joint'")
        return energy(gamma=self.gamma, kappa=self.kappa, width=self.width)

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        energy = self._energy(game.energy)
        output = game.fuse(phi, "all").theta
        theta = jax.lax.stop_gradient(settle(energy, output, self.inner_steps, self.steps))

        def task(theta: Array) -> Array:
            return game.task_weight * game.segmentation_loss(psi, _picture(theta), "all")

        def lower(output: Array, theta: Array) -> Array:
            return energy.convex(energy.residuals(theta, output))

        curvature = implicit.hessian()
        if self.curvature == GAUSS_NEWTON:
            curvature = implicit.gauss_newton(lambda output, theta: energy.residuals(theta, output), energy.convex)
        direct = jax.grad(task)(output)
        filtered, info = implicit.hypergradient(
            lambda output, theta: task(theta),
            lower,
            output,
            theta,
            estimator=implicit.cg(steps=self.steps),
            curvature=curvature,
            policy="ignore",
        )
        image, dropped = guard(direct, filtered - direct, info.system_residual)

        def surrogate(phi: Params) -> tuple[Array, tuple[Array, Metrics]]:
            made = game.fuse(phi, "all")
            fusion, terms = game.fusion_loss(made)
            sent_back = jnp.vdot(jax.lax.stop_gradient(image), made.theta)
            return sent_back + game.fusion_weight * fusion, (fusion, terms)

        gradient, (fusion, terms) = jax.grad(surrogate, has_aux=True)(phi)
        value = info.value + game.fusion_weight * fusion
        return Lead(gradient, value, {**terms, "fusion_loss": fusion, **report(info, dropped)}, memory)


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
        weight_decay: that of the follower's optimizer, whose minimum it moves.
        curvature: "fisher" (of the predicted classes: never negative; of Eq. 14 it knows the cross-entropy alone) or
            "hessian" (exact, and negative in places away from a minimum).
        entropy_weight: weight of the cross-entropy in L^s, for the Fisher information.
    """

    steps: int = 10
    damping: float = 1e-2
    weight_decay: float = 1e-4
    curvature: str = FISHER
    entropy_weight: float = 0.5

    def __post_init__(self) -> None:
        _refuse_unless(self.damping >= 0 and self.weight_decay >= 0 and self.steps >= 1, self)
        _refuse_unless(self.entropy_weight > 0, self)
        _known("curvature", self.curvature, (FISHER, HESSIAN))

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        curvature = implicit.hessian(damping=self.damping)
        if self.curvature == FISHER:
            curvature = self._fisher(game, phi, psi)
        estimator = implicit.cg(steps=self.steps)
        return with_implicit(self.upper(game), self.lower(game), phi, psi, estimator, curvature)[0]

    def _fisher(self, game: Game, phi: Params, psi: Params) -> implicit.fisher:
        def logits(phi: Params, psi: Params) -> Array:
            return game.logits(psi, game.fuse(phi, "lower").theta)

        pixels = math.prod(jax.eval_shape(logits, phi, psi).shape[:-1])
        scale, damping = self.entropy_weight / pixels, self.damping + self.weight_decay
        return implicit.fisher(logits, "categorical", scale=scale, damping=damping)


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
        _refuse_unless(0 <= self.memory_decay < 1 and self.weight_decay >= 0, self)

    def start(self) -> Memory:
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
        _refuse_unless(self.steps >= 1 and self.learning_rate > 0 and self.weight_decay >= 0, self)

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        upper = self.upper(game)
        direct = jax.grad(lambda phi: upper(phi, psi)[0])(phi)
        estimator = implicit.unroll(self.steps, learning_rate=self.learning_rate)
        found, info = implicit.hypergradient(upper, self.lower(game), phi, psi, estimator=estimator, policy="ignore")
        gradient, dropped = guard(direct, jax.tree.map(jnp.subtract, found, direct), info.system_residual)
        return Lead(gradient, info.value, {**info.aux["upper"], **report(info, dropped)}, memory)


@dataclass(frozen=True)
class weights:
    """The segmentation network leads: F = L^s, and the fusion network minimizes fusion_weight L^f + coupling L^s.

    Without the coupling the lower level would not know psi, and there would be no implicit part (Eqs. 3-5 as printed).
    For small networks: products are those of the whole fusion network, whose Hessian may be negative in places.

    Attributes:
        coupling: weight of L^s in the follower's objective, positive; times the game's task_weight.
        steps: most conjugate-gradient steps.
        damping: added to the Hessian.
    """

    leader: ClassVar[str] = "segmentation"
    follower_part: ClassVar[Part] = "all"
    settles: ClassVar[bool] = False
    back_propagates: ClassVar[bool] = False
    coupling: float = 1.0
    steps: int = 10
    damping: float = 1e-2

    def __post_init__(self) -> None:
        _refuse_unless(self.coupling > 0 and self.damping >= 0 and self.steps >= 1, self)

    def start(self) -> Memory:
        return {}

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        del energy
        return output

    def follow(self, game: Game, made: Any, psi: Params) -> tuple[Array, Metrics]:
        fusion, terms = game.fusion_loss(made)
        task = game.segmentation_loss(psi, made.theta, "all")
        value = game.fusion_weight * fusion + self.coupling * game.task_weight * task
        return value, {**terms, "fusion_loss": fusion, "task_loss": task}

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead:
        lead, _ = with_implicit(
            lambda psi, phi: (game.task(phi, psi), {}),
            lambda psi, phi: self.follow(game, game.fuse(phi, "all"), psi)[0],
            psi,
            phi,
            implicit.cg(steps=self.steps),
            implicit.hessian(damping=self.damping),
        )
        return lead


SCHEMES: Mapping[str, Callable[..., Scheme]] = {
    kind.__name__: kind for kind in (joint, pixel, fusion_leader, weights, rank_one, unrolled, detached)
}


def _picture(theta: Array) -> Array:
    return jnp.clip(theta, 0, 1)


def _refuse_unless(sound: bool, scheme: Any) -> None:
    if not sound:
        raise UserError(f"{scheme}: counts must be at least 1, widths and rates positive, weights not negative")


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(known)}")
