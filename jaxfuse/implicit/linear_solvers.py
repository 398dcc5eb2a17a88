"""Solvers of systems that need not be symmetric: lineax's GMRES and LSMR, any other of lineax, and BiCGStab.

lineax stops when residual and last change both pass a test that is absolute, or relative entry by entry. A tolerance
here means |A q - b| <= tolerance * |b|, so we hand over a scaled system: (c A) z = r / |r| with r the residual at the
start. A large c makes the change in z small, so that the residual decides. Nothing is thrown: the certificate judges.

lineax is for automatic mesh axes only; `cg`, `minres` and `bicgstab` run on all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax import Array, lax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import AdjointEstimator
from jaxfuse.implicit.certificate import ratio
from jaxfuse.implicit.estimators import check_stop, most_steps, on_vectors, stop_at
from jaxfuse.implicit.krylov import Solved
from jaxfuse.implicit.problem import LinearSystem
from jaxfuse.implicit.stabilized import stabilized_biconjugate
from jaxfuse.implicit.trees import Product, Vector


@dataclasses.dataclass(frozen=True)
class gmres(AdjointEstimator):
    """Restarted GMRES (Saad and Schultz 1986): for any invertible system, symmetric or not.

    Needs `restart` + 1 vectors. The residual is looked at after whole cycles of `restart` steps only, so steps and
    products are counted (products as an upper bound) in whole cycles. Preconditioned from the right, which keeps the
    residual that of the system itself.

    Args:
        tolerance: relative residual to stop at; 1e-12 in float64 and 1e-6 in float32 if None.
        steps: most steps, rounded up to whole cycles; ten for each unknown, 20,000 at most, if None.
        restart: steps of a cycle.
        start: first adjoint in the structure of y (`Info.adjoint` of the outer step before); zero if None.
        preconditioner: v -> M v on pytrees in the structure of y, M near the inverse.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> residual = lambda x, y: jnp.array([[2.0, 0.0], [1.0, 4.0]]) @ y - x
        >>> x, y, cotangent = jnp.array([2.0, 5.0]), jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0])
        >>> gradient, _ = implicit.root_vjp(residual, x, y, cotangent, estimator=implicit.gmres())
        >>> print([f"{part:.3f}" for part in gradient])
        ['-0.125', '0.250']
    """

    tolerance: float | None = None
    steps: int | None = None
    restart: int = 20
    start: Any = None
    preconditioner: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, self.steps)
        if self.restart < 1:
            raise ValueError(f"restart is {self.restart}; at least 1 was expected")

    def solve(self, system: LinearSystem) -> Solved:
        cycle = min(self.restart, trees.size(system.target))
        # lineax counts cycles, and one more that only measures the first residual.
        most = -(-most_steps(self.steps, system.target) // cycle) + 1

        def solver(limit: Array) -> lx.AbstractLinearSolver:
            return lx.GMRES(0.0, limit, trees.length, max_steps=most, restart=cycle)  # pyright: ignore[reportArgumentType]

        correction = _correct(self, system, solver, self.preconditioner)
        cycles = jnp.maximum(correction.count - 1, 0)
        return correction.solved(steps=cycles * cycle, products=cycles * (cycle + 1) + 1)


@dataclasses.dataclass(frozen=True)
class bicgstab(AdjointEstimator):
    """BiCGStab (van der Vorst 1992): for systems that need not be symmetric, in nine vectors; two products a step.

    Where its recursion breaks down it begins anew from the residual of that moment; it keeps the iterate of least
    residual. Preconditioned from the right. Arguments as in `gmres`; `steps` are counted one by one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper, x = lambda x, y: 2 * y**2 - x * y, lambda x, y: y, jnp.array(8.0)  # y*(x) = x / 4
        >>> print(implicit.hypergradient(upper, lower, x, x / 4, estimator=implicit.bicgstab())[0])
        0.25
    """

    tolerance: float | None = None
    steps: int | None = None
    start: Any = None
    preconditioner: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, self.steps)

    def solve(self, system: LinearSystem) -> Solved:
        return stabilized_biconjugate(
            system.apply,
            system.target,
            start=None if self.start is None else system.start(self.start),
            preconditioner=self.preconditioner and on_vectors(self.preconditioner, system),
            tolerance=stop_at(self.tolerance, system.target),
            steps=most_steps(self.steps, system.target),
        )


@dataclasses.dataclass(frozen=True)
class lsmr(AdjointEstimator):
    """LSMR (Fong and Saunders 2011): for any system, singular ones included, where it gives the least-squares q.

    Two products a step, one of them with the transposed matrix; as slow as conjugate gradients on the squared matrix.
    It also stops where rounding allows no smaller residual. Computes in float64 (with products in the types of y) if
    64-bit mode is on. Takes no preconditioner. Other arguments as in `gmres`; `steps` are counted one by one.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper, x = lambda x, y: 2 * y**2 - x * y, lambda x, y: y, jnp.array(8.0)  # y*(x) = x / 4
        >>> print(f"{implicit.hypergradient(upper, lower, x, x / 4, estimator=implicit.lsmr())[0]:.3f}")
        0.250
    """

    tolerance: float | None = None
    steps: int | None = None
    start: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, self.steps)

    def solve(self, system: LinearSystem) -> Solved:
        most = most_steps(self.steps, system.target)
        least = float(jnp.finfo(_work_type(system.target, wide=True)).eps)

        def solver(limit: Array) -> lx.AbstractLinearSolver:
            return lx.LSMR(least, limit, trees.length, max_steps=most, conlim=jnp.inf)  # pyright: ignore[reportArgumentType]

        correction = _correct(self, system, solver, None, wide=True)
        return correction.solved(steps=correction.count, products=2 * correction.count + 2)


@dataclasses.dataclass(frozen=True)
class linear(AdjointEstimator):
    """Any solver of lineax: `linear(lx.SVD())`, `linear(lx.Normal(lx.CG(rtol=0.0, atol=1e-8)))`.

    It stops by its own rule, on a right-hand side scaled to length 1: `atol` is relative to |d upper/dy|. For `lx.CG`
    the matrix is scaled too, because its test for breakdown stops float32 systems of more than some thousand
    unknowns; the right-hand side is then that of the normal equations under `lx.Normal`. `lx.CG` and `lx.Cholesky`
    need a symmetric system. Steps and products are lineax's count where it has one, else 1 and one for each unknown.

    Args:
        solver: a `lineax.AbstractLinearSolver`.
        tolerance: relative residual up to which the solve counts as converged; if None, the rule of all estimators.
        start: first adjoint in the structure of y, for CG, GMRES, BiCGStab and LSMR.
        preconditioner: v -> M v on pytrees in the structure of y, for CG (M positive definite), GMRES and BiCGStab.
            With GMRES, lineax measures the preconditioned residual: `gmres` does not.

    A tolerance out of reach makes lineax's CG diverge unless it has `stabilise_every=None`; the certificate shows it.

    Example:
        >>> import jax.numpy as jnp
        >>> import lineax as lx
        >>> from jaxfuse import implicit
        >>> lower, upper, x = lambda x, y: 2 * y**2 - x * y, lambda x, y: y, jnp.array(8.0)  # y*(x) = x / 4
        >>> gradient, _ = implicit.hypergradient(upper, lower, x, x / 4, estimator=implicit.linear(lx.QR()))
        >>> print(f"{gradient:.3f}")
        0.250
    """

    solver: Any
    tolerance: float | None = None
    start: Any = None
    preconditioner: Any = None

    def __post_init__(self) -> None:
        check_stop(self.tolerance, None)
        if not isinstance(self.solver, lx.AbstractLinearSolver):
            raise TypeError(f"solver is {self.solver!r}; a lineax solver was expected, such as lineax.GMRES(...)")
        name = type(self.solver).__name__
        started = (lx.CG, lx.GMRES, lx.BiCGStab, lx.LSMR)
        if self.start is not None and not isinstance(self.solver, started):
            raise ValueError(f"lineax.{name} takes no start here: leave it out, or use CG, GMRES, BiCGStab or LSMR")
        if self.preconditioner is not None and not isinstance(self.solver, started[:3]):
            raise ValueError(f"lineax.{name} takes no preconditioner here: leave it out, or use CG, GMRES or BiCGStab")

    @property
    def definite(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return isinstance(self.solver, (lx.CG, lx.Cholesky))

    @property
    def symmetric(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.definite

    def solve(self, system: LinearSystem) -> Solved:
        _refuse_split(system, type(self.solver).__name__)
        work = _work_type(system.target, wide=isinstance(self.solver, lx.LSMR))
        product, target, back = _in_type(system, work)
        precondition = self.preconditioner and _in_types_of(on_vectors(self.preconditioner, system), system, work)
        stretch, length, spent = _guard_scale(self.solver, product, target, precondition)
        options = {}
        if self.start is not None:
            options["y0"] = trees.scale(_cast(system.start(self.start), work), 1 / (stretch * length))
        if precondition:
            tags = lx.positive_semidefinite_tag if isinstance(self.solver, lx.CG) else ()
            options["preconditioner"] = lx.FunctionLinearOperator(precondition, _structure(target), tags)
        solution = lx.linear_solve(
            lx.FunctionLinearOperator(
                lambda v: trees.scale(product(v), stretch), _structure(target), _tags(self.solver, system)
            ),
            trees.scale(target, 1 / length),
            self.solver,
            options=options,
            throw=False,
        )
        steps, norm = jnp.asarray(solution.stats.get("num_steps", 1)), trees.norm(target)
        return Solved(
            # Some solvers divide 0 by 0 on a right-hand side of zeros, whose solution is known.
            adjoint=back([jnp.where(norm > 0, stretch * length * leaf, 0) for leaf in solution.value]),
            steps=steps,
            products=_products(self.solver, steps, trees.size(target)) + spent,
            least_curvature=jnp.full((), jnp.inf, trees.scalar_type(system.target)),
            best_iterate=jnp.array(False),
        )


@dataclasses.dataclass(frozen=True)
class _Correction:
    """The end of `_correct`: the adjoint, lineax's own count of steps (0 if none was needed), products before it."""

    adjoint: Vector
    count: Array
    spent: int

    def solved(self, *, steps: Array, products: Array) -> Solved:
        return Solved(
            adjoint=self.adjoint,
            steps=steps,
            products=jnp.where(self.count > 0, products, 0) + self.spent,
            least_curvature=jnp.full((), jnp.inf, trees.scalar_type(self.adjoint)),
            best_iterate=jnp.array(False),
        )


