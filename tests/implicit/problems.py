"""Bi-level problems whose hypergradient is known: by closed form, or by dense float64 algebra."""

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


def gradient_of(upper: Any, lower: Any, x: Any, y: Any, **options: Any) -> tuple[Any, implicit.Info]:
    """Returns the hypergradient and its `Info` by one jitted call."""
    return jax.jit(functools.partial(implicit.hypergradient, upper, lower, **options))(x, y)


def differentiate(case: Any, x: Any = None, y: Any = None, **options: Any) -> tuple[Any, implicit.Info]:
    """Returns what `gradient_of` does at the point of the case, or at another."""
    at = case.x if x is None else x, case.y if y is None else y
    return gradient_of(case.upper, case.lower, *at, **options)


def said(info: Any, *names: str) -> tuple[Any, ...]:
    """Returns these scalars of an `Info` or a `Solved` as numbers of Python."""
    return tuple(np.asarray(getattr(info, name)).item() for name in names)


def near(found: Any, exact: Any, rtol: float = 0, atol: float = 0) -> None:
    """Asserts that two pytrees are equal within relative and absolute tolerances."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def refuses(sentence: str, call: Callable[[], Any], kind: type[Exception] = ValueError) -> None:
    """Asserts that a call is refused with a sentence."""
    with pytest.raises(kind, match=sentence):
        call()


def central_difference(function: Any, x: Any, direction: Any) -> Any:
    """Returns the derivative of a function at x along a direction, by a step of 1e-5 to either side."""
    run = jax.jit(function)
    return (run(x + 1e-5 * direction) - run(x - 1e-5 * direction)) / 2e-5


def flat(tree: Any) -> np.ndarray:
    """Returns the leaves of a pytree as one vector in float64."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def error(gradient: Any, exact: Any) -> float:
    """Relative error of a gradient against the exact one; pytrees both."""
    return distance(flat(gradient), flat(exact))


def spd(n: int, condition: float, seed: int = 0) -> np.ndarray:
    """Symmetric, eigenvalues log-spaced from 1/condition to 1."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
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
        at = lambda v: lower(x, restore(v))
        newton = lambda _, v: v - jnp.linalg.solve(jax.hessian(at)(v), jax.grad(at)(v))
        return restore(jax.lax.fori_loop(0, 12, newton, start))

    y = solve(x)
    return Case(upper, lower, x, y, flat(jax.jit(functools.partial(formula, upper, lower))(x, y)), solve)


def formula(upper: Any, lower: Any, x: Any, y: Any) -> Any:
    """Returns the hypergradient by explicit matrices, in the structure of x; may be differentiated itself."""
    flat_x, to_x = ravel_pytree(x)
    flat_y, to_y = ravel_pytree(y)
    slope = lambda x, y: jax.grad(lambda y: lower(to_x(x), to_y(y)))(y)
    direct, target = jax.grad(lambda x, y: upper(to_x(x), to_y(y)), (0, 1))(flat_x, flat_y)
    adjoint = jnp.linalg.solve(jax.jacobian(slope, 1)(flat_x, flat_y), target)
    return to_x(direct - jax.jacobian(slope, 0)(flat_x, flat_y).T @ adjoint)


def network() -> tuple[Any, Any, Any, Any, Any]:
    """A tanh network of 1,088 parameters with cross-entropy and a log weight decay as x: (upper, lower, x, y, parts).
    `parts` is (residual, convex) for Gauss-Newton: `lower(x, y) == convex(residual(x, y))`.
    """
    rng = np.random.default_rng(0)
    inputs, labels = jnp.asarray(rng.normal(size=(1000, 32)), np.float32), jnp.asarray(rng.integers(0, 10, 1000))
    y = {
        name: jnp.asarray(rng.normal(size=size) * 0.2, np.float32)
        for name, size in (("hidden", (32, 25)), ("out", (25, 10)))
    }
    y |= {
        name: np.full(size, value, np.float32)
        for name, size, value in (("hidden_bias", 25, 0), ("out_bias", 10, 0), ("scale", 3, 1))
    }

    def forward(y: Any) -> Any:
        hidden = jnp.tanh(inputs @ y["hidden"] + y["hidden_bias"][None])
        return (hidden @ y["out"] + y["out_bias"][None]) * y["scale"][0] * y["scale"][1] * y["scale"][2]

    def cross_entropy(logits: Any, truth: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), truth[:, None], axis=1))

    residual = lambda x, y: (forward(y), jax.tree.map(lambda leaf: jnp.exp(0.5 * x) * leaf, y))

    def convex(outputs: Any) -> Any:
        logits, decayed = outputs
        return cross_entropy(logits, labels) + 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(decayed))

    upper = lambda x, y: cross_entropy(forward(y)[:500], labels[:500])
    return upper, lambda x, y: convex(residual(x, y)), jnp.asarray(-7.0, np.float32), y, (residual, convex)


CG, MINRES = krylov.conjugate_gradients, krylov.minimal_residual
CUT = 3  # vectors are made of two leaves, the first of this length


def split(flat: Any) -> list[Any]:
    return [flat[:CUT], flat[CUT:]]


def on_leaves(matrix: np.ndarray) -> Callable[..., Any]:
    """v -> matrix v on vectors of two leaves; takes and forgets the number of the step."""
    constant = jnp.asarray(matrix)
    return lambda vector, step=None: split(constant @ jnp.concatenate(vector))


def solve(method, matrix, target, *, start=None, preconditioner=None, tolerance=1e-12, steps=1000, product=None) -> Any:
    """`method` on a matrix of NumPy; a `Solved` whose adjoint is flat."""
    options = {"preconditioner": None if preconditioner is None else on_leaves(preconditioner), "tolerance": tolerance}
    run = jax.jit(functools.partial(method, product or on_leaves(matrix), steps=steps, **options))
    solved = run(split(jnp.asarray(target)), start=None if start is None else split(jnp.asarray(start)))
    return solved._replace(adjoint=np.concatenate(solved.adjoint))


def indefinite(n: int, seed: int = 0) -> np.ndarray:
    """Symmetric, eigenvalues between 0.1 and 1 in size, two thirds of them positive."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    values = np.linspace(0.1, 1, n) * np.where(np.arange(n) % 3 == 0, -1, 1)
    return (basis * values) @ basis.T


