"""Bi-level problems whose hypergradient is known: by closed form, or by dense float64 algebra."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfuse import implicit
from jaxfuse.implicit import krylov
from jaxfuse.implicit.krylov import Solved


@dataclass(frozen=True)
class Case:
    """upper, lower, a point (x, y*(x)), the exact hypergradient there, and x -> y*(x)."""

    upper: Callable[..., Any]
    lower: Callable[..., Any]
    x: Any
    y: Any
    exact: np.ndarray
    solve: Callable[[Any], Any]


SOLVERS = {"cg": implicit.cg(), "dense": implicit.dense(), "minres": implicit.minres()}
every_solver = pytest.mark.parametrize("estimator", SOLVERS.values(), ids=SOLVERS.keys())


def differentiate(case: Any, x: Any = None, y: Any = None, **options: Any) -> tuple[Any, implicit.Info]:
    """Returns the gradient at the point of the case, or at another, and its `Info`, by one jitted call."""
    run = jax.jit(functools.partial(implicit.hypergradient, case.upper, case.lower, **options))
    return run(case.x if x is None else x, case.y if y is None else y)


def refuses(sentence: str, call: Callable[[], Any], kind: type[Exception] = ValueError) -> None:
    """Asserts that a call is refused with a sentence."""
    with pytest.raises(kind, match=sentence):
        call()


def error(gradient: Any, exact: np.ndarray) -> float:
    """Relative error of a gradient (any pytree) against the exact one, flat."""
    flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)])
    return float(np.linalg.norm(flat - exact) / np.linalg.norm(exact))


def cosine(gradient: Any, exact: np.ndarray) -> float:
    flat = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)])
    return float(flat @ exact / np.linalg.norm(flat) / np.linalg.norm(exact))


def spd(n: int, condition: float, seed: int = 0) -> np.ndarray:
    """Symmetric, eigenvalues log-spaced from 1/condition to 1."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix = (basis * np.logspace(-np.log10(condition), 0, n)) @ basis.T
    return (matrix + matrix.T) / 2


def quadratic(n: int = 40, condition: float = 1e2, outer: int = 7, seed: int = 0, dtype: Any = np.float64) -> Case:
    """lower = y'Ay/2 - y'(Bx + c), upper = |y - t|^2/2 + 0.05 |x|^2; spec of Fuse4Seg, 5.8.1."""
    rng = np.random.default_rng(seed + 1)
    a, b = spd(n, condition, seed), rng.normal(size=(n, outer))
    c, t, x = rng.normal(size=n), rng.normal(size=n), rng.normal(size=outer)
    y = np.linalg.solve(a, b @ x + c)
    exact = 0.1 * x + b.T @ np.linalg.solve(a, y - t)
    A, B, C, T = (jnp.asarray(value, dtype) for value in (a, b, c, t))
    return Case(
        upper=lambda x, y: 0.5 * jnp.sum((y - T) ** 2) + 0.05 * jnp.sum(x**2),
        lower=lambda x, y: 0.5 * y @ (A @ y) - y @ (B @ x + C),
        x=jnp.asarray(x, dtype),
        y=jnp.asarray(y, dtype),
        exact=exact,
        solve=lambda x: jnp.linalg.solve(A, B @ x + C),
    )


@functools.cache
def logistic(seed: int = 0) -> Case:
    """Logistic regression with a pytree of weights and one log penalty for each, float64; solved by Newton steps."""
    rng = np.random.default_rng(seed)
    features, labels = jnp.asarray(rng.normal(size=(60, 8))), jnp.asarray(rng.integers(0, 2, 60), jnp.float64)
    held, held_labels = jnp.asarray(rng.normal(size=(40, 8))), jnp.asarray(rng.integers(0, 2, 40), jnp.float64)

    def loss(y: Any, inputs: Any, truth: Any) -> Any:
        logits = inputs @ y["weight"] + y["bias"]
        return jnp.mean(jax.nn.softplus(logits) - truth * logits)

    def lower(x: Any, y: Any) -> Any:
        penalty = jnp.exp(x["weight"]) @ y["weight"] ** 2 + jnp.exp(x["bias"]) * y["bias"] ** 2
        return loss(y, features, labels) + 0.5 * penalty

    upper = lambda x, y: loss(y, held, held_labels) + 0.01 * jnp.sum(x["weight"] ** 2)
    x = {"weight": jnp.asarray(rng.normal(size=8) * 0.1 - 2), "bias": jnp.asarray(-3.0)}
    start, restore = ravel_pytree({"weight": jnp.zeros(8), "bias": jnp.asarray(0.0)})

    @jax.jit
    def solve(x: Any) -> Any:
        flat = lambda v: lower(x, restore(v))
        newton = lambda _, v: v - jnp.linalg.solve(jax.hessian(flat)(v), jax.grad(flat)(v))
        return restore(jax.lax.fori_loop(0, 12, newton, start))

    y = solve(x)
    return Case(upper, lower, x, y, dense_hypergradient(upper, lower, x, y), solve)