def _correct(
    estimator: gmres | lsmr,
    system: LinearSystem,
    solver: Callable[[Array], lx.AbstractLinearSolver],
    preconditioner: Any,
    *,
    wide: bool = False,
) -> _Correction:
    """lineax on what is left of the right-hand side at the start, preconditioned from the right.

    One product more than lineax spends, to know the size of the matrix.
    """
    _refuse_split(system, type(estimator).__name__)
    work = _work_type(system.target, wide=wide)
    product, target, back = _in_type(system, work)
    precondition: Product = lambda v: v  # noqa: E731
    if preconditioner is not None:
        precondition = _in_types_of(on_vectors(preconditioner, system), system, work)

    if estimator.start is None:
        adjoint, residual = trees.zeros(target), target
    else:
        adjoint = _cast(system.start(estimator.start), work)
        residual = trees.add(target, product(adjoint), -1)
    rest = trees.norm(residual)
    size = ratio(trees.norm(product(precondition(residual))), rest)
    limit = jnp.asarray(stop_at(estimator.tolerance, system.target), work) * trees.norm(target)
    relative = jnp.maximum(ratio(limit, rest), jnp.finfo(work).tiny)
    eps = float(jnp.finfo(work).eps)
    stretch = _over(1 / (jnp.maximum(relative, eps) * eps**0.5), size)
    tags = _tags(None, system) if preconditioner is None else ()

    measure = jnp.where(rest > 0, rest, 1)

    def solve() -> tuple[Vector, Array]:
        solution = lx.linear_solve(
            lx.FunctionLinearOperator(
                lambda v: trees.scale(product(precondition(v)), stretch), _structure(target), tags
            ),
            trees.scale(residual, 1 / measure),
            solver(relative),
            throw=False,
        )
        return precondition(trees.scale(solution.value, stretch * measure)), jnp.asarray(
            solution.stats["num_steps"], int
        )

    def nothing() -> tuple[Vector, Array]:
        return trees.zeros(target), jnp.asarray(0, int)

    correction, count = lax.cond(rest > limit, solve, nothing)
    spent = 1 if estimator.start is None else 2
    return _Correction(back(trees.add(adjoint, correction)), count, spent)