def vector(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def distance(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def check_accuracy(method: Any, matrix: np.ndarray) -> None:
    """Right plain, preconditioned, and from a start of its own. Wrong versions of the loops must fail this."""
    n = len(matrix)
    # A badly scaled twin, on which a preconditioner matters.
    scaling = np.diag(np.logspace(0, 1, n))
    scaled, target = scaling @ matrix @ scaling, vector(n)
    exact, scaled_exact = np.linalg.solve(matrix, target), np.linalg.solve(scaled, target)
    assert distance(solve(method, matrix, target, steps=4 * n).adjoint, exact) <= 1e-10
    assert distance(solve(method, matrix, target, start=vector(n, 2), steps=4 * n).adjoint, exact) <= 1e-10
    found = solve(method, scaled, target, preconditioner=np.diag(1 / np.abs(np.diag(scaled))), steps=8 * n)
    assert distance(found.adjoint, scaled_exact) <= 1e-9


DEFINITE, INDEFINITE = spd(40, 1e2), indefinite(40)


def linear(matrix: np.ndarray, seed: int = 0) -> tuple[Any, Any, Any, Any, np.ndarray, np.ndarray]:
    """(upper, lower, x, y, B, target): lower = y'Ay/2 - y'Bx; A q = target, and the gradient is B'q."""
    rng = np.random.default_rng(seed)
    cross, x, t = rng.normal(size=(len(matrix), 2)), rng.normal(size=2), rng.normal(size=len(matrix))
    y = np.linalg.solve(matrix, cross @ x)
    A, B, T = jnp.asarray(matrix), jnp.asarray(cross), jnp.asarray(t)
    upper, lower = lambda x, y: 0.5 * jnp.sum((y - T) ** 2), lambda x, y: 0.5 * y @ (A @ y) - y @ (B @ x)
    return upper, lower, jnp.asarray(x), jnp.asarray(y), cross, y - t


def check_damping(estimator: Any) -> None:
    """The damped system is solved, with a traced damping too, and the residual is that of the Hessian itself."""
    matrix = spd(20, 1e2)
    upper, lower, x, y, cross, target = linear(matrix)
    curved = lambda damping: {"estimator": estimator, "curvature": implicit.hessian(damping=damping)}
    run = jax.jit(lambda damping: implicit.hypergradient(upper, lower, x, y, **curved(damping)))
    for damping in (0.0, 0.3):
        exact = np.linalg.solve(matrix + damping * np.eye(20), target)
        gradient, info = run(jnp.array(damping))
        near((info.adjoint, gradient), (exact, cross.T @ exact), 1e-9)
        assert said(info, "damping", "converged") == (damping, True)
        assert float(info.system_residual) <= 2e-12
        near(info.residual, distance(matrix @ exact, target), 1e-9, 2e-12)
