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


SHARES = (0.6, 0.7)  # of the inner and of the outer direction


def double_momentum(x, y, ups, lows, adjoint) -> Path:
    """STORM in both directions; `adjoint` is (target, batches, step) -> q."""
    last = None
    for step, ((i,), js) in enumerate(zip(ups, lows, strict=True)):

        def gradient(x, y, i=i, js=js, step=step):
            return up_x(x, y, i) - cross(adjoint(up_y(x, y, i), js[1:-1], step), js[-1])

        of_x, of_y = gradient(x, y), low_y(x, y, js[0])
        if last is not None:
            x_old, y_old, before_x, before_y = last
            of_y = of_y + (1 - SHARES[0]) * (before_y - low_y(x_old, y_old, js[0]))
            of_x = of_x + (1 - SHARES[1]) * (before_x - gradient(x_old, y_old))
        last = x, y, of_x, of_y
        x, y = x - OUTER_RATE * of_x, y - RATE * of_y
        yield x, y


def mrbo(x, y, ups, lows) -> Path:
    return double_momentum(x, y, ups, lows, lambda b, js, step: neumann(b, js))


def sustain(x, y, ups, lows, counts) -> Path:
    return double_momentum(x, y, ups, lows, lambda b, js, step: random_product(b, js, counts[step]))


def fsla(x, y, ups, lows) -> Path:
    q, last = np.zeros_like(y), None
    for (i_q, i_x), (j_y, j_q, j_x) in zip(ups, lows, strict=True):
        y_old, q_old = y, q
        y = y - RATE * low_y(x, y, j_y)
        q = q - SYSTEM_RATE * (hessian(q, j_q) - up_y(x, y, i_q))
        of_x = up_x(x, y, i_x) - cross(q, j_x)
        if last is not None:
            x_old, before = last
            of_x = of_x + (1 - SHARES[1]) * (before - (up_x(x_old, y_old, i_x) - cross(q_old, j_x)))
        last = x, of_x
        x = x - OUTER_RATE * of_x
        yield x, y


PERIOD = 6


def srba(x, y, ups, lows) -> Path:
    q = np.zeros_like(y)
    now, last = [], (x, y, q)
    for step, ((i,), (j,)) in enumerate(zip(ups, lows, strict=True)):

        def directions(x, y, q, i, j):
            return [low_y(x, y, j), hessian(q, j) - up_y(x, y, i), up_x(x, y, i) - cross(q, j)]

        if step % PERIOD == 0:
            now = directions(x, y, q, None, None)
        else:
            new, old = directions(x, y, q, i, j), directions(*last, i, j)
            now = [a + b - c for a, b, c in zip(now, new, old, strict=True)]
        last = x, y, q
        x, y, q = x - OUTER_RATE * now[2], y - RATE * now[0], q - RATE * now[1]
        yield x, y


def vrbo(x, y, ups, lows) -> Path:
    for step, (above, below) in enumerate(zip(ups, lows, strict=True)):
        if step % PERIOD == 0:
            v = up_x(x, y) - cross(neumann(up_y(x, y), [None] * TERMS))
            u = low_y(x, y)
        point, x = (x, y), x - OUTER_RATE * v
        for i, js in zip(above, np.reshape(below, (INNER_STEPS, -1)), strict=True):

            def gradient(x, y, i=i, js=js):
                return up_x(x, y, i) - cross(neumann(up_y(x, y, i), js[1:-1]), js[-1])

            v = v + gradient(x, y) - gradient(*point)
            u = u + low_y(x, y, js[0]) - low_y(*point, js[0])
            point, y = (x, y), y - RATE * u
        yield x, y


def penalty(step):
    return 2.0 + 0.1 * step


def f2sa(x, y, ups, lows) -> Path:
    w = y
    for step, (above, below) in enumerate(zip(ups, lows, strict=True)):
        p = penalty(step)
        for t in range(INNER_STEPS):
            y_next = y - RATE * low_y(x, y, below[2 * t])
            w = w - RATE / p * (up_y(x, w, above[t]) + p * low_y(x, w, below[2 * t + 1]))
            y = y_next
        of_x = up_x(x, w, above[-1]) + p * (low_x(x, w, below[-2]) - low_x(x, y, below[-1]))
        x = x - OUTER_RATE * of_x
        yield x, y


ETA = 0.5


def bome(x, y, ups, lows) -> Path:
    for (i,), js in zip(ups, lows, strict=True):
        end = y
        for j in js[:-1]:
            end = end - SYSTEM_RATE * low_y(x, end, j)
        j = js[-1]
        gap = np.concatenate([low_x(x, y, j) - low_x(x, end, j), low_y(x, y, j)])
        slope = np.concatenate([up_x(x, y, i), up_y(x, y, i)])
        weight = max((ETA * gap @ gap - slope @ gap) / (gap @ gap), 0)
        d = slope + weight * gap
        x, y = x - OUTER_RATE * d[:OUTER], y - RATE * d[OUTER:]
        yield x, y


SMOOTHING = 0.1


def pzobo(x, y, ups, lows, drawn) -> Path:
    def run(x, y, js):
        for j in js:
            y = y - RATE * low_y(x, y, j)
        return y

    for (i,), js, directions in zip(ups, lows, drawn, strict=True):
        start, y = y, run(x, y, js)
        b, of_x = up_y(x, y, i), up_x(x, y, i)
        for u in directions:
            of_x = of_x + (run(x + SMOOTHING * u, start, js) - y) @ b / SMOOTHING * u / len(directions)
        x = x - OUTER_RATE * of_x
        yield x, y
