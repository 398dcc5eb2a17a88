"""The end of a solve, measured anew: what a solver says of itself is not believed.

On the device only sums of squares are taken, most of them in one pass; what follows from them is computed when it is
asked for, inside jit by JAX and outside by NumPy, so that evidence costs little to compile.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxfuse.implicit import trees
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem
from jaxfuse.implicit.trees import Vector

Scalar: TypeAlias = Any  # an array of JAX or NumPy: see `at_hand`


@dataclasses.dataclass(frozen=True)
class Kind:
    """The facts about a solve that need no data.

    Attributes:
        symmetric, definite: what the system is meant to be, as in `LinearSystem`.
        relies: whether the estimator needs positive curvature.
        solves: whether the adjoint is meant to solve the system at all, so that its length tells something.
    """

    symmetric: bool
    definite: bool
    relies: bool
    solves: bool


class Limits(NamedTuple):
    """The limits that an estimate is held to; infinite where nothing is promised.

    Attributes:
        residual: most relative residual of the system.
        error: most `Info.adjoint_error`.
        displacement: most displacement, relative to 1 + |y|.
    """

    residual: Any
    error: Any
    displacement: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """The evidence about one solve; the properties are as in `Info`.

    |q - q*| <= |r| / (least eigenvalue), which the least curvature met estimates from above, and only of a definite
    system; of another, the residual has to stand for the error.

    Attributes:
        unit: in which target and remainders are measured: the largest entry of the target in float32, which squares of
            tiny or huge gradients would not survive; 1 in float64.
        target_squared, remainder_squared: |target|^2 and |target - A q|^2 of the system that was solved, in unit^2.
        true_remainder_squared: the same with the undamped Hessian; None where that is the system.
        adjoint_squared, along: |q|^2 and q . A q.
        inner_squared, place_squared: |d lower/dy|^2 (of a root |residual|^2) and |y|^2.
        met: least curvature that the solver met; infinite or NaN where it met none.
        limits: arrays too, so that evidence of different tolerances can be stacked.
        kind: static.
    """

    unit: Any
    target_squared: Any
    remainder_squared: Any
    true_remainder_squared: Any
    adjoint_squared: Any
    along: Any
    inner_squared: Any
    place_squared: Any
    met: Any
    limits: Limits
    kind: Kind = dataclasses.field(metadata={"static": True})

    @property
    def residual(self) -> Scalar:
        remainder = self.remainder_squared if self.true_remainder_squared is None else self.true_remainder_squared
        return _relative(self, remainder)

    @property
    def system_residual(self) -> Scalar:
        return _relative(self, self.remainder_squared)

    @property
    def least_curvature(self) -> Scalar:
        xp, now = at_hand(self)
        if not self.kind.symmetric:
            return xp.full_like(now.met, xp.nan)
        with np.errstate(all="ignore"):
            return xp.fmin(xp.where(xp.isinf(now.met), xp.nan, now.met), now.along / now.adjoint_squared)

    @property
    def adjoint_error(self) -> Scalar:
        residual = self.system_residual
        if not self.kind.definite:
            return residual
        xp, now = at_hand(self)
        least = self.least_curvature
        with np.errstate(all="ignore"):
            length, target_length = xp.sqrt(now.adjoint_squared), now.unit * xp.sqrt(now.target_squared)
            error = xp.where(least > 0, ratio(residual * target_length, least * length, xp), xp.inf)
            return xp.where(now.adjoint_squared > 0, error, xp.where(now.target_squared > 0, xp.inf, 0))

    @property
    def inner_gradient_norm(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.sqrt(now.inner_squared)

    @property
    def displacement(self) -> Scalar:
        """The inner gradient times |A^-1|, estimated from below by 1 / (least curvature met) and |q| / |target|."""
        xp, now = at_hand(self)
        least = self.least_curvature if self.kind.definite else xp.full_like(now.met, xp.nan)
        with np.errstate(all="ignore"):
            met = xp.where(least > 0, 1 / least, xp.nan)
            if self.kind.solves:
                met = xp.fmax(met, xp.sqrt(now.adjoint_squared) / (now.unit * xp.sqrt(now.target_squared)))
            return xp.sqrt(now.inner_squared) * xp.where(xp.isnan(met), 1, met)

    @property
    def inner_converged(self) -> Scalar:
        return _near(self, self.displacement, self.limits.displacement)

    @property
    def solve_converged(self) -> Scalar:
        return (self.system_residual <= self.limits.residual) & (self.adjoint_error <= self.limits.error)

    @property
    def positive(self) -> Scalar:
        least = self.least_curvature
        judged = self.kind.definite and self.kind.relies
        return ~((least <= 0) & judged)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """The evidence of an estimator that steps the inner iteration and solves nothing: where it is, and its last move.

    The properties are those of `Certificate`; what it cannot know is NaN, and what it does not claim is True. Its
    inner_tolerance is infinite where it claims no optimum.
    """

    inner_squared: Any
    place_squared: Any
    move_squared: Any
    inner_tolerance: Any

    @property
    def residual(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.full_like(now.move_squared, xp.nan)

    system_residual = adjoint_error = least_curvature = residual

    @property
    def inner_gradient_norm(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.sqrt(now.inner_squared)

    @property
    def displacement(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.sqrt(now.move_squared)

    @property
    def inner_converged(self) -> Scalar:
        return _near(self, self.displacement, self.inner_tolerance)

    @property
    def positive(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.ones_like(now.move_squared, dtype=bool)

    solve_converged = positive


def certify(
    system: LinearSystem,
    solved: Solved,
    image: Vector,
    *,
    inner: Vector,
    place: Vector,
    limits: Limits,
    relies: bool,
    solves: bool,
    true_image: Vector | None = None,
) -> Certificate:
    """Measures the end of a solve anew. The evidence carries no derivative.

    Args:
        system: the linear system.
        solved: its solution, as the solver left it.
        image: the system's matrix times the solution.
        inner: d lower/dy, or a root's residual.
        place: y.
        limits: the limits that the solve is held to.
        relies: whether the solver needs positive curvature.
        solves: whether the adjoint is meant to solve the system at all.
        true_image: the undamped Hessian times the solution, where that is another matrix.
    """
    target, adjoint, image, inner, place = lax.stop_gradient((system.target, solved.adjoint, image, inner, place))
    dtype = trees.scalar_type(target)
    unit = jnp.ones((), dtype) if jnp.finfo(dtype).bits == 64 else trees.largest(target)
    inverse = 1 / unit
    scaled = trees.scale(target, inverse)
    remainder = trees.scale(trees.add(target, image, -1), inverse)
    pairs = [(scaled, scaled), (remainder, remainder), (adjoint, adjoint), (adjoint, image), (inner, inner)]
    pairs.append((place, place))
    if true_image is not None:
        undamped = trees.scale(trees.add(target, lax.stop_gradient(true_image), -1), inverse)
        pairs.append((undamped, undamped))
    sums = trees.dots(pairs)
    return Certificate(
        unit=unit,
        target_squared=sums[0],
        remainder_squared=sums[1],
        true_remainder_squared=None if true_image is None else sums[6],
        adjoint_squared=sums[2],
        along=sums[3],
        inner_squared=sums[4],
        place_squared=sums[5],
        met=lax.stop_gradient(solved.least_curvature),
        limits=limits,
        kind=Kind(system.symmetric, system.definite, relies, solves),
    )


def inner_limit(named: float | None, dtype: Any) -> Array:
    """Returns the most displacement allowed, relative to 1 + |y|: as named, else 1e-4 in float64, 1e-3 in float32."""
    if named is None:
        named = 1e-4 if jnp.finfo(dtype).bits == 64 else 1e-3
    return jnp.asarray(named, dtype)


def at_hand(evidence: Any) -> tuple[Any, Any]:
    """Returns the library to compute with, and the evidence as its arrays: NumPy's unless any of it is being traced."""
    leaves = jax.tree.leaves(evidence)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return jnp, evidence
    return np, jax.tree.map(np.asarray, evidence)


def _relative(certificate: Certificate, remainder_squared: Any) -> Scalar:
    """|remainder| / |target|."""
    xp, (target, remainder) = at_hand((certificate.target_squared, remainder_squared))
    with np.errstate(all="ignore"):
        return ratio(xp.sqrt(remainder), xp.sqrt(target), xp)


def ratio(part: Any, whole: Any, xp: Any = jnp) -> Any:
    """part / whole, and 0 where both are 0."""
    return xp.where(part == 0, 0, part / whole)


def _near(evidence: Any, displacement: Any, tolerance: Any) -> Any:
    """Tells whether the displacement is small beside 1 + |y|."""
    xp, (tolerance, place) = at_hand((tolerance, evidence.place_squared))
    return displacement <= tolerance * (1 + xp.sqrt(place))
