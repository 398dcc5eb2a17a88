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
        claimed: whether the symmetry is what the caller says.
    """

    symmetric: bool
    definite: bool
    relies: bool
    solves: bool
    claimed: bool


class Limits(NamedTuple):
    """The limits that an estimate is held to; infinite where nothing is promised.

    Attributes:
        residual: most relative residual of the system.
        error: most `Info.adjoint_error`.
        displacement: most displacement, relative to |y|.
    """

    residual: Any
    error: Any
    displacement: Any


class Place(NamedTuple):
    """The point at which a system was posed.

    Attributes:
        y: the inner variables, at least float32.
        inner: d lower/dy there, or a root's residual.
        tolerance: most displacement relative to |y|, as named; None for the rule of `inner_limit`.
        rounding: the coarsest eps of y as it was passed.
        blur: |change of `inner`| that the rounding of y explains; None where y has the digits of the solve.
    """

    y: Vector
    inner: Vector
    tolerance: Any
    rounding: float
    blur: Array | None


class Units(NamedTuple):
    """Powers of two, each near the largest entry of a vector, so that squares of tiny or huge ones survive float32.

    All 1 where every leaf is float64.
    """

    target: Any
    adjoint: Any
    inner: Any
    place: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """The evidence about one solve; the properties are as in `Info`.

    |q - q*| <= |r| / (least eigenvalue), which the least curvature met estimates from above, and only of a definite
    system; of another, the residual has to stand for the error.

    Attributes:
        units: of target (and remainders), adjoint, inner gradient and place.
        target_squared, remainder_squared: |target|^2 and |target - A q|^2 of the system that was solved, in unit^2.
        true_remainder_squared: the same with the undamped Hessian; None where that is the system.
        adjoint_squared, along: |q|^2 and q . A q, in their units.
        inner_squared, place_squared: |d lower/dy|^2 (of a root |residual|^2) and |y|^2, in their units.
        blur: as in `Place`.
        met: least curvature that the solver met; infinite where it met none.
        limits: arrays too, so that evidence of different tolerances can be stacked.
        kind: static.
    """

    units: Units
    target_squared: Any
    remainder_squared: Any
    true_remainder_squared: Any
    adjoint_squared: Any
    along: Any
    inner_squared: Any
    place_squared: Any
    blur: Any
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
        return _least(xp, now) * _size(xp, now)

    @property
    def adjoint_error(self) -> Scalar:
        residual = self.system_residual
        if not self.kind.definite:
            return residual
        xp, now = at_hand(self)
        least = _least(xp, now)
        with np.errstate(all="ignore"):
            known = (least > 0) & ~xp.isinf(least)
            length = xp.where(known, least, 1) * xp.sqrt(now.adjoint_squared)
            error = xp.where(known, ratio(residual * xp.sqrt(now.target_squared), length, xp), xp.inf)
            return xp.where(now.adjoint_squared > 0, error, xp.where(now.target_squared > 0, xp.inf, 0))

    @property
    def inner_gradient_norm(self) -> Scalar:
        return _inner_norm(self)

    @property
    def displacement(self) -> Scalar:
        """The inner gradient times |A^-1|, estimated from below by 1 / (least curvature met) and |q| / |target|."""
        xp, now = at_hand(self)
        least = _least(xp, now) if self.kind.definite else xp.zeros_like(now.met)
        with np.errstate(all="ignore"):
            met = xp.where(least > 0, 1 / xp.where(least > 0, least, 1), 0)  # 0: not known
            if self.kind.solves:
                grown = xp.sqrt(now.adjoint_squared), xp.sqrt(now.target_squared)
                met = xp.maximum(met, xp.where(grown[1] > 0, ratio(*grown, xp), 0))
            per_unit = xp.where(met > 0, met / _size(xp, now), 1)
            return xp.sqrt(now.inner_squared) * (now.units.inner * per_unit)

    @property
    def inner_converged(self) -> Scalar:
        near = _near(self, self.displacement, self.limits.displacement)
        return near if self.blur is None else near | (self.inner_gradient_norm <= at_hand(self)[1].blur)

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

    The properties are those of `Certificate`; what it cannot know is -1 (a curvature: infinite), and what it does not
    claim is True. Its inner_tolerance is infinite where it claims no optimum.
    """

    units: Units  # that of the adjoint is of the move
    inner_squared: Any
    place_squared: Any
    move_squared: Any
    inner_tolerance: Any

    @property
    def residual(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.full_like(now.move_squared, -1)

    system_residual = adjoint_error = residual

    @property
    def least_curvature(self) -> Scalar:
        xp, now = at_hand(self)
        return xp.full_like(now.move_squared, xp.inf)

    @property
    def inner_gradient_norm(self) -> Scalar:
        return _inner_norm(self)

    @property
    def displacement(self) -> Scalar:
        xp, now = at_hand(self)
        return now.units.adjoint * xp.sqrt(now.move_squared)

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
    place: Place,
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
        place: the point at which the system was posed.
        limits: the limits that the solve is held to.
        relies: whether the solver needs positive curvature.
        solves: whether the adjoint is meant to solve the system at all.
        true_image: the undamped Hessian times the solution, where that is another matrix.
    """
    images = [image] if true_image is None else [image, true_image]
    target, adjoint, images, place = lax.stop_gradient((system.target, solved.adjoint, images, place))
    (scaled, q, inner, y), units = measured(target, adjoint, place.inner, place.y)
    image = trees.divide(images[0], units.target)
    remainders = [trees.divide(trees.add(target, each, -1), units.target) for each in images]
    pairs = [(scaled, scaled), (q, q), (q, image), (inner, inner), (y, y), *((each, each) for each in remainders)]
    sums = trees.dots(pairs)
    scalar = trees.scalar_type(target)
    return Certificate(
        units=units,
        target_squared=sums[0],
        remainder_squared=sums[5],
        true_remainder_squared=None if true_image is None else sums[6],
        adjoint_squared=sums[1],
        along=sums[2],
        inner_squared=sums[3],
        place_squared=sums[4],
        blur=place.blur,
        met=lax.stop_gradient(solved.least_curvature).astype(scalar),
        limits=Limits(*(jnp.asarray(limit, scalar) for limit in limits)),
        kind=Kind(system.symmetric, system.definite, relies, solves, system.claimed),
    )


def measured(*vectors: Vector) -> tuple[list[Vector], Units]:
    """Each of four vectors divided by its unit, and the units."""
    if all(trees.coarsest_type(vector) == jnp.float64 for vector in vectors):
        return list(vectors), Units(*[jnp.ones(())] * 4)
    units = [trees.unit(vector) for vector in vectors]
    return [trees.divide(*each) for each in zip(vectors, units, strict=True)], Units(*units)


def inner_limit(named: Any, dtype: Any, rounding: float) -> Array:
    """Returns the most displacement allowed, relative to |y|.

    As named; else 1e-4 in float64, 1e-3 in float32, and two roundings where y came in a coarser type.
    """
    if named is None:
        named = max(1e-4 if jnp.finfo(dtype).bits == 64 else 1e-3, 2 * rounding)
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
    """part / whole; where that is zero, 0 if both are and else infinite."""
    some = whole != 0
    return xp.where(some, part / xp.where(some, whole, 1), xp.where(part == 0, 0, xp.inf))


def _size(xp: Any, now: Any) -> Scalar:
    """The unit of the matrix: that of the target over that of the adjoint."""
    with np.errstate(all="ignore"):
        return now.units.target / now.units.adjoint


def _least(xp: Any, now: Any) -> Scalar:
    """The least curvature met, in units of the matrix; infinite where none was."""
    if not now.kind.symmetric:
        return xp.full_like(now.met, xp.inf)
    with np.errstate(all="ignore"):
        some = now.adjoint_squared > 0
        quotient = xp.where(some, now.along / xp.where(some, now.adjoint_squared, 1), xp.inf)
        met = now.met / _size(xp, now)
        return xp.fmin(xp.where(xp.isnan(met), xp.inf, met), xp.where(xp.isnan(quotient), xp.inf, quotient))


def _inner_norm(evidence: Any) -> Scalar:
    xp, now = at_hand(evidence)
    return now.units.inner * xp.sqrt(now.inner_squared)


def _near(evidence: Any, displacement: Any, tolerance: Any) -> Any:
    """Tells whether the displacement is small beside |y|; an infinite tolerance allows any."""
    xp, (now, tolerance) = at_hand((evidence, tolerance))
    length = now.units.place * xp.sqrt(now.place_squared)
    with np.errstate(all="ignore"):
        return xp.isinf(tolerance) | (displacement <= xp.where(xp.isinf(tolerance), 1, tolerance) * length)