def _refuse_split(system: LinearSystem, name: str) -> None:
    if trees.is_sharded(system.target) or trees.in_shard_map():
        raise ValueError(
            f"{name} of lineax works on automatic mesh axes only, and y is split over an explicit axis or lies inside "
            "shard_map: use cg, minres or bicgstab"
        )


def _work_type(target: Vector, *, wide: bool) -> Any:
    """One type for all leaves; `wide`: float64 if 64-bit mode is on, where LSMR accepts no other."""
    kind = trees.scalar_type(target)
    widest = jnp.result_type(float)
    return widest if wide and jnp.finfo(widest).bits > jnp.finfo(kind).bits else kind


def _cast(vector: Vector, kind: Any) -> Vector:
    return [leaf.astype(kind) for leaf in vector]


def _in_types_of(product: Product, system: LinearSystem, work: Any) -> Product:
    """A linear map on vectors in the types of the system as one on vectors of type `work`."""
    kinds = [leaf.dtype for leaf in system.target]

    def cast(vector: Vector) -> Vector:
        return _cast(product([leaf.astype(kind) for leaf, kind in zip(vector, kinds, strict=True)]), work)

    return cast


def _in_type(system: LinearSystem, work: Any) -> tuple[Product, Vector, Product]:
    """The product and right-hand side in type `work`, and the way back to the types of the system."""

    def back(vector: Vector) -> Vector:
        return [leaf.astype(model.dtype) for leaf, model in zip(vector, system.target, strict=True)]

    return _in_types_of(system.apply, system, work), _cast(system.target, work), back


