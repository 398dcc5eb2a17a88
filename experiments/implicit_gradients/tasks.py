"""Four bi-level tasks whose hypergradient is known to float64's last digits, at a point where y is the inner optimum.

The formulas are written once, for whichever array library is handed to them (`Library`), so that JAX and PyTorch
differentiate the same problem. What is exact here comes from dense matrices, without jaxfuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Losses = tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]  # upper, lower


@dataclass(frozen=True)
class Library:
    """Functions that differ between NumPy and JAX and that the formulas need."""

    array: Callable[[np.ndarray], Any]
    exp: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]
    softplus: Callable[[Any], Any]
    logsumexp: Callable[[Any], Any]  # over the last axis


def jax_library(dtype: Any) -> Library:
    return Library(
        array=lambda value: jnp.asarray(value, dtype),
        exp=jnp.exp,
        sigmoid=jax.nn.sigmoid,
        softplus=jax.nn.softplus,
        logsumexp=lambda value: jax.nn.logsumexp(value, axis=-1),
    )


@dataclass(frozen=True)
class Task:
    """A problem at one point (x, y*(x)).

    Attributes:
      key, size: its name, and its size and condition in words.
      dtype: np.float64 or np.float32; the point and the functions are of this type.
      losses: Library -> (upper, lower), functions of (x, y).
      x, y: the point, NumPy pytrees; y is the optimum, rounded to dtype.
      exact: the hypergradient, flat, by dense float64 algebra.
      largest: the largest eigenvalue of the inner Hessian.
      unknowns: entries of y.
      gauss_newton: (residual, convex) with lower(x, y) = convex(residual(x, y)), JAX, where the task has one.
      fisher: keyword arguments of `implicit.fisher`, JAX, where the task has a likelihood.
      dense: whether n x n numbers can be held.
    """

    key: str
    size: str
    dtype: Any
    losses: Callable[[Library], Losses]
    x: Any
    y: Any
    exact: np.ndarray
    largest: float
    unknowns: int
    gauss_newton: Callable[[Library], tuple[Callable, Callable]] | None = None
    fisher: Callable[[Library, Any], dict[str, Any]] | None = None
    dense: bool = True

    @property
    def double(self) -> bool:
        return self.dtype == np.float64

    def in_jax(self) -> tuple[Callable, Callable, Any, Any]:
        """upper, lower, x, y of JAX; to be called under `jax.enable_x64(task.double)`."""
        library = jax_library(self.dtype)
        return *self.losses(library), jax.tree.map(library.array, self.x), jax.tree.map(library.array, self.y)


def spread(n: int, condition: float, seed: int = 0) -> np.ndarray:
    """A symmetric matrix (n, n) of random basis and eigenvalues spread evenly in the log from 1/condition to 1."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    matrix = (basis * np.logspace(-np.log10(condition), 0, n)) @ basis.T
    return (matrix + matrix.T) / 2


def quadratic(n: int, condition: float, dtype: Any = np.float64, outer: int = 7) -> Task:
    """lower = y'Ay/2 - y'(Bx + c), upper = |y - t|^2/2 + |x|^2/20; exact: x/10 + B'A^-1(y - t)."""
    rng = np.random.default_rng(1)
    a, b = spread(n, condition), rng.normal(size=(n, outer))
    c, t, x = rng.normal(size=n), rng.normal(size=n), rng.normal(size=outer)
    y = np.linalg.solve(a, b @ x + c)

    def losses(lib: Library) -> Losses:
        A, B, C, T = (lib.array(value) for value in (a, b, c, t))
        return (
            lambda x, y: 0.5 * ((y - T) ** 2).sum() + 0.05 * (x**2).sum(),
            lambda x, y: 0.5 * (y * (A @ y)).sum() - (y * (B @ x + C)).sum(),
        )

    exact = 0.1 * x + b.T @ np.linalg.solve(a, y - t)
    name = f"quadratic-n{n}-cond{condition:.0e}-{np.dtype(dtype).name}".replace("e+0", "e")
    size = f"n = {n}, condition {condition:.0e}, {np.dtype(dtype).name}".replace("e+0", "e")
    return Task(name, size, dtype, losses, x.astype(dtype), y.astype(dtype), exact, 1.0, n)