def formula(upper: Any, lower: Any, x: Any, y: Any) -> Any:
    """Returns the hypergradient by explicit matrices, in the structure of x; may be differentiated itself."""
    flat_x, to_x = ravel_pytree(x)
    flat_y, to_y = ravel_pytree(y)
    slope = lambda x, y: jax.grad(lambda y: lower(to_x(x), to_y(y)))(y)
    direct, target = jax.grad(lambda x, y: upper(to_x(x), to_y(y)), (0, 1))(flat_x, flat_y)
    adjoint = jnp.linalg.solve(jax.jacobian(slope, 1)(flat_x, flat_y), target)
    return to_x(direct - jax.jacobian(slope, 0)(flat_x, flat_y).T @ adjoint)


def dense_hypergradient(upper: Any, lower: Any, x: Any, y: Any) -> np.ndarray:
    """Returns the hypergradient by explicit matrices, flat."""
    return np.asarray(ravel_pytree(jax.jit(functools.partial(formula, upper, lower))(x, y))[0])


def network(samples: int = 1000, dtype: Any = np.float32, seed: int = 0) -> tuple[Any, Any, Any, Any, Any]:
    """A tanh network of 1,088 parameters with cross-entropy and a log weight decay as x: (upper, lower, x, y, parts).

    `parts` is (residual, convex) for Gauss-Newton: `lower(x, y) == convex(residual(x, y))`.
    """
    rng = np.random.default_rng(seed)
    inputs, labels = jnp.asarray(rng.normal(size=(samples, 32)), dtype), jnp.asarray(rng.integers(0, 10, samples))
    y = {
        "hidden": jnp.asarray(rng.normal(size=(32, 25)) * 0.2, dtype),
        "hidden_bias": jnp.zeros(25, dtype),
        "out": jnp.asarray(rng.normal(size=(25, 10)) * 0.2, dtype),
        "out_bias": jnp.zeros(10, dtype),
    }
    y["scale"] = jnp.ones(3, dtype)

    def forward(y: Any) -> Any:
        hidden = jnp.tanh(inputs @ y["hidden"] + y["hidden_bias"][None])
        return (hidden @ y["out"] + y["out_bias"][None]) * y["scale"][0] * y["scale"][1] * y["scale"][2]

    def cross_entropy(logits: Any, truth: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), truth[:, None], axis=1))

    residual = lambda x, y: (forward(y), jax.tree.map(lambda leaf: jnp.exp(0.5 * x) * leaf, y))

    def convex(outputs: Any) -> Any:
        logits, decayed = outputs
        return cross_entropy(logits, labels) + 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(decayed))

    half = samples // 2
    return (
        lambda x, y: cross_entropy(forward(y)[:half], labels[:half]),
        lambda x, y: convex(residual(x, y)),
        jnp.asarray(-7.0, dtype),
        y,
        (residual, convex),
    )


# --- checks that wrong versions of the library must fail ------------------------------------------------------


CG, MINRES = krylov.conjugate_gradients, krylov.minimal_residual
CUT = 3  # vectors are made of two leaves, the first of this length


def split(flat: Any) -> list[Any]:
    return [flat[:CUT], flat[CUT:]]


def on_leaves(matrix: np.ndarray) -> Callable[..., Any]:
    """v -> matrix v on vectors of two leaves; takes and forgets the number of the step."""
    constant = jnp.asarray(matrix)
    return lambda vector, step=None: split(constant @ jnp.concatenate(vector))


