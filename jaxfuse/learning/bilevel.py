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

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxfuse import implicit
from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.learning.game import Energy, FusionLeads, Game, Lead, Memory, Part, Scheme, guard, report, with_implicit
from jaxfuse.learning.held_out import HESSIAN, fusion_leader, known_choice, rank_one, refuse_unless, unrolled
from jaxfuse.learning.settling import settle

GAUSS_NEWTON = "gauss_newton"
# What a scheme consists of.
_PARTS = (
    *("leader", "follower_part", "settles", "back_propagates"),
    *("start", "image", "follow", "without_task", "__call__"),
)


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
        return Lead(*self.without_task(game, phi, psi), memory)


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
        refuse_unless(self.gamma >= 0 and self.kappa >= 0 and self.width > 0, self)
        refuse_unless(self.inner_steps >= 0 and self.steps >= 1, self)
        known_choice("curvature", self.curvature, (GAUSS_NEWTON, HESSIAN))

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
        image, guarded = guard(direct, filtered - direct, info.system_residual)

        def surrogate(phi: Params) -> tuple[Array, tuple[Array, Metrics]]:
            made = game.fuse(phi, "all")
            fusion, terms = game.fusion_loss(made)
            sent_back = jnp.vdot(jax.lax.stop_gradient(image), made.theta)
            return sent_back + game.fusion_weight * fusion, (fusion, terms)

        gradient, (fusion, terms) = jax.grad(surrogate, has_aux=True)(phi)
        value = info.value + game.fusion_weight * fusion
        return Lead(gradient, value, {**terms, "fusion_loss": fusion, **report(info, guarded)}, memory)


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
        refuse_unless(self.coupling > 0 and self.damping >= 0 and self.steps >= 1, self)

    def start(self, phi: Params, psi: Params) -> Memory:
        del phi, psi
        return {}

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        del energy
        return output

    def follow(self, game: Game, made: Any, psi: Params) -> tuple[Array, Metrics]:
        fusion, terms = game.fusion_loss(made)
        task = game.segmentation_loss(psi, made.theta, "all")
        value = game.fusion_weight * fusion + self.coupling * game.task_weight * task
        return value, {**terms, "fusion_loss": fusion, "task_loss": task}

    def without_task(self, game: Game, phi: Params, psi: Params) -> tuple[Params, Array, Metrics]:
        """Returns those of L^s: the follower does not answer, as its objective lacks L^s."""
        value, gradient = jax.value_and_grad(lambda psi: game.task(phi, psi))(psi)
        return gradient, value, {}

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


def scheme_of(bilevel: Any, options: Mapping[str, Any]) -> Scheme:
    """Returns the scheme of a name, or one's own, with the options given.

    Raises:
        UserError: the name is not known, the scheme has no such option or lacks one, or it is no `Scheme`.
    """
    name: str = repr(bilevel)
    make: Any = bilevel
    if isinstance(bilevel, str):
        if bilevel not in SCHEMES:
            raise UserError(f"bilevel is {name}; choose one of {', '.join(SCHEMES)}, or module:function of your own")
        make = SCHEMES[bilevel]
    elif callable(bilevel):
        name = f"'{bilevel.__module__}:{getattr(bilevel, '__qualname__', type(bilevel).__name__)}'"
    else:
        raise UserError(f"bilevel names {name}, which makes no scheme; name a class or a function of your own")
    collects = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    accepted = {one: p for one, p in inspect.signature(make).parameters.items() if p.kind not in collects}
    if stray := sorted(set(options) - set(accepted)):
        has = ", ".join(sorted(accepted)) or "none"
        raise UserError(f"bilevel {name} has no option {', '.join(stray)}; it has {has}")
    needed = {one for one, parameter in accepted.items() if parameter.default is inspect.Parameter.empty}
    if absent := sorted(needed - set(options)):
        raise UserError(f"bilevel {name} needs a value of {', '.join(absent)}; set it in scheme.options")
    made = make(**options)
    if absent := [one for one in _PARTS if not hasattr(made, one)]:
        raise UserError(
            f"bilevel {name} makes a {type(made).__name__}, which is no scheme: it lacks {', '.join(absent)}; derive "
            "it from jaxfuse.learning.game.FusionLeads and write its __call__"
        )
    return made


def _picture(theta: Array) -> Array:
    return jnp.clip(theta, 0, 1)
