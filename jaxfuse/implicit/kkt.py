"""Gradients through minima under equalities and inequalities, by the conditions of Karush, Kuhn and Tucker.

Constraints are scaled to the units of y (by the length of their gradients in y, and the multipliers by the curvature),
so that one symmetric system, its residual and the distance from a change of the active set all have one unit:

    s d lower/dy + J'm = 0,    equalities = 0,    inequality = 0 where active, else m = 0,

active where inequality + m > 0. The matrix is [[s H, J'], [J, 0]] with H the Hessian of the Lagrangian, and -1 on the
diagonal of what is not active.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator
from jaxfuse.implicit.attached import AttachedPolicy, implicit_root
from jaxfuse.implicit.face import Face, along_face, largest, rounding_of, stride
from jaxfuse.implicit.hypergradient import apply_policy
from jaxfuse.implicit.info import Info, Policy, check_policy
from jaxfuse.implicit.problem import objective
from jaxfuse.implicit.roots import root_vjp
from jaxfuse.implicit.trees import Vector

Function = Callable[[Any, Any], Any]
_NEAR = 1e-3  # of the size of y


class Constraints(NamedTuple):
    """The constraints of y: equality(x, y) = 0 and inequality(x, y) <= 0, both pytrees of arrays, either one None.

    Example:
        >>> from jaxfuse.implicit import Constraints
        >>> on_a_line = Constraints(equality=lambda x, y: y.sum() - 1, inequality=lambda x, y: -y)
        >>> on_a_line.inequality(None, 2.0)
        -2.0
    """

    equality: Function | None = None
    inequality: Function | None = None


def kkt_hypergradient(
    upper: Function,
    lower: Function,
    x: Any,
    y: Any,
    *,
    constraints: Constraints,
    multipliers: tuple[Any, Any] | None = None,
    estimator: AdjointEstimator | None = None,
    policy: Policy = "warn",
    inner_tolerance: float | None = None,
) -> tuple[Any, Info]:
    """d upper(x, y*(x)) / dx, where y*(x) minimizes lower(x, y) under equalities and inequalities.

    Pure, jittable, under `vmap` too. The gradients in y of all constraints are held: one reverse pass for each.

    Args:
        upper, lower: as in `hypergradient`.
        x, y: any pytrees, y at (or near) the minimum.
        constraints: `Constraints`, functions of (x, y).
        multipliers: those of lower + <m, equality> + <n, inequality>, (m, n) in the structures of what the constraints
            return, None for one that there is not. If None, they are found by least squares from the inequalities
            that hold at y up to a thousandth of |y|: exact where the gradients of these are independent.
        estimator: a solver of symmetric systems that need not be definite; if None, `dense()` for at most 512 unknowns
            (y and multipliers) on one device, else `minres()`.
        policy: as in `hypergradient`. A gradient where an inequality holds without a force has failed a check,
            `Info.smooth`: strict complementarity.
        inner_tolerance: as in `hypergradient`; relative to |(y, scaled multipliers)|.

    Returns:
        The gradient, in the structure and types of x, and `Info`, whose numbers are those of `root_vjp` for the system
        above, but for value, inner_value and aux, which are those of the two functions; and `Info.face`: which
        inequalities are active, how far that is from a change, the curvature along them. `Info.adjoint` is that of
        (y, m, n), scaled.

    Raises:
        ValueError: no constraint, multipliers unlike these, or y known to be split over devices.
        TypeError: as in `hypergradient`, or an estimator that solves no linear system.

    Example:
        The point of a half plane that is nearest to x:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> below = implicit.Constraints(inequality=lambda x, y: y.sum() - 1)
        >>> @jax.jit
        ... def differentiate(x, y):
        ...     return implicit.kkt_hypergradient(lambda x, y: y[0], lower, x, y, constraints=below)
        >>> gradient, info = differentiate(jnp.array([2.0, 1.0]), jnp.array([1.0, 0.0]))
        >>> print(gradient)
        [ 0.5 -0.5]
        >>> bool(info.face.active), bool(info.converged)
        (True, True)
    """
    check_policy(policy)
    kkt = _pose(lower, x, y, constraints, multipliers)
    y_vector, y_merge = trees.split(y, "y")
    x_vector, x_merge = trees.split(x, "x")
    valued = objective(upper, "upper")
    (value, aux), (direct, target) = jax.value_and_grad(
        lambda a, b: valued(x_merge(a), y_merge(b)), argnums=(0, 1), has_aux=True
    )(x_vector, y_vector)
    inner_value, inner_aux = objective(lower, "lower")(x, y)
    nothing = jnp.zeros_like(kkt.multipliers)
    indirect, info = root_vjp(
        kkt.residual,
        x,
        (y, kkt.multipliers),
        (trees.cotangent(y, target), nothing),
        estimator=estimator,
        symmetric=True,
        policy="ignore",
        inner_tolerance=inner_tolerance,
    )
    gradient = trees.add(direct, trees.read_gradient(indirect, direct, "the gradient"))
    tangent = trees.read(info.adjoint[0], target, "the adjoint")
    whole = lax.stop_gradient(tangent)
    curvature = along_face(whole, whole, lax.stop_gradient(target), kkt.length)
    info = dataclasses.replace(
        info,
        value=value,
        inner_value=inner_value,
        aux={"upper": aux, "lower": inner_aux},
        results_finite=info.results_finite & trees.all_finite([*gradient, value, inner_value]),
        face=kkt.face(y_vector, curvature),
        policy=policy,
    )
    return trees.gradient_like(x, apply_policy(info, gradient, direct)), info


def implicit_kkt(
    lower: Function,
    x: Any,
    y: Any,
    *,
    constraints: Constraints,
    multipliers: tuple[Any, Any] | None = None,
    estimator: AdjointEstimator | None = None,
    policy: AttachedPolicy = "nan",
    inner_tolerance: float | None = None,
) -> Any:
    """y itself, as the function of x that its minimum under constraints makes it; else as `implicit_root`.

    Args:
        lower, constraints, multipliers, estimator: as in `kkt_hypergradient`.
        policy: as in `implicit_root`; under "nan", derivatives where an inequality holds without a force are NaN too.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> on_a_line = implicit.Constraints(equality=lambda x, y: y.sum())
        >>> def centered(x):
        ...     return implicit.implicit_kkt(lower, x, x - x.mean(), constraints=on_a_line)
        >>> print(jax.jit(jax.jacobian(centered))(jnp.array([1.0, 3.0])))
        [[ 0.5 -0.5]
         [-0.5  0.5]]
    """
    kkt = _pose(lower, trees.constant(x), trees.constant(y), constraints, trees.constant(multipliers))
    y_vector = trees.constant(trees.split(y, "y")[0])
    unsolved = trees.split(kkt.residual(trees.constant(x), (trees.constant(y), kkt.multipliers)), "y")[0]
    good = jnp.asarray(kkt.face(y_vector, jnp.full_like(kkt.length, jnp.inf)).smooth(trees.norm(unsolved)))

    def residual(x: Any, solution: Any) -> Any:
        inner, multipliers = solution
        if policy == "nan":
            multipliers = trees.spoil([multipliers], good)[0]
        return kkt.residual(x, (inner, multipliers))

    attached = implicit_root(
        residual,
        x,
        (y, kkt.multipliers),
        estimator=estimator,
        symmetric=True,
        policy=policy,
        inner_tolerance=inner_tolerance,
    )
    return attached[0]


class _Conditions(NamedTuple):
    """The conditions of a minimum in the units of y.

    Attributes:
        residual: (x, (y, multipliers)) -> the same structure.
        multipliers: scaled, those of the equalities first, (m,).
        values: of the constraints, scaled, (m,).
        active: of the constraints, (m,); equalities are.
        equalities: their number.
        pulled: length d lower / dy.
        length: what the gradient of `lower` is multiplied by.
        shape: a flat vector of bools of the inequalities -> their structure.
    """

    residual: Callable[[Any, Any], Any]
    multipliers: Array
    values: Array
    active: Array
    equalities: int
    pulled: Vector
    length: Array
    shape: Callable[[Array], Any]

    def face(self, y: Vector, curvature: Array) -> Face:
        kept = slice(self.equalities, None)
        margin = jnp.min(abs(self.values[kept] + self.multipliers[kept]), initial=jnp.inf)
        size = largest([*y, *self.pulled, self.values, self.multipliers])
        return lax.stop_gradient(
            Face(self.shape(self.active[kept]), margin, size, rounding_of(y), curvature.astype(margin.dtype))
        )


def _pose(lower: Function, x: Any, y: Any, constraints: Constraints, multipliers: Any) -> _Conditions:
    vector, merge = trees.split(y, "y")
    if trees.is_sharded(vector):
        raise ValueError("constraints need y whole, and it is split over an explicit mesh axis or inside shard_map")
    kind = trees.scalar_type(vector)
    valued = objective(lower, "lower")
    parts = [_flat(function, kind) for function in constraints]
    if constraints == (None, None):
        raise ValueError("constraints has neither equality nor inequality: use hypergradient, or name one")

    def of_y(inner: Vector) -> Array:
        return jnp.concatenate([part(x, merge(inner)) for part in parts])

    plain, hessian = jax.linearize(jax.grad(lambda inner: valued(x, merge(inner))[0]), vector)
    values, pull = jax.vjp(of_y, vector)
    rows = jax.vmap(lambda unit: pull(unit)[0])(jnp.eye(len(values), dtype=kind))
    equalities = len(parts[0](x, y))
    length = stride(vector, plain, hessian)
    sizes = lax.stop_gradient(jax.vmap(trees.norm)(rows)) if len(values) else values
    sizes = jnp.where(sizes > 0, sizes, 1)
    scaled, pulled = lax.stop_gradient((values / sizes, trees.scale(plain, length)))
    if multipliers is None:
        found = _least_squares(rows, sizes, scaled, pulled, vector, equalities)
    else:
        found = _read(multipliers, constraints, x, y, kind) * sizes * length
    found = lax.stop_gradient(found)
    active = (jnp.arange(len(values)) < equalities) | (scaled + found > 0)

    def residual(x: Any, solution: Any) -> Any:
        inner, forces = solution
        inner_vector, inner_merge = trees.split(inner, "y")

        def held(point: Vector) -> Array:
            return jnp.concatenate([part(x, inner_merge(point)) for part in parts]) / sizes

        slope = jax.grad(lambda point: valued(x, inner_merge(point))[0])(inner_vector)
        now, pull = jax.vjp(held, inner_vector)
        force = pull(jnp.where(active, forces, 0))[0]
        balance = trees.add(force, slope, length)
        return inner_merge(balance), jnp.where(active, now, -forces)

    template = None if constraints.inequality is None else constraints.inequality(x, y)
    return _Conditions(residual, found, scaled, active, equalities, pulled, length, lambda flags: _put(template, flags))


def _least_squares(rows: Vector, sizes: Array, values: Array, pulled: Vector, y: Vector, equalities: int) -> Array:
    """The scaled multipliers of constraints that hold at y up to _NEAR of its size, 0 of the others."""
    near = values >= -_NEAR * largest([*y, *pulled])
    near = near | (jnp.arange(len(values)) < equalities)
    matrix = jnp.concatenate([row.reshape(len(values), -1).astype(sizes.dtype) for row in rows], axis=1)
    matrix = jnp.where(near[:, None], matrix / sizes[:, None], 0)
    side = jnp.concatenate([leaf.reshape(-1).astype(sizes.dtype) for leaf in pulled])
    return jnp.linalg.lstsq(matrix.T, -side)[0]


def _flat(function: Function | None, kind: Any) -> Function:
    """A constraint as one vector."""

    def flat(x: Any, y: Any) -> Array:
        leaves = [] if function is None else jax.tree.leaves(function(x, y))
        return jnp.concatenate([jnp.zeros(0, kind), *(jnp.ravel(leaf).astype(kind) for leaf in leaves)])

    return flat


def _read(multipliers: tuple[Any, Any], constraints: Constraints, x: Any, y: Any, kind: Any) -> Array:
    """The multipliers as one vector."""
    for given, function, name in zip(multipliers, constraints, Constraints._fields, strict=True):
        came = [jnp.shape(leaf) for leaf in jax.tree.leaves(given)]
        expected = [] if function is None else [jnp.shape(leaf) for leaf in jax.tree.leaves(function(x, y))]
        if came != expected:
            raise ValueError(f"multipliers of the {name} have the shapes {came}; its own are {expected}")
    return _flat(lambda x, y: multipliers, kind)(x, y)


def _put(template: Any, flags: Array) -> Any:
    """A vector in the structure of what the inequality returned."""
    leaves, treedef = jax.tree.flatten(template)
    places = iter(
        jnp.split(flags, list(itertools.accumulate(jnp.size(leaf) for leaf in leaves))[:-1]) if leaves else []
    )
    return jax.tree.unflatten(treedef, [next(places).reshape(jnp.shape(leaf)) for leaf in leaves])
