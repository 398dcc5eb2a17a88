"""Bi-level problems whose hypergradient is known: by closed form, or by dense float64 algebra."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


@dataclass(frozen=True)
class Case:
    """upper, lower, a point (x, y*(x)), the exact hypergradient there, and x -> y*(x)."""

    upper: Callable[..., Any]
    lower: Callable[..., Any]
    x: Any
    y: Any
    exact: np.ndarray
    solve: Callable[[Any], Any]


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

    def upper(x: Any, y: Any) -> Any:
        return loss(y, held, held_labels) + 0.01 * jnp.sum(x["weight"] ** 2)

    x = {"weight": jnp.asarray(rng.normal(size=8) * 0.1 - 2), "bias": jnp.asarray(-3.0)}
    start, restore = ravel_pytree({"weight": jnp.zeros(8), "bias": jnp.asarray(0.0)})

    @jax.jit
    def solve(x: Any) -> Any:
        flat = lambda v: lower(x, restore(v))  # noqa: E731

        def newton(_: int, v: Any) -> Any:
            return v - jnp.linalg.solve(jax.hessian(flat)(v), jax.grad(flat)(v))

        return restore(jax.lax.fori_loop(0, 12, newton, start))

    y = solve(x)
    return Case(upper, lower, x, y, dense_hypergradient(upper, lower, x, y), solve)


def dense_hypergradient(upper: Any, lower: Any, x: Any, y: Any) -> np.ndarray:
    """The formula with explicit matrices."""
    flat_x, to_x = ravel_pytree(x)
    flat_y, to_y = ravel_pytree(y)
    f = lambda a, b: lower(to_x(a), to_y(b))  # noqa: E731
    g = lambda a, b: upper(to_x(a), to_y(b))  # noqa: E731

    @jax.jit
    def formula(flat_x: Any, flat_y: Any) -> Any:
        hessian = jax.hessian(f, 1)(flat_x, flat_y)
        cross = jax.jacfwd(jax.grad(f, 1), 0)(flat_x, flat_y)
        return jax.grad(g, 0)(flat_x, flat_y) - cross.T @ jnp.linalg.solve(hessian, jax.grad(g, 1)(flat_x, flat_y))

    return np.asarray(formula(flat_x, flat_y))


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
        hidden = jnp.tanh(inputs @ y["hidden"] + y["hidden_bias"])
        return (hidden @ y["out"] + y["out_bias"]) * y["scale"][0] * y["scale"][1] * y["scale"][2]

    def cross_entropy(logits: Any, truth: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), truth[:, None], axis=1))

    def residual(x: Any, y: Any) -> Any:
        return forward(y), jax.tree.map(lambda leaf: jnp.exp(0.5 * x) * leaf, y)

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
