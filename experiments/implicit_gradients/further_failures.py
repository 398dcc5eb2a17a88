"""Six more ways to go wrong, each met by users of other libraries, and five healthy problems of the same kinds.

Variables that nothing determines, values captured from a trace around, right-hand sides and variables in tiny units,
NaN above, leaves of few digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.implicit_gradients import tasks
from experiments.implicit_gradients.measure import flat
from experiments.implicit_gradients.wrong import Case

Four = tuple[Any, Any, Any, Any]  # upper, lower, x, y


def failing_cases() -> list[Case]:
    """Cases with a wrong answer, or without a right one."""
    hard = tasks.quadratic(200, 1e4, np.float32)
    easy = tasks.quadratic(60, 10)
    return [
        Case("a variable that lower does not read", True, _unread),
        Case("one row of a batch not solved, captured in vmap", True, _captured, rows=np.array([[1, 1.0], [2, 0.5]])),
        Case(
            "float32, solve cut at 5 steps, upper times 1e-25",
            False,
            lambda: _scaled(hard, upper=1e-25),
            hard.exact * 1e-25,
            steps=5,
        ),
        Case("NaN in the upper function", True, lambda: _not_a_number(easy)),
        Case("y in units of 1e-5, half way", True, lambda: _in_units(easy, 1e-5, 0.5), easy.exact),
        Case("y in bfloat16, half way", False, lambda: _rounded(tasks.quadratic(60, 10, np.float32), 0.5), easy.exact),
    ]


def healthy_cases() -> list[Case]:
    """Cases with a right answer."""
    stiff, easy = tasks.quadratic(60, 10, np.float32), tasks.quadratic(60, 10)
    stiff_exact = 1e-11 * (stiff.exact - 0.1 * stiff.x) + 1e-12 * stiff.x
    with jax.enable_x64(True):
        intercept = flat(jax.grad(_intercept_alone)(jnp.asarray(-1.0)))
    return [
        Case("leaves of float32 and float64", True, lambda: _mixed(easy), easy.exact, mixed=True),
        Case("a batch whose rows are captured in vmap", True, _captured, rows=np.array([[1, 1.0], [2, 1.0]])),
        Case(
            "float32, stiffness 1e9, upper times 1e-11",
            False,
            lambda: _scaled(stiff, upper=1e-11, lower=1e9),
            stiff_exact,
        ),
        Case("ridge with a free intercept", True, _intercept, intercept),
        Case("y in units of 1e-5", True, lambda: _in_units(easy, 1e-5, 1.0), easy.exact),
    ]


def _unread() -> Four:
    y = {"read": jnp.arange(3.0), "free": jnp.zeros(2)}
    return (
        lambda x, y: jnp.sum((y["read"] - 1) ** 2) + jnp.sum((y["free"] - 2) ** 2),
        lambda x, y: jnp.sum((y["read"] - x) ** 2),
        jnp.arange(3.0),
        y,
    )


def _captured(row: Any) -> Four:
    """y = x row[0], at row[1] times that."""
    x = jnp.arange(1.0, 4.0)
    return lambda x, y: jnp.sum(y**2), lambda x, y: jnp.sum((y - x * row[0]) ** 2), x, x * row[0] * row[1]


def _scaled(task: tasks.Task, *, upper: float = 1.0, lower: float = 1.0) -> Four:
    above, below, x, y = task.in_jax()
    return lambda x, y: upper * above(x, y), lambda x, y: lower * below(x, y), x, y


def _not_a_number(task: tasks.Task) -> Four:
    upper, lower, x, y = task.in_jax()
    return lambda x, y: upper(x, y) + jnp.sqrt(-jnp.sum(y**2)), lower, x, y


def _in_units(task: tasks.Task, unit: float, reached: float) -> Four:
    """y in another unit, `reached` of the way from zero to its minimum."""
    upper, lower, x, y = task.in_jax()
    return lambda x, y: upper(x, y / unit), lambda x, y: lower(x, y / unit), x, reached * unit * y


def _rounded(task: tasks.Task, reached: float) -> Four:
    upper, lower, x, y = task.in_jax()

    def wide(function: Callable) -> Callable:
        return lambda x, y: function(x, y.astype(jnp.float32))

    return wide(upper), wide(lower), x, (reached * y).astype(jnp.bfloat16)


def _mixed(task: tasks.Task) -> Four:
    upper, lower, x, y = task.in_jax()

    def join(function: Callable) -> Callable:
        return lambda x, y: function(x, jnp.concatenate([y[0].astype(jnp.float64), y[1]]))

    return join(upper), join(lower), x, (y[:20].astype(jnp.float32), y[20:])


def _ridge() -> tuple[Any, ...]:
    """(table, target, held, truth): thirty rows of four features and a column of ones."""
    rng = np.random.default_rng(0)
    table, held = (np.column_stack([rng.normal(size=(30, 4)), np.ones(30)]) for _ in range(2))
    weights = np.array([1.0, -2.0, 0.5, 0.0, 0.7])
    return table, table @ weights + 0.3 * rng.normal(size=30), held, held @ weights


def _intercept_solved(x: Any) -> Any:
    table, target, _, _ = _ridge()
    return jnp.linalg.solve(table.T @ table + 30 * jnp.exp(x) * np.diag([1.0, 1, 1, 1, 0]), table.T @ target)


def _intercept_alone(x: Any) -> Any:
    """The outer objective with the inner solution by its closed form."""
    _, _, held, truth = _ridge()
    return jnp.mean((held @ _intercept_solved(x) - truth) ** 2)


def _intercept() -> Four:
    table, target, held, truth = _ridge()
    x = jnp.asarray(-1.0)
    solved = _intercept_solved(x)

    def misfit(rows: Any, right: Any, y: Any) -> Any:
        return jnp.mean((rows @ jnp.append(y["w"], y["b"]) - right) ** 2)

    def lower(x: Any, y: Any) -> Any:
        return misfit(table, target, y) + jnp.exp(x) * jnp.sum(y["w"] ** 2)

    return lambda x, y: misfit(held, truth, y), lower, x, {"w": solved[:4], "b": solved[4]}
