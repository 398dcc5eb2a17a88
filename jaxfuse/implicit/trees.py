"""Vectors made of many arrays: the variables of a pytree, with the few operations that a linear solver needs.

A complex variable is two real arrays, so that every solver and certificate sees real numbers.

Nothing here flattens leaves into one array, so parameters keep whatever sharding they have. Inner products are plain
sums of products, which JAX reduces over any mesh axis, automatic or explicit; inside `jax.shard_map` (with its
default `check_vma=True`) a leaf's type says over which axes it is split, and the sums run over those axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

Vector: TypeAlias = list[Array]
Product: TypeAlias = Callable[[Vector], Vector]

_ONE_PASS = 65_536  # entries of a leaf


def kind_of(leaf: Any) -> Any:
    """Returns the type of an array or a number, and None for what is neither: a function, a string, an object."""
    kind = getattr(leaf, "dtype", None)
    if kind is None and isinstance(leaf, (bool, int, float, complex)):
        kind = jnp.result_type(leaf)
    numeric = kind is not None and any(jnp.issubdtype(kind, each) for each in _ARRAYS)
    return kind if numeric else None


_ARRAYS = (jnp.number, jnp.bool_, jax.dtypes.prng_key)


def is_float(leaf: Any) -> bool:
    """Tells whether a leaf is a real floating-point array or number."""
    kind = kind_of(leaf)
    return kind is not None and jnp.issubdtype(kind, jnp.floating)


def is_complex(leaf: Any) -> bool:
    """Tells whether a leaf is an array of complex numbers, or one."""
    kind = kind_of(leaf)
    return kind is not None and jnp.issubdtype(kind, jnp.complexfloating)


def is_variable(leaf: Any) -> bool:
    """Tells whether a leaf is a variable: integers, masks, keys, functions and strings are not."""
    return is_float(leaf) or is_complex(leaf)


def parts(leaf: Any) -> list[Array]:
    """The real arrays, at least float32, that stand for a variable: itself, or its real and its imaginary part."""
    array = jnp.asarray(leaf)
    return [array.real, array.imag] if is_complex(array) else [promote(array)]


def variables(tree: Any) -> list[Any]:
    """The variables of a tree, each as often as it has parts."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_variable(leaf)]
    return [leaf for leaf in leaves for _ in range(1 + is_complex(leaf))]


def split(tree: Any, name: str) -> tuple[Vector, Callable[[Vector], Any]]:
    """Returns the parts of the variables of `tree`, and the function that puts new ones in their places.

    Raises:
        TypeError: `tree` has nothing to differentiate.
    """
    vector = [part for leaf in jax.tree.leaves(tree) if is_variable(leaf) for part in parts(leaf)]
    if not vector:
        kinds = sorted({_told(leaf) for leaf in jax.tree.leaves(tree)})
        raise TypeError(
            f"{name} has no floating-point leaf ({', '.join(kinds) or 'no leaf'} came), so there is nothing to "
            "differentiate; check what is passed"
        )

    return vector, lambda vector: _filled(tree, vector, _joined, lambda leaf: leaf)


def _told(leaf: Any) -> str:
    kind = kind_of(leaf)
    return type(leaf).__name__ if kind is None else str(kind)


def promote(leaf: Array) -> Array:
    """Makes bfloat16 and float16 float32: products and scalars of a solve need the digits."""
    return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf


def scalar_type(vector: Vector) -> Any:
    """Returns the widest type of the leaves: that of inner products and of all other scalars of a solve."""
    return max((leaf.dtype for leaf in vector), key=lambda kind: jnp.finfo(kind).bits)


def coarsest_type(vector: Vector) -> Any:
    """Returns the narrowest type of the leaves, which limits what a solve can reach."""
    return min((leaf.dtype for leaf in vector), key=lambda kind: jnp.finfo(kind).bits)


def _filled(tree: Any, vector: Vector, fill: Callable[[Any, Iterator[Array]], Any], constant: Callable) -> Any:
    """The tree with `fill` of the parts at variables, and `constant` of the leaf elsewhere."""
    leaves, treedef = jax.tree.flatten(tree)
    rest = iter(vector)
    filled = [fill(leaf, rest) if is_variable(leaf) else constant(leaf) for leaf in leaves]
    if next(rest, None) is not None:
        raise ValueError(f"{len(vector)} parts came for a tree that has {len(variables(tree))}")
    return jax.tree.unflatten(treedef, filled)


def _joined(leaf: Any, rest: Iterator[Array]) -> Array:
    """The next parts as one leaf, in their own type."""
    return lax.complex(next(rest), next(rest)) if is_complex(leaf) else next(rest)


def _typed(leaf: Any, rest: Iterator[Array]) -> Array:
    """The next parts as one leaf of the type of `leaf`."""
    return _joined(leaf, rest).astype(jnp.result_type(leaf))


def replaced(tree: Any, vector: Vector) -> Any:
    """`tree` with these variables, in its types; all other leaves stay."""
    return _filled(tree, vector, _typed, lambda leaf: leaf)


