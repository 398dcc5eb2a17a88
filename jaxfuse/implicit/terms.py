"""Terms of an inner problem that are known by their proximal step: sets, whose step is a projection, and norms.

Lower case, like functions: `term=l1_norm(0.1)`. Each number (a bound, a weight, a radius) may be a function of x, and
is differentiated then. A term is over all floating leaves of what it is given for; a pytree of terms in the structure
of y, or of its upper part, with None where y is free, gives each part its own. Searches are those of
`optax.projections`; what follows from them (threshold, face, distance from a kink) is written out here, because the
derivative needs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.trees import Vector

Number: TypeAlias = float | Array | Callable[[Any], Any]


class Step(NamedTuple):
    """A proximal step from an argument.

    Attributes:
        point: where it leads, differentiable in the argument and in x.
        active: of each leaf, where a constraint or a kink holds the entry.
        margin: distance of the argument's entries from where the step is not differentiable.
    """

    point: Vector
    active: list[Array]
    margin: Array


@runtime_checkable
class Term(Protocol):
    """A convex term of an inner problem, finite or infinite."""

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        """Minimizes |point - argument|^2 / 2 + length * term(x, point) in the point."""
        ...


@dataclasses.dataclass(frozen=True)
class box:
    """low <= y <= high, entry by entry; equal bounds hold an entry fixed.

    Args:
        low, high: numbers, or arrays in the shape of each leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(implicit.proximal_step(lower, implicit.box(0.0, 1.0), jnp.array([3.0, 0.5, 0.25]), jnp.zeros(3), 1.0))
        [1.   0.5  0.25]
    """

    low: Number = -jnp.inf
    high: Number = jnp.inf

    def __post_init__(self) -> None:
        if isinstance(self.low, int | float) and isinstance(self.high, int | float) and not self.low <= self.high:
            raise ValueError(f"box got low={self.low} and high={self.high}; low must not be above high")

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        bounds = [(_in(self.low, x, leaf), _in(self.high, x, leaf)) for leaf in argument]
        point = [optax.projections.projection_box(v, *pair) for v, pair in zip(argument, bounds, strict=True)]
        rows = list(zip(argument, bounds, strict=True))
        kinks = [jnp.where(low < high, jnp.minimum(abs(v - low), abs(v - high)), jnp.inf) for v, (low, high) in rows]
        return Step(point, [(v <= low) | (v >= high) for v, (low, high) in rows], _least(kinks))


@dataclasses.dataclass(frozen=True)
class l1_norm:
    """weight * sum |y|, the term of a lasso. Active are the entries at zero.

    Args:
        weight: a number, or an array in the shape of each leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(implicit.proximal_step(lower, implicit.l1_norm(1.0), jnp.array([3.0, 0.5, -2.0]), jnp.zeros(3), 1.0))
        [ 2.  0. -1.]
    """

    weight: Number

    def __post_init__(self) -> None:
        _check_weight("l1_norm", self.weight)

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        reach = [_in(self.weight, x, leaf) * length.astype(leaf.dtype) for leaf in argument]
        rows = list(zip(argument, reach, strict=True))
        kept = [abs(v) > most for v, most in rows]
        point = [jnp.where(keep, v - jnp.sign(v) * most, 0) for keep, (v, most) in zip(kept, rows, strict=True)]
        return Step(point, [~keep for keep in kept], _least([abs(abs(v) - most) for v, most in rows]))


@dataclasses.dataclass(frozen=True)
class group_norm:
    """weight * sum over groups of their Euclidean norms, the term of a group lasso. Active are groups at zero.

    Args:
        weight: a number.
        axis: the axis, or axes, of each leaf along which the entries of a group lie; None: a leaf is one group.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(implicit.proximal_step(lower, implicit.group_norm(1.0), jnp.array([2.0, 0.0]), jnp.zeros(2), 1.0))
        [1. 0.]
    """

    weight: Number
    axis: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_weight("group_norm", self.weight)

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        point, active, kinks = [], [], []
        for leaf in argument:
            reach = jnp.asarray(_at(self.weight, x), leaf.dtype) * length.astype(leaf.dtype)
            squared = jnp.sum(leaf**2, axis=self.axis, keepdims=True)
            norm = jnp.sqrt(jnp.where(squared > 0, squared, 1))
            kept = jnp.broadcast_to(jnp.where(squared > 0, norm, 0) > reach, leaf.shape)
            point.append(jnp.where(kept, leaf * jnp.broadcast_to(1 - reach / norm, leaf.shape), 0))
            active.append(~kept)
            kinks.append(abs(jnp.where(squared > 0, norm, 0) - reach))
        return Step(point, active, _least(kinks))


@dataclasses.dataclass(frozen=True)
class simplex:
    """y >= 0 with the sum `total`. Active are the entries at zero.

    Args:
        total: a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(implicit.proximal_step(lower, implicit.simplex(), jnp.array([0.75, 0.75, -1.0]), jnp.zeros(3), 1.0))
        [0.5 0.5 0. ]
    """

    total: Number = 1.0

    def __post_init__(self) -> None:
        check_positive("simplex", total=self.total)

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        total = jnp.asarray(_at(self.total, x), trees.scalar_type(argument))
        return _on_simplex(argument, total)


@dataclasses.dataclass(frozen=True)
class l1_ball:
    """sum |y| <= radius. Where it is tight, the entries at zero are active; else none.

    Args:
        radius: a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(implicit.proximal_step(lower, implicit.l1_ball(), jnp.array([1.0, 0.0, -1.0]), jnp.zeros(3), 1.0))
        [ 0.5  0.  -0.5]
    """

    radius: Number = 1.0

    def __post_init__(self) -> None:
        check_positive("l1_ball", radius=self.radius)

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        radius = jnp.asarray(_at(self.radius, x), trees.scalar_type(argument))
        sizes, signs = [abs(leaf) for leaf in argument], [jnp.sign(leaf) for leaf in argument]
        total = sum((jnp.sum(size).astype(radius.dtype) for size in sizes), jnp.zeros_like(radius))
        tight = total > radius
        cut = _on_simplex(sizes, radius)
        point = [s * p for s, p in zip(signs, cut.point, strict=True)]
        edge = abs(total - radius) / trees.size(argument)  # how far each entry is to move to the boundary
        return Step(
            trees.select(tight, point, argument),
            [each & tight for each in cut.active],
            jnp.minimum(edge, jnp.where(tight, cut.margin, jnp.inf)),
        )


@dataclasses.dataclass(frozen=True)
class l2_ball:
    """Euclidean norm of y, all leaves together, <= radius. Where it is tight, every entry is active.

    Args:
        radius: a positive number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 0.5 * ((y - x) ** 2).sum()
        >>> print(implicit.proximal_step(lower, implicit.l2_ball(), jnp.array([0.0, 0.0, 4.0]), jnp.zeros(3), 1.0))
        [0. 0. 1.]
    """

    radius: Number = 1.0

    def __post_init__(self) -> None:
        check_positive("l2_ball", radius=self.radius)

    def step(self, x: Any, argument: Vector, length: Array) -> Step:
        radius = jnp.asarray(_at(self.radius, x), trees.scalar_type(argument))
        norm = trees.norm(lax.stop_gradient(argument))
        tight = norm > radius
        unit = lax.stop_gradient(trees.unit(argument))
        scaled = trees.divide(argument, unit)
        squared = trees.dot(scaled, scaled)
        factor = jnp.where(tight, radius / unit / jnp.sqrt(jnp.where(tight, squared, 1)), 1)
        return Step(trees.scale(argument, factor), [jnp.full(v.shape, tight) for v in argument], abs(norm - radius))


def step_of(terms: Any, x: Any, y: Any, argument: Vector, length: Array) -> Step:
    """The proximal step of a pytree of terms over y, from an argument in the order of the floating leaves of y.

    Raises:
        ValueError: the terms do not have the structure of the upper part of y.
            Or y is split inside `shard_map`, where sums and the least margin would be those of a part.
            Or a bound or a weight does not fit a leaf of y.
        TypeError: a leaf of them is no term, or y is complex.
    """
    if any(trees.varying_axes(leaf) for leaf in argument):
        raise ValueError(
            "y is split inside shard_map, where a term would see a part of it: call outside, with sharded arrays"
        )
    if any(trees.is_complex(leaf) for leaf in jax.tree.leaves(y)):
        raise TypeError("y has a complex leaf, whose entries a term cannot order: split it into two real arrays")
    rest = iter(argument)
    point, active, kinks = [], [], [jnp.full((), jnp.inf, trees.scalar_type(argument))]
    for term, part in _parts(terms, y):
        vector = [next(rest) for leaf in jax.tree.leaves(part) if trees.is_float(leaf)]
        if term is None or not vector:
            found = Step(vector, [jnp.zeros(leaf.shape, bool) for leaf in vector], kinks[0])
        else:
            found = term.step(x, vector, length)
        point += found.point
        active += found.active
        kinks.append(found.margin.astype(kinks[0].dtype))
    return Step(point, active, lax.stop_gradient(jnp.min(jnp.stack(kinks))))


def _parts(terms: Any, y: Any) -> list[tuple[Term | None, Any]]:
    """Each term with the part of y that it is over."""
    if terms is None:
        raise ValueError("term is None, so nothing constrains y: use hypergradient, or name a term")
    leaves, treedef = jax.tree.flatten(terms, is_leaf=lambda leaf: leaf is None)
    for leaf in leaves:
        if leaf is not None and not isinstance(leaf, Term):
            raise TypeError(f"term has the leaf {leaf!r}; terms such as box(0.0, 1.0) were expected, or None")
    try:
        return list(zip(leaves, treedef.flatten_up_to(y), strict=True))
    except ValueError as error:
        raise ValueError(
            f"term has the structure {treedef}, which is not that of the upper part of y, {jax.tree.structure(y)}"
        ) from error


def _on_simplex(argument: Vector, total: Array) -> Step:
    """The projection by optax, as the function of argument and total that its support makes it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = optax.projections.projection_simplex(lax.stop_gradient(argument), lax.stop_gradient(total))
    support = [leaf > 0 for leaf in found]
    count = sum((jnp.sum(each) for each in support), jnp.array(0)).astype(total.dtype)
    inside = [jnp.where(each, leaf, 0) for each, leaf in zip(support, argument, strict=True)]
    threshold = (sum((jnp.sum(leaf).astype(total.dtype) for leaf in inside), jnp.zeros_like(total)) - total) / count
    above = [leaf - threshold.astype(leaf.dtype) for leaf in argument]
    point = [jnp.where(each, leaf, 0) for each, leaf in zip(support, above, strict=True)]
    return Step(point, [~each for each in support], _least([abs(leaf) for leaf in above]))