def _structure(vector: Vector) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in vector]


def _tags(solver: Any, system: LinearSystem) -> tuple[object, ...]:
    """Returns what lineax may rely on: not definiteness where it would choose a solver by it, a hope until solved."""
    if not system.symmetric:
        return ()
    if isinstance(solver, (lx.CG, lx.Cholesky)):
        return (lx.symmetric_tag, lx.positive_semidefinite_tag)
    return (lx.symmetric_tag,)


def _over(wanted: Any, size: Array) -> Array:
    """wanted / size, and 1 where that is no number (a right-hand side in the null space)."""
    stretch = ratio(wanted, size)
    return jnp.where(jnp.isfinite(stretch) & (stretch > 0), stretch, 1)


def _guard_scale(
    solver: Any, product: Product, target: Vector, precondition: Product | None
) -> tuple[Array, Array, int]:
    """Factor c of the matrix, length by which the right-hand side is divided, and products spent on finding out.

    lineax's CG gives up where p'Ap <= 200 eps n r'z. In its recursion p'Ap / r'z is at least the least eigenvalue, so
    with c = 400 n over a Rayleigh quotient that cannot happen for condition numbers up to 1 / eps.
    """
    unknowns = trees.size(target)
    normal = isinstance(solver, lx.Normal) and isinstance(solver.inner_solver, lx.CG)
    if isinstance(solver, lx.CG):
        direction = precondition(target) if precondition else target
        size = ratio(trees.dot(direction, product(direction)), trees.dot(target, direction))
        stretch, length, spent = _over(400 * unknowns, jnp.abs(size)), trees.norm(target), 1
    elif normal:
        transposed = jax.linear_transpose(product, target)
        (right,) = transposed(target)
        image = product(right)
        stretch = jnp.sqrt(_over(400 * unknowns, ratio(trees.dot(image, image), trees.dot(right, right))))
        length, spent = stretch * trees.norm(right), 2
    else:
        stretch, length, spent = jnp.ones((), trees.scalar_type(target)), trees.norm(target), 0
    return stretch, jnp.where(length > 0, length, 1), spent


def _products(solver: Any, steps: Array, unknowns: int) -> Array:
    """Products of a solve of so many steps."""
    if isinstance(solver, lx.Normal):
        return 2 * _products(solver.inner_solver, steps, unknowns) + 1
    if isinstance(solver, lx.CG):
        fresh = 0 if solver.stabilise_every is None else steps // solver.stabilise_every
        return steps + fresh + 1
    if isinstance(solver, lx.GMRES):
        return (steps - 1) * (min(solver.restart, unknowns) + 1) + 1
    if isinstance(solver, lx.BiCGStab):
        return 2 * steps + 1
    if isinstance(solver, lx.LSMR):
        return 2 * steps + 2
    return jnp.asarray(unknowns)