def like(tree: Any, vector: Vector) -> Any:
    """`vector` in the structure and the types of `tree`.

    A leaf that is no variable gets zeros (float0 for keys), and None where it is neither array nor number.
    """

    def constant(leaf: Any) -> Any:
        kind = kind_of(leaf)
        if kind is None:
            return None
        if jnp.issubdtype(kind, jax.dtypes.prng_key):
            return jnp.zeros(jnp.shape(leaf), jax.dtypes.float0)
        return jnp.zeros_like(leaf)

    return _filled(tree, vector, _typed, constant)


def gradient_like(tree: Any, vector: Vector) -> Any:
    """`like` of a gradient: complex leaves are conjugated, d / d real - i d / d imaginary, as those of `jax.grad`."""
    found = like(tree, vector)
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if is_complex(leaf) else leaf, found)


def with_none(tree: Any, vector: Vector) -> Any:
    """`vector` in the structure of `tree`, None where a leaf is no variable: what `Info.adjoint` holds."""
    return _filled(tree, vector, _joined, lambda leaf: None)


def constant(tree: Any) -> Any:
    """`tree` without derivatives."""
    return jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if is_variable(leaf) else leaf, tree)


def read(tree: Any, pattern: Vector, name: str) -> Vector:
    """The parts of the variables of `tree`, refused unless they have the shapes of `pattern`, in its types."""
    found = [part for leaf in jax.tree.leaves(tree) if is_variable(leaf) for part in parts(leaf)]
    shapes, expected = [leaf.shape for leaf in found], [leaf.shape for leaf in pattern]
    if shapes != expected:
        raise ValueError(
            f"{name} has leaves of shapes {shapes}; those of the variable are {expected} (a complex leaf is two)"
        )
    return [leaf.astype(model.dtype) for leaf, model in zip(found, pattern, strict=True)]


def read_gradient(tree: Any, pattern: Vector, name: str) -> Vector:
    """`read` of a gradient in the convention of `jax.grad`, see `gradient_like`."""
    return read(jax.tree.map(lambda leaf: jnp.conj(leaf) if is_complex(leaf) else leaf, tree), pattern, name)


def cotangent(tree: Any, vector: Vector) -> Any:
    """`with_none` of a gradient, in the convention of `jax.grad`: what `read_gradient` reads."""
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if is_complex(leaf) else leaf, with_none(tree, vector))


def varying_axes(leaf: Array) -> tuple[str, ...]:
    """The manual mesh axes over which a leaf is split; empty outside `shard_map`."""
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)  # jax 0.10; a plain set named vma before
    return tuple(sorted(manual.varying if manual is not None else getattr(kind, "vma", ())))


