"""Rates of matrix products on the device in use, as measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def best_seconds(run: Callable[[], Any], rounds: int, calls: int) -> float:
    """Returns the least seconds of a call, over rounds of so many calls that are waited for once."""
    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - started) / calls)
    return best


def product_rate(side: int, dtype: DTypeLike = jnp.float32, *, rounds: int = 5, calls: int = 1) -> float:
    """Returns operations per second of the best product of square matrices; two for a multiplication and addition."""
    a = jnp.ones((side, side), dtype)
    return 2 * side**3 / best_seconds(lambda: a @ a, rounds, calls)