def diagonal(n: int, dtype: Any = np.float32) -> Task:
    """A quadratic of n unknowns and n outer variables with diagonal Hessian, eigenvalues 0.1 to 1; matrix-free only."""
    d = np.linspace(0.1, 1, n)
    x = np.random.default_rng(2).normal(size=n).astype(dtype)
    y = x / d

    def losses(lib: Library) -> Losses:
        D = lib.array(d)
        return lambda x, y: 0.5 * ((y - 1) ** 2).sum(), lambda x, y: 0.5 * (D * y**2).sum() - (x * y).sum()

    size = f"n = {n:,} diagonal, condition 10, {np.dtype(dtype).name}"
    key = f"diagonal-n{n}-{np.dtype(dtype).name}"
    return Task(key, size, dtype, losses, x, y.astype(dtype), (y - 1) / d, 1.0, n, dense=False)


def ridge(features: int = 300, samples: int = 400) -> Task:
    """Least squares with one log penalty per feature (x); upper: squared error on held-out samples."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=features) * (rng.random(features) < 0.2)
    train, held = rng.normal(size=(samples, features)), rng.normal(size=(samples // 2, features))
    answers = train @ truth + rng.normal(size=samples)
    held_answers = held @ truth + rng.normal(size=samples // 2)
    x = rng.normal(size=features) * 0.3 - 2

    def losses(lib: Library) -> Losses:
        X, a, V, b = (lib.array(value) for value in (train, answers, held, held_answers))
        return (
            lambda x, y: 0.5 * ((V @ y - b) ** 2).mean(),
            lambda x, y: 0.5 * ((X @ y - a) ** 2).mean() + 0.5 * (lib.exp(x) * y**2).sum(),
        )

    def gauss_newton(lib: Library) -> tuple[Callable, Callable]:
        X, a = lib.array(train), lib.array(answers)
        return (
            lambda x, y: (X @ y - a, lib.exp(0.5 * x) * y),
            lambda outputs: 0.5 * (outputs[0] ** 2).mean() + 0.5 * (outputs[1] ** 2).sum(),
        )

    hessian = train.T @ train / samples + np.diag(np.exp(x))
    y = np.linalg.solve(hessian, train.T @ answers / samples)
    adjoint = np.linalg.solve(hessian, held.T @ (held @ y - held_answers) / len(held))
    eigenvalues = np.linalg.eigvalsh(hessian)
    size = f"{features} features, condition {eigenvalues[-1] / eigenvalues[0]:.0f}, float64"
    exact = -np.exp(x) * y * adjoint
    return Task("ridge", size, np.float64, losses, x, y, exact, eigenvalues[-1], features, gauss_newton)


def logistic(features: int = 100, samples: int = 400) -> Task:
    """Logistic regression; weights and penalties are pytrees of two leaves; upper: log loss on held-out samples."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=features) * 0.5
    train, held = rng.normal(size=(samples, features)), rng.normal(size=(samples // 2, features))
    labels = (rng.random(samples) < 1 / (1 + np.exp(-train @ truth))).astype(float)
    held_labels = (rng.random(samples // 2) < 1 / (1 + np.exp(-held @ truth))).astype(float)
    x = {"bias": np.asarray(-6.0), "weight": rng.normal(size=features) * 0.3 - 6}

    def log_loss(lib: Library, logits: Any, truth: Any) -> Any:
        return (lib.softplus(logits) - truth * logits).mean()

    def losses(lib: Library) -> Losses:
        X, a, V, b = (lib.array(value) for value in (train, labels, held, held_labels))

        def penalty(x: Any, y: Any) -> Any:
            return 0.5 * ((lib.exp(x["weight"]) * y["weight"] ** 2).sum() + lib.exp(x["bias"]) * y["bias"] ** 2)

        return (
            lambda x, y: log_loss(lib, V @ y["weight"] + y["bias"], b),
            lambda x, y: log_loss(lib, X @ y["weight"] + y["bias"], a) + penalty(x, y),
        )

    def gauss_newton(lib: Library) -> tuple[Callable, Callable]:
        X, a = lib.array(train), lib.array(labels)
        return (
            lambda x, y: (X @ y["weight"] + y["bias"], {name: lib.exp(0.5 * x[name]) * y[name] for name in y}),
            lambda out: log_loss(lib, out[0], a) + 0.5 * sum((leaf**2).sum() for leaf in out[1].values()),
        )

    y, hessian = newton(losses, x, {"bias": np.asarray(0.0), "weight": np.zeros(features)})
    size = f"{features + 1} weights in a pytree, condition {{condition:.0f}}, float64"
    return solved("logistic", size, np.float64, losses, x, y, hessian, gauss_newton, None)


def solved(
    key: str, size: str, dtype: Any, losses: Any, x: Any, y: Any, hessian: np.ndarray, gauss_newton: Any, fisher: Any
) -> Task:
    """A task from its float64 optimum and the Hessian there: the hypergradient by a Cholesky factorization."""
    factor = cho_factor(hessian)
    with jax.enable_x64(True):
        upper, lower = losses(jax_library(np.float64))
        direct, target = jax.grad(upper, (0, 1))(x, y)
        flat, restore = ravel_pytree(target)
        adjoint = restore(jnp.asarray(cho_solve(factor, np.asarray(flat))))
        _, pull = jax.vjp(lambda outer: jax.grad(lower, 1)(outer, y), x)
        exact = np.asarray(ravel_pytree(direct)[0] - ravel_pytree(pull(adjoint)[0])[0])
    eigenvalues = np.linalg.eigvalsh(hessian)
    largest = float(eigenvalues[-1])
    size = size.format(condition=largest / eigenvalues[0])
    cast = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)  # noqa: E731
    return Task(key, size, dtype, losses, cast(x), cast(y), exact, largest, len(flat), gauss_newton, fisher)


def newton(losses: Callable[[Library], Losses], x: Any, start: Any, steps: int = 10) -> tuple[Any, np.ndarray]:
    """The inner optimum in float64, and the explicit Hessian there.

    L-BFGS comes near; then Newton steps with one matrix go on until they are rounding.
    """
    with jax.enable_x64(True):
        _, lower = losses(jax_library(np.float64))
        flat, restore = ravel_pytree(jax.tree.map(jnp.asarray, start))
        valued = jax.jit(jax.value_and_grad(lambda v: lower(x, restore(v))))
        slope = jax.jit(jax.grad(lambda v: lower(x, restore(v))))

        @jax.jit
        def columns(v: Any) -> Any:
            product = jax.linearize(slope, v)[1]
            return jax.lax.map(product, jnp.eye(len(v), dtype=v.dtype), batch_size=128)

        near = minimize(
            lambda v: [np.asarray(part) for part in valued(v)], np.asarray(flat), jac=True, method="L-BFGS-B",
            options={"maxiter": 5000, "ftol": 0, "gtol": 1e-9},
        )  # fmt: skip
        found, factor = near.x, cho_factor(np.asarray(columns(near.x)))
        for _ in range(steps):
            step = cho_solve(factor, np.asarray(slope(found)))
            found = found - step
            if np.linalg.norm(step) < 1e-13 * (1 + np.linalg.norm(found)):
                return jax.tree.map(np.asarray, restore(jnp.asarray(found))), np.asarray(columns(found))
    raise ArithmeticError(f"Newton's method did not settle in {steps} steps; the last was {np.linalg.norm(step):.1e}")