def in_shard_map() -> bool:
    """Tells whether this is being traced inside `jax.shard_map`."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def is_sharded(vector: Vector) -> bool:
    """Tells whether any leaf is known, while tracing, to lie in parts: on an explicit mesh axis or in `shard_map`."""

    def explicit(leaf: Array) -> bool:
        spec = getattr(getattr(jax.typeof(leaf), "sharding", None), "spec", ())
        return any(part is not None for part in spec or ())

    return any(explicit(leaf) or varying_axes(leaf) for leaf in vector)


def dot(left: Vector, right: Vector) -> Array:
    """Inner product over all leaves, all devices included."""
    kind = scalar_type(left)
    total = jnp.zeros((), kind)
    for a, b in zip(left, right, strict=True):
        part = jnp.sum(a * b).astype(kind)
        axes = varying_axes(part)
        total = total + (lax.psum(part, axes) if axes else part)
    return total


def dots(pairs: Sequence[tuple[Vector, Vector]]) -> list[Array]:
    """The inner product of each pair, all of vectors with the same shapes.

    Small leaves are summed in one pass for all pairs, which compiles to one kernel instead of several for each; its
    sums are sequential on a CPU, so large leaves are summed one by one.
    """
    if any(is_sharded(left) or is_sharded(right) for left, right in pairs):
        return [dot(left, right) for left, right in pairs]
    kinds = [scalar_type(left) for left, _ in pairs]
    totals = [jnp.zeros((), kind) for kind in kinds]
    for place, leaf in enumerate(pairs[0][0]):
        parts = [left[place] * right[place] for left, right in pairs]
        if leaf.size > _ONE_PASS:
            sums = [jnp.sum(part) for part in parts]
        else:
            nothing = [jnp.zeros((), part.dtype) for part in parts]
            sums = lax.reduce(parts, nothing, _added, tuple(range(leaf.ndim)))
        totals = [total + part.astype(kind) for total, part, kind in zip(totals, sums, kinds, strict=True)]
    return totals


def _added(left: list[Array], right: list[Array]) -> list[Array]:
    return [a + b for a, b in zip(left, right, strict=True)]


def norm(vector: Vector) -> Array:
    """Euclidean length over all leaves, whatever their scale: squares of float32 end at 1e-38 and 1e38."""
    if coarsest_type(vector) == jnp.float64:
        return length(vector)
    measure = lax.stop_gradient(unit(vector))
    return measure * length(divide(vector, measure))


def root_of_dot(left: Vector, right: Vector) -> Array:
    """The root of an inner product that is not negative, at any scale of the two; 0 where it is."""
    if coarsest_type(left) == jnp.float64:
        return jnp.sqrt(jnp.maximum(dot(left, right), 0))
    units = unit(left), unit(right)
    product = dot(divide(left, units[0]), divide(right, units[1]))
    return jnp.sqrt(units[0]) * jnp.sqrt(units[1]) * jnp.sqrt(jnp.maximum(product, 0))


def length(vector: Vector) -> Array:
    """Euclidean length over all leaves, of vectors near the unit of their type."""
    return jnp.sqrt(dot(vector, vector))


def unit(vector: Vector) -> Array:
    """A power of two near the largest absolute entry: to divide by it is exact, and squares survive afterwards.

    1 where all entries are zero or one is not finite.
    """
    kind = scalar_type(vector)
    most = jnp.zeros((), kind)
    for leaf in vector:
        part = jnp.max(jnp.abs(leaf), initial=0).astype(kind)
        axes = varying_axes(part)
        most = jnp.maximum(most, lax.pmax(part, axes) if axes else part)
    kinds = jnp.finfo(kind)
    near = jnp.clip(most, float(kinds.tiny), float(kinds.max) / 4)
    power = lax.reduce_precision(near, exponent_bits=kinds.nexp, mantissa_bits=0)
    return jnp.where((most > 0) & jnp.isfinite(most), power, 1)


def divide(vector: Vector, measure: Array) -> Vector:
    """vector / measure, in the type of the measure before it is rounded to that of each leaf."""
    return [(leaf.astype(measure.dtype) / measure).astype(leaf.dtype) for leaf in vector]


def multiply(vector: Vector, measure: Array) -> Vector:
    """vector * measure, in the type of the measure before it is rounded to that of each leaf."""
    return [(leaf.astype(measure.dtype) * measure).astype(leaf.dtype) for leaf in vector]


def entangle(vector: Vector) -> Vector:
    """Makes every leaf depend on all others, and keeps the numbers.

    `lax.custom_linear_solve` differentiates all leaves of a right-hand side or none: a leaf without a tangent of its
    own beside one that has one, as where a variable is in no term of x, is an error there.
    """
    if len(vector) < 2:
        return vector
    kind = scalar_type(vector)
    nothing = jnp.zeros((), kind)
    for leaf in vector:
        nothing = nothing + jnp.sum(0 * leaf).astype(kind)
    return [leaf + nothing.astype(leaf.dtype) for leaf in vector]


def spoil(vector: Vector, good: Array) -> Vector:
    """Makes a vector that is not good NaN, its derivatives too; no NaN comes up where it is."""
    bad = jnp.where(good, 0.0, jnp.inf)
    return scale(vector, 1 + (bad - bad))


def add(left: Vector, right: Vector, scale: Any = 1.0) -> Vector:
    """left + scale * right, in the types of `left`."""
    return [a + jnp.asarray(scale, a.dtype) * b.astype(a.dtype) for a, b in zip(left, right, strict=True)]


def scale(vector: Vector, factor: Any) -> Vector:
    return [jnp.asarray(factor, leaf.dtype) * leaf for leaf in vector]


def zeros(vector: Vector) -> Vector:
    return [jnp.zeros_like(leaf) for leaf in vector]


def select(condition: Array, yes: Vector, no: Vector) -> Vector:
    return [jnp.where(condition, a, b) for a, b in zip(yes, no, strict=True)]


def all_finite(vector: Vector) -> Array:
    """Tells whether every entry, on every device, is finite."""
    finite = jnp.array(True)
    for leaf in vector:
        bad = jnp.sum(~jnp.isfinite(leaf))
        axes = varying_axes(bad)
        finite = finite & ((lax.psum(bad, axes) if axes else bad) == 0)
    return finite


def size(vector: Vector) -> int:
    return sum(leaf.size for leaf in vector)


def unknowns(vector: Vector) -> int:
    """The number of entries on all devices; `size` counts those of this part."""
    return sum(leaf.size * math.prod(lax.axis_size(axis) for axis in varying_axes(leaf)) for leaf in vector)


def random_like(key: Array, vector: Vector) -> Vector:
    """Independent standard normal entries, in the sharding of `vector` and different in each part of a split leaf."""

    def draw(key: Array, leaf: Array) -> Array:
        for axis in varying_axes(leaf):
            key = jax.random.fold_in(key, lax.axis_index(axis))
        return jnp.zeros_like(leaf) + jax.random.normal(key, leaf.shape, leaf.dtype)

    keys = jax.random.split(key, len(vector))
    return [draw(one, leaf) for one, leaf in zip(keys, vector, strict=True)]
