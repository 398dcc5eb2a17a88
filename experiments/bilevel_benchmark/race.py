"""Runs of one method on one task: rates chosen at the end of the budget on one seed, then curves on others."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.bilevel_benchmark.methods import Method
from experiments.bilevel_benchmark.tasks import Task

INNER_RATES = (1.0, 0.3, 0.1, 0.03)  # over the largest eigenvalue of lower_yy
OUTER_RATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # in units of the task
POINTS = 15
CHOICE_SEED, SEEDS = 0, (1, 2, 3)


@dataclass(frozen=True)
class Settings:
    """Sizes of a comparison: rates tried, seeds, and the share of each task's budget."""

    inner: tuple[float, ...] = INNER_RATES
    outer: tuple[float, ...] = OUTER_RATES
    seeds: tuple[int, ...] = SEEDS
    share: float = 1.0


QUICK = Settings(inner=(0.3,), outer=(1.0,), seeds=(1,), share=0.05)


def stretch_of(method: Method, task: Task, share: float) -> int:
    """Steps between two points of a curve."""
    return max(1, round(task.budget * share / method.calls(task) / POINTS))


def program(method: Method, task: Task, steps: int) -> Callable[..., Any]:
    """Compiles (inner rate, outer rate, seed) -> x and y after every stretch, with leading axes (POINTS,)."""

    def run(inner: Any, outer: Any, seed: Any) -> Any:
        key = jax.random.key(seed)

        def stretch(state: Any, _: None) -> tuple[Any, Any]:
            def move(_, state):
                return method.advance(task, inner, outer, key, state)

            state = lax.fori_loop(0, steps, move, state)
            return state, (state.x, state.y)

        return lax.scan(stretch, method.start(task, inner, outer, key), None, length=POINTS)[1]

    return jax.jit(run).lower(*arguments(1.0, 1.0, 0)).compile()


def arguments(inner: float, outer: float, seed: int) -> tuple[Any, Any, Any]:
    return jnp.asarray(inner, float), jnp.asarray(outer, float), jnp.asarray(seed, jnp.uint32)


def compete(method: Method, task: Task, value: Callable[..., Any], settings: Settings) -> dict[str, Any]:
    """Runs one method on one task.

    `value` maps x and y with a leading axis to F. Seconds are of the processor, compilation left out.
    """
    steps = stretch_of(method, task, settings.share)
    run = method.program(task, steps, POINTS) if method.program else program(method, task, steps)
    ends = {}
    for inner, outer in itertools.product(settings.inner, settings.outer):
        rates = (inner / task.largest, outer * task.outer_unit)
        x, y = jax.tree.map(lambda leaf: leaf[-1:], run(*arguments(*rates, CHOICE_SEED)))
        ends[inner, outer] = _finite(value(x, y))[0]
    inner, outer = min(ends, key=lambda rates: (ends[rates], rates))
    curves, seconds = [], []
    for seed in settings.seeds:
        given = arguments(inner / task.largest, outer * task.outer_unit, seed)
        started = time.process_time()
        x, y = jax.block_until_ready(run(*given))
        seconds.append(time.process_time() - started)
        curves.append(_finite(value(x, y)).tolist())
    return {
        "method": method.name,
        "group": method.group,
        "inner": inner,
        "outer": outer,
        "edge": outer in (settings.outer[0], settings.outer[-1]),
        "calls": [steps * method.calls(task) * (place + 1) for place in range(POINTS)],
        "seconds": float(np.median(seconds)),
        "values": curves,
    }


def _finite(values: Any) -> np.ndarray:
    """Values with infinity where a run has gone astray."""
    found = np.asarray(values, np.float64)
    return np.where(np.isfinite(found), found, np.inf)