def solve(
    method: Any,
    matrix: np.ndarray,
    target: np.ndarray,
    *,
    start: np.ndarray | None = None,
    preconditioner: np.ndarray | None = None,
    tolerance: float = 1e-12,
    steps: int = 1000,
    product: Any = None,
) -> Any:
    """`method` on a matrix of NumPy; a `Solved` whose adjoint is flat."""

    @jax.jit
    def run(target: Any, start: Any) -> Solved:
        return method(
            product or on_leaves(matrix),
            target,
            start=start,
            preconditioner=None if preconditioner is None else on_leaves(preconditioner),
            tolerance=tolerance,
            steps=steps,
        )

    solved = run(split(jnp.asarray(target)), None if start is None else split(jnp.asarray(start)))
    return solved._replace(adjoint=np.concatenate(solved.adjoint))


def indefinite(n: int, seed: int = 0) -> np.ndarray:
    """Symmetric, eigenvalues between 0.1 and 1 in size, two thirds of them positive."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = np.linspace(0.1, 1, n) * np.where(np.arange(n) % 3 == 0, -1, 1)
    return (basis * values) @ basis.T


def vector(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def distance(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def jacobi(matrix: np.ndarray) -> np.ndarray:
    return np.diag(1 / np.abs(np.diag(matrix)))


def check_accuracy(method: Any, matrix: np.ndarray) -> None:
    """Right plain, preconditioned, and from a start of its own. Wrong versions of the loops must fail this."""
    n = len(matrix)
    # A badly scaled twin, on which a preconditioner matters.
    scaling = np.diag(np.logspace(0, 1, n))
    scaled, target = scaling @ matrix @ scaling, vector(n)
    exact, scaled_exact = np.linalg.solve(matrix, target), np.linalg.solve(scaled, target)
    assert distance(solve(method, matrix, target, steps=4 * n).adjoint, exact) <= 1e-10
    assert distance(solve(method, matrix, target, start=vector(n, 2), steps=4 * n).adjoint, exact) <= 1e-10
    found = solve(method, scaled, target, preconditioner=jacobi(scaled), steps=8 * n)
    assert distance(found.adjoint, scaled_exact) <= 1e-9


DEFINITE, INDEFINITE = spd(40, 1e2), indefinite(40)


def linear(matrix: np.ndarray, seed: int = 0) -> tuple[Any, Any, Any, Any, np.ndarray, np.ndarray]:
    """(upper, lower, x, y, cross, target): lower = y'Ay/2 - y'Bx, the adjoint equation is A q = target, and the

    gradient is B'q.
    """
    rng = np.random.default_rng(seed)
    cross, x, t = rng.normal(size=(len(matrix), 2)), rng.normal(size=2), rng.normal(size=len(matrix))
    y = np.linalg.solve(matrix, cross @ x)
    A, B, T = jnp.asarray(matrix), jnp.asarray(cross), jnp.asarray(t)
    return (
        lambda x, y: 0.5 * jnp.sum((y - T) ** 2),
        lambda x, y: 0.5 * y @ (A @ y) - y @ (B @ x),
        jnp.asarray(x),
        jnp.asarray(y),
        cross,
        y - t,
    )


def check_damping(estimator: Any) -> None:
    """The damped system is solved, with a traced damping too, and the residual is that of the Hessian itself."""
    matrix = spd(20, 1e2)
    upper, lower, x, y, cross, target = linear(matrix)

    @jax.jit
    def run(damping):
        return implicit.hypergradient(
            upper, lower, x, y, estimator=estimator, curvature=implicit.hessian(damping=damping)
        )

    for damping in (0.0, 0.3):
        exact = np.linalg.solve(matrix + damping * np.eye(20), target)
        gradient, info = run(jnp.array(damping))
        np.testing.assert_allclose(info.adjoint, exact, rtol=1e-9)
        np.testing.assert_allclose(gradient, cross.T @ exact, rtol=1e-9)
        assert float(info.damping) == damping
        assert float(info.system_residual) <= 2e-12
        residual = np.linalg.norm(matrix @ exact - target) / np.linalg.norm(target)
        np.testing.assert_allclose(info.residual, residual, rtol=1e-9, atol=2e-12)
        assert bool(info.converged)