def _least(distances: list[Array]) -> Array:
    """The least of all entries, without a derivative."""
    kind = trees.scalar_type(distances)
    return jnp.min(jnp.stack([jnp.min(lax.stop_gradient(leaf), initial=jnp.inf).astype(kind) for leaf in distances]))


def _check_weight(name: str, weight: Number) -> None:
    if isinstance(weight, int | float) and not weight >= 0:
        raise ValueError(f"{name} got weight={weight}; a negative one is no convex term: give 0 or more")


def check_positive(name: str, **numbers: Number) -> None:
    for what, number in numbers.items():
        if isinstance(number, int | float) and not number > 0:
            raise ValueError(f"{name} got {what}={number}; a positive number was expected")


def _at(number: Number, x: Any) -> Any:
    return number(x) if callable(number) else number


def _in(number: Number, x: Any, leaf: Array) -> Array:
    """The number at x, in the type and the shape of a leaf."""
    found = jnp.asarray(_at(number, x), leaf.dtype)
    try:
        return jnp.broadcast_to(found, leaf.shape)
    except ValueError as error:
        raise ValueError(
            f"a bound or weight of a term has the shape {found.shape}, which does not fit a leaf of y of the shape "
            f"{leaf.shape}: give a number, an array of that shape, or a term for each leaf"
        ) from error
