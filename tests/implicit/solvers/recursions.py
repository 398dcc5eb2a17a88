"""A tiny bi-level quadratic, a sum over samples, and the published recursions on it in plain NumPy and float64."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

N_UPPER, N_LOWER, OUTER, INNER, STEPS = 5, 8, 3, 4, 100
NAMES = ("A", "B", "C", "a", "b")


def quadratics(seed: int, count: int) -> dict[str, np.ndarray]:
    """Samples of y'Ay/2 + x'Bx/2 + x'Cy + a'y + b'x with A and B definite, as the quadratic of benchmark_bilevel."""
    rng = np.random.default_rng(seed)

    def definite(size: int) -> np.ndarray:
        factor = rng.normal(size=(count, size, size)) / np.sqrt(size)
        return 0.5 * np.eye(size) + 0.2 * factor @ factor.transpose(0, 2, 1)

    return {
        "A": definite(INNER),
        "B": definite(OUTER),
        "C": 0.3 * rng.normal(size=(count, OUTER, INNER)),
        "a": rng.normal(size=(count, INNER)),
        "b": rng.normal(size=(count, OUTER)),
    }


UPPER, LOWER = quadratics(0, N_UPPER), quadratics(1, N_LOWER)
UPPER_DATA, LOWER_DATA = (
    {name: value[:, None] for name, value in sums.items()} for sums in (UPPER, LOWER)
)  # batches of one sample


def quadratic(x: Any, y: Any, batch: Any) -> Any:
    """Evaluates the mean over the samples of a batch with JAX; both levels are of this form."""
    mean = {name: jnp.mean(batch[name], axis=0) for name in NAMES}
    bent = 0.5 * y @ (mean["A"] @ y) + 0.5 * x @ (mean["B"] @ x)
    return bent + x @ (mean["C"] @ y) + mean["a"] @ y + mean["b"] @ x


def of(sums: dict[str, np.ndarray], number: Any) -> tuple[np.ndarray, ...]:
    """The matrices of one sample, or their means if number is None."""
    return tuple(sums[name].mean(axis=0) if number is None else sums[name][number] for name in NAMES)


def up_x(x, y, i=None):
    _, B, C, _, b = of(UPPER, i)
    return B @ x + C @ y + b


def up_y(x, y, i=None):
    A, _, C, a, _ = of(UPPER, i)
    return A @ y + C.T @ x + a


def low_x(x, y, i=None):
    _, B, C, _, b = of(LOWER, i)
    return B @ x + C @ y + b


def low_y(x, y, i=None):
    A, _, C, a, _ = of(LOWER, i)
    return A @ y + C.T @ x + a


def hessian(q, i=None):
    return of(LOWER, i)[0] @ q


def cross(q, i=None):
    return of(LOWER, i)[2] @ q


Path = Iterator[tuple[np.ndarray, np.ndarray]]
RATE, OUTER_RATE, SYSTEM_RATE, SERIES_RATE = 0.3, 0.1, 0.2, 0.4


def soba(x, y, ups, lows) -> Path:
    q = np.zeros_like(y)
    for (i,), (j,) in zip(ups, lows, strict=True):
        d_y, d_q = low_y(x, y, j), hessian(q, j) - up_y(x, y, i)
        d_x = up_x(x, y, i) - cross(q, j)
        x, y, q = x - OUTER_RATE * d_x, y - RATE * d_y, q - SYSTEM_RATE * d_q
        yield x, y


def saga(rows, number, new):
    """Equation of SAGA with the mean taken anew; rows are changed in place."""
    better = new - rows[number] + np.mean(rows, axis=0)
    rows[number] = new
    return better


def saba(x, y, ups, lows) -> Path:
    q = np.zeros_like(y)
    g_y, g_q, g_x = (
        [part(j) for j in range(N_LOWER)] for part in (lambda j: low_y(x, y, j), lambda j: q, lambda j: 0 * x)
    )
    f_x, f_y = ([part(x, y, i) for i in range(N_UPPER)] for part in (up_x, up_y))
    for (i,), (j,) in zip(ups, lows, strict=True):
        d_y = saga(g_y, j, low_y(x, y, j))
        d_q = saga(g_q, j, hessian(q, j)) - saga(f_y, i, up_y(x, y, i))
        d_x = saga(f_x, i, up_x(x, y, i)) - saga(g_x, j, cross(q, j))
        x, y, q = x - OUTER_RATE * d_x, y - RATE * d_y, q - RATE * d_q
        yield x, y


INNER_STEPS, TERMS = 2, 3


def amigo(x, y, ups, lows) -> Path:
    q = np.zeros_like(y)
    for (i,), js in zip(ups, lows, strict=True):
        for j in js[:INNER_STEPS]:
            y = y - RATE * low_y(x, y, j)
        b = up_y(x, y, i)
        for j in js[INNER_STEPS:-1]:
            q = q - SYSTEM_RATE * (hessian(q, j) - b)
        x = x - OUTER_RATE * (up_x(x, y, i) - cross(q, js[-1]))
        yield x, y


def neumann(b, js):
    """Algorithm 3 of stocBiO by its products, longest last."""
    total = b.copy()
    for count in range(1, len(js) + 1):
        term = b
        for j in js[:count]:
            term = term - SERIES_RATE * hessian(term, j)
        total = total + term
    return SERIES_RATE * total


def stocbio(x, y, ups, lows) -> Path:
    for (i,), js in zip(ups, lows, strict=True):
        for j in js[:INNER_STEPS]:
            y = y - RATE * low_y(x, y, j)
        q = neumann(up_y(x, y, i), js[INNER_STEPS:-1])
        x = x - OUTER_RATE * (up_x(x, y, i) - cross(q, js[-1]))
        yield x, y


def random_product(b, js, count):
    for j in js[:count]:
        b = b - SERIES_RATE * hessian(b, j)
    return (len(js) + 1) * SERIES_RATE * b


def bsa(x, y, ups, lows, counts, inner_steps=INNER_STEPS) -> Path:
    for (i,), js, count in zip(ups, lows, counts, strict=True):
        for j in js[:inner_steps]:
            y = y - RATE * low_y(x, y, j)
        q = random_product(up_y(x, y, i), js[inner_steps:-1], count)
        x = x - OUTER_RATE * (up_x(x, y, i) - cross(q, js[-1]))
        yield x, y


def ttsa(x, y, ups, lows, counts) -> Path:
    return bsa(x, y, ups, lows, counts, inner_steps=1)
