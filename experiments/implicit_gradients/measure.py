"""Fair timing: compiled once, called in turns with the others, always against the same round's hand-written CG.

Times are those of single calls that block until the result is there; compilation is apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Method:
    """A way to a hypergradient.

    Attributes:
      name: as the tables show it.
      group: "ours", or "peer" for all others.
      build: task -> function of (x, y) that returns (gradient, evidence), to be compiled; without `jitted` a function
        of nothing that has done so when it returns.
      jitted: whether it is a function of JAX arrays.
      fits: which tasks it can be run on.
    """

    name: str
    group: str
    build: Callable[[Any], Callable[..., tuple[Any, dict[str, Any]]]]
    jitted: bool = True
    fits: Callable[[Any], bool] = lambda task: True


@dataclass
class Runner:
    """A method made ready on one task, with what was measured so far. `failure`: what it raised, if it did."""

    name: str
    group: str
    call: Callable[[], tuple[Any, dict[str, Any]]] | None = None
    gradient: np.ndarray | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    first_s: float = float("nan")
    run_s: float = float("nan")
    temporary_bytes: float = float("nan")
    failure: str | None = None
    times_s: dict[int, float] = field(default_factory=dict)  # by round


def flat(tree: Any) -> np.ndarray:
    """All entries of a gradient, float64, in the order of its leaves."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def error_and_cosine(gradient: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Relative error and cosine of the angle; nan for a gradient that is not finite."""
    with np.errstate(all="ignore"):
        length = np.linalg.norm(gradient)
        error = float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
        return error, float(gradient @ exact / length / np.linalg.norm(exact)) if length else 0.0


@dataclass(frozen=True)
class Program:
    """A compiled function with its arguments, and what its first call took: all of it, and without compiling."""

    call: Callable[[], Any]
    result: Any
    first_s: float
    run_s: float
    temporary_bytes: float


def compiled(function: Callable[..., Any], *arguments: Any) -> Program:
    """Traces, compiles and calls once."""
    started = time.perf_counter()
    program = jax.jit(lambda *values: function(*values)).lower(*arguments).compile()
    made = time.perf_counter()
    result = jax.block_until_ready(program(*arguments))
    ended = time.perf_counter()
    return Program(
        call=lambda: jax.block_until_ready(program(*arguments)),
        result=result,
        first_s=ended - started,
        run_s=ended - made,
        temporary_bytes=temporary_bytes(program),
    )


def temporary_bytes(program: Any) -> float:
    """Bytes that a compiled program allocates beside arguments and results; nan if the backend does not tell."""
    analysis = program.memory_analysis()
    return float("nan") if analysis is None else analysis.temp_size_in_bytes


def ready(method: Method, task: Any, x: Any, y: Any) -> Runner:
    """Builds, compiles and calls a method once. A peer that raises is kept with what it said."""
    runner = Runner(method.name, method.group)
    try:
        if method.jitted:
            program = compiled(method.build(task), x, y)
            runner.call, runner.temporary_bytes = program.call, program.temporary_bytes
            runner.first_s, runner.run_s = program.first_s, program.run_s
            gradient, evidence = program.result
        else:
            runner.call = method.build(task)
            runner.call()  # loads what is loaded on first use
            started = time.perf_counter()
            gradient, evidence = runner.call()
            runner.run_s = time.perf_counter() - started
    except Exception as error:  # what a peer raises is a finding of this experiment, shown in its table
        if method.group == "ours":
            raise
        runner.failure, runner.call = summary(error), None
        return runner
    runner.gradient = flat(gradient)
    runner.evidence = {name: np.asarray(value).item() for name, value in evidence.items()}
    return runner


# Messages of exceptions raised on the device run over many lines and name files of this machine.
_KNOWN = {"non-finite": "raised: not finite", "maximum number of": "raised: step limit"}


def summary(error: Exception) -> str:
    """A few words for what was raised: what is known of its message, else its type."""
    return next((said for part, said in _KNOWN.items() if part in str(error)), f"raised: {type(error).__name__}")


def race(runners: Sequence[Runner], rounds: int, seconds_each: float, tick: Callable[[str], None]) -> None:
    """Times the runners in turns: the first (the reference) in every round, the others after it, each round beginning

    with another. A runner takes part until it has spent `seconds_each`, but at least once; if its first call took
    more than five times that, this was its once.
    """
    reference, *others = [runner for runner in runners if runner.call is not None]
    spent = [0.0] * len(others)
    for index, runner in enumerate(others):
        if runner.run_s > 5 * seconds_each:
            runner.times_s[0], spent[index] = runner.run_s, runner.run_s
    for number in range(rounds):
        order = [(number + shift) % len(others) for shift in range(len(others))]
        taking = [index for index in order if spent[index] < seconds_each]
        if number and not taking:
            break
        reference.times_s[number] = _seconds(reference.call)
        for index in taking:
            others[index].times_s[number] = _seconds(others[index].call)
            spent[index] += others[index].times_s[number]
        tick(f"round {number + 1} of {rounds}")


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def ratios(runner: Runner, reference: Runner) -> dict[str, float]:
    """Median time, and median and quartiles of its ratio to the reference of the same round."""
    if not runner.times_s:
        return {"median_ms": np.nan, "ratio": np.nan, "ratio_q25": np.nan, "ratio_q75": np.nan, "rounds": 0}
    found = np.array([seconds / reference.times_s[number] for number, seconds in runner.times_s.items()])
    low, middle, high = np.percentile(found, [25, 50, 75])
    return {
        "median_ms": float(np.median(list(runner.times_s.values())) * 1e3),
        "ratio": float(middle),
        "ratio_q25": float(low),
        "ratio_q75": float(high),
        "rounds": len(found),
    }


def row(runner: Runner, reference: Runner, exact: np.ndarray) -> dict[str, Any]:
    """Makes the table row of a method on a task."""
    error, cosine = (np.nan, np.nan) if runner.gradient is None else error_and_cosine(runner.gradient, exact)
    return {
        "method": runner.name,
        "group": runner.group,
        "error": error,
        "cosine": cosine,
        **ratios(runner, reference),
        "first_call_ratio": runner.first_s / reference.first_s,
        "temporary_mb": runner.temporary_bytes / 1e6,
        "steps": runner.evidence.get("steps"),
        "products": runner.evidence.get("products"),
        "residual": runner.evidence.get("residual", np.nan),
        "said": runner.failure or _verdict(runner.evidence.get("converged")),
    }


def _verdict(converged: bool | None) -> str:
    return "nothing" if converged is None else "converged" if converged else "not converged"
