"""Randomized Nystrom approximation of a curvature: as an estimator, and as a preconditioner to carry along.

From products with `rank` random directions: C ~ (C T)(T' C T)^-1 (C T)', with orthonormal T and a small shift that
keeps the inner matrix positive (Frangella, Tropp, Udell 2021, algorithm 2.1). The curvature must be positive
semidefinite. Directions are kept as stacks, one more leading axis on each leaf, so that parameters keep their sharding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator, Estimate, adjoint_estimate
from jaxfuse.implicit.certificate import Limits, Place
from jaxfuse.implicit.curvature import Curvature, hessian, is_undamped
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem, pose
from jaxfuse.implicit.series import Approximation
from jaxfuse.implicit.trees import Product, Vector


@dataclasses.dataclass(frozen=True)
class nystrom(Approximation):
    """q = (C_nys + damping I)^-1 b by Woodbury's formula: `rank` products, no iteration (Hataya and Yamada 2023).

    Exact for rank = unknowns, but for the damping, which is part of the method: outside of what `rank` products saw,
    the curvature is taken to be the damping. It should be of the order of the eigenvalues that are left out; on a
    flat spectrum a small one gives a gradient that is far too long (and is flagged). `Info.damping` shows it,
    `Info.system_residual` is that of the damped system. Reverse mode works.

    At full rank the damped matrix itself is solved with, which Woodbury's formula does not survive where the damping is
    of the order of rounding, and the gradient is held to what exact solvers promise.

    Args:
        rank: products, and stored vectors; twice that while computing.
        damping: positive multiple of the identity; the curvature takes none of its own beside it.
        key: of the random directions (inside `shard_map` they depend on the number of parts).
        chunk: products evaluated at a time.
        tolerance: residual of the damped system up to which the gradient counts as converged. If None, 1 and an
            adjoint_error of 1, those of the zero vector; at full rank the rule of exact solvers.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> solver = implicit.nystrom(rank=1, damping=4.0, key=jax.random.key(0))
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
        >>> print(f"{gradient:.3f}")  # exact up to the damping
        0.125
    """

    symmetric: ClassVar[bool] = True
    definite: ClassVar[bool] = True
    rank: int
    damping: float | Array
    key: Array
    chunk: int = 16
    tolerance: float | None = None

    def __post_init__(self) -> None:
        _check(self.rank, self.damping, self.chunk)

    def limits(self, system: LinearSystem, place: Place) -> Limits:
        if self.tolerance is None and self.rank == trees.size(system.target):
            return AdjointEstimator.limits(self, system, place)
        limits = super().limits(system, place)
        return limits if self.tolerance is not None else limits._replace(error=limits.residual)

    def estimate(self, problem: Any, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        damped: Any = dataclasses.replace(_undamped(curvature, "nystrom"), damping=self.damping)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return adjoint_estimate(_damped_outside(**fields), problem, damped, inner_tolerance)

    def solve(self, system: LinearSystem) -> Solved:
        return self._solve(system.apply, system.target)

    def _solve(self, product: Product, target: Vector) -> Solved:
        if self.rank == trees.size(target) and not trees.in_shard_map():
            return self._solve_whole(product, target)
        sketch = _sketch(product, target, self.rank, self.key, self.chunk)
        damping = jnp.asarray(self.damping, sketch.shift.dtype)
        inner = _gram(sketch.factor, sketch.factor) + damping * jnp.eye(self.rank, dtype=damping.dtype)
        seen = cho_solve(cho_factor(inner, lower=True), _dots(sketch.factor, target))
        return Solved(
            adjoint=trees.scale(trees.add(target, _combine(seen, sketch.factor), -1), 1 / damping),
            steps=jnp.array(1),
            products=jnp.array(self.rank),
            least_curvature=sketch.least_curvature + damping,
            best_iterate=jnp.array(False),
        )

    def _solve_whole(self, product: Product, target: Vector) -> Solved:
        tests, _, seen = _test(product, target, self.rank, self.key, self.chunk)
        damping = jnp.asarray(self.damping, seen.dtype)
        inner = seen + damping * jnp.eye(self.rank, dtype=seen.dtype)
        weights = cho_solve(cho_factor(inner, lower=True), _dots(tests, target))
        return Solved(
            adjoint=_combine(weights, tests),
            steps=jnp.array(1),
            products=jnp.array(self.rank),
            least_curvature=jnp.linalg.eigvalsh(lax.stop_gradient(seen))[0] + damping,
            best_iterate=jnp.array(False),
        )


class _damped_outside(nystrom):
    """`nystrom` for a system to whose products the damping has been added already."""

    def solve(self, system: LinearSystem) -> Solved:
        return self._solve(lambda vector: trees.add(system.apply(vector), vector, -self.damping), system.target)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NystromPreconditioner:
    """v -> M v with M near (C + damping I)^-1, positive definite: (Lambda + damping)^-1 on the eigenvectors found,

    1 / (their least eigenvalue + damping) beside them (Frangella, Tropp, Udell 2021, equation 5.3, scaled). A pytree:
    it may be carried through `lax.scan`, and used again for problems near the one that it was made for.

    Attributes:
        basis: orthonormal approximate eigenvectors, stacked: (rank, *shape) for each floating leaf of y.
        eigenvalues: (rank,), descending; 0 where rounding hides them.
        damping: scalar.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower = lambda x, y: 8 * y[0] ** 2 + (y[1:] ** 2).sum()
        >>> made = implicit.nystrom_preconditioner(lower, 0.0, jnp.ones(3), rank=1, damping=2.0, key=jax.random.key(0))
        >>> made.basis[0].shape, made.eigenvalues.shape
        ((1, 3), (1,))
    """

    basis: list[Array]
    eigenvalues: Array
    damping: Array

    def __call__(self, tree: Any) -> Any:
        """M v in the structure of v, a pytree in the structure of y; leaves that are not floating stay as they are."""
        vector, merge = trees.split(tree, "what is preconditioned")
        shapes, expected = [leaf.shape for leaf in vector], [leaf.shape[1:] for leaf in self.basis]
        if shapes != expected:
            raise ValueError(f"this preconditioner is for leaves of shapes {expected}, and {shapes} came")
        rest = 1 / (self.eigenvalues[-1] + self.damping)
        seen = (1 / (self.eigenvalues + self.damping) - rest) * _dots(self.basis, vector)
        return merge(trees.add(trees.scale(vector, rest), _combine(seen, self.basis)))


def nystrom_preconditioner(
    lower: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    rank: int,
    damping: float | Array,
    key: Array,
    curvature: Curvature = hessian(),
    chunk: int = 16,
) -> NystromPreconditioner:
    """A preconditioner for `cg`, `minres`, `gmres` or `bicgstab` at (x, y), from `rank` products.

    Args:
        lower, x, y: as in `hypergradient`.
        rank: how many of the largest eigenvalues are dealt with, about; best where the others are of one size.
        damping: that of the system to be solved; of the order of the eigenvalues beyond the rank where it has none.
        key: of the random directions (inside `shard_map` they depend on the number of parts).
        curvature: the one to be solved with, without its damping; positive semidefinite.
        chunk: products evaluated at a time.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 8 * y[0] ** 2 + (y[1:] ** 2).sum() - x * y.sum(), lambda x, y: y.sum()
        >>> x, y = jnp.array(16.0), jnp.array([1.0, 8.0, 8.0])
        >>> made = implicit.nystrom_preconditioner(lower, x, y, rank=1, damping=2.0, key=jax.random.key(0))
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=implicit.cg(preconditioner=made))
        >>> print(f"{gradient:.4f}")  # 1 / 16 + 1 / 2 + 1 / 2
        1.0625
    """
    _check(rank, damping, chunk)
    problem = pose(lower, lower, x, y)
    product = _undamped(curvature, "nystrom_preconditioner")(problem)
    sketch = _sketch(lambda vector: product(vector, jnp.array(0)), problem.y, rank, key, chunk)
    values, vectors = jnp.linalg.eigh(_gram(sketch.factor, sketch.factor))
    values, vectors = values[::-1], vectors[:, ::-1]
    # Directions whose eigenvalue the shift made are noise: they are left out, and the others made orthonormal once
    # more, the most accurate first.
    kept = values > 4 * sketch.shift
    inverse = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    basis = _mix((vectors * inverse[None]).T, sketch.factor)
    basis = _mix(_inverse_root(_gram(basis, basis) + jnp.diag(jnp.where(kept, 0.0, 1.0).astype(values.dtype))), basis)
    return NystromPreconditioner(
        basis=basis,
        eigenvalues=jnp.where(kept, values - sketch.shift, 0),
        damping=jnp.asarray(damping, values.dtype),
    )


def _check(rank: int, damping: Any, chunk: int) -> None:
    if rank < 1 or chunk < 1:
        raise ValueError(f"rank is {rank} and chunk {chunk}; at least 1 was expected of both")
    if isinstance(damping, (int, float)) and not damping > 0:
        raise ValueError(
            f"damping is {damping}; Nystrom needs a positive one, of the order of the eigenvalues left out"
        )


def _undamped(curvature: Curvature, name: str) -> Any:
    if not is_undamped(curvature):
        raise ValueError(f"{name} takes the damping as its own argument: leave out that of the curvature {curvature}")
    if curvature.fresh:
        raise ValueError(f"{name} needs the same matrix in every product, and {curvature} draws a fresh batch for each")
    return curvature


class _Sketch(NamedTuple):
    factor: Vector  # stack B of `rank` vectors with C ~ sum of b b', shift included
    shift: Array
    least_curvature: Array  # of C on the test directions


def _sketch(product: Product, pattern: Vector, rank: int, key: Array, chunk: int) -> _Sketch:
    unknowns = trees.size(pattern)
    if rank > unknowns and not trees.in_shard_map():  # where sizes are those of a part
        raise ValueError(f"rank is {rank}, more than the {unknowns} unknowns: lower it, or use dense")
    tests, images, seen = _test(product, pattern, rank, key, chunk)
    met = jnp.linalg.eigvalsh(lax.stop_gradient(seen))
    eps = float(jnp.finfo(trees.coarsest_type(pattern)).eps)
    shift = jnp.sqrt(unknowns).astype(met.dtype) * eps * met[-1]
    images = trees.add(images, tests, shift)
    root = _inverse_root(seen + shift * jnp.eye(rank, dtype=seen.dtype))
    return _Sketch(_mix(root, images), shift, met[0])


def _test(product: Product, pattern: Vector, rank: int, key: Array, chunk: int) -> tuple[Vector, Vector, Array]:
    """Orthonormal random directions, their images, and the matrix (rank, rank) on their span."""
    tests = _orthonormal(jax.vmap(lambda one: trees.random_like(one, pattern))(jax.random.split(key, rank)))
    images = _images(product, tests, min(chunk, rank))
    seen = _gram(tests, images)
    return tests, images, (seen + seen.T) / 2


def _images(product: Product, stack: Vector, chunk: int) -> Vector:
    """The product of each vector of a stack; `lax.map` in chunks divides by the number of entries of each leaf."""
    some = [leaf.size > 0 for leaf in stack]

    def short(parts: Vector) -> Vector:
        rest = iter(parts)
        vector = [next(rest) if kept else leaf[0] for kept, leaf in zip(some, stack, strict=True)]
        return [image for kept, image in zip(some, product(vector), strict=True) if kept]

    images = iter(lax.map(short, [leaf for leaf in stack if leaf.size > 0], batch_size=chunk))
    return [next(images) if kept else leaf for kept, leaf in zip(some, stack, strict=True)]


def _orthonormal(stack: Vector) -> Vector:
    for _ in range(2):  # the second pass undoes the rounding of the first
        stack = _mix(_inverse_root(_gram(stack, stack)), stack)
    return stack


def _inverse_root(matrix: Array) -> Array:
    """L^-1 with L L' = matrix; NaN where that is not positive definite."""
    factor = jnp.linalg.cholesky(matrix)
    return solve_triangular(factor, jnp.eye(len(matrix), dtype=matrix.dtype), lower=True)


def _gram(left: Vector, right: Vector) -> Array:
    """Inner products (rank, rank) of two stacks, all devices included."""
    if trees.is_sharded(left) or trees.is_sharded(right):  # sums, which know what to do there; products do not
        return jax.vmap(lambda one: jax.vmap(lambda other: trees.dot(one, other))(right))(left)
    kind = trees.scalar_type(left)
    total = jnp.zeros((), kind)
    for a, b in zip(left, right, strict=True):
        total = total + jnp.einsum("i...,j...->ij", a, b, precision=lax.Precision.HIGHEST).astype(kind)
    return total


def _dots(stack: Vector, vector: Vector) -> Array:
    """Inner products (rank,) of a stack with one vector."""
    return _gram(stack, [leaf[None] for leaf in vector])[:, 0]


def _mix(matrix: Array, stack: Vector) -> Vector:
    """The stack of sum_j matrix[i, j] stack[j]."""
    return [jnp.tensordot(matrix.astype(leaf.dtype), leaf, axes=1, precision=lax.Precision.HIGHEST) for leaf in stack]


def _combine(weights: Array, stack: Vector) -> Vector:
    return [leaf[0] for leaf in _mix(weights[None], stack)]
