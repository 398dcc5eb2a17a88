"""Solvers of jaxfuse inside benchmark_bilevel (benchopt): copy this file into its folder solvers/.

    benchopt run . -s jaxfuse[solver=soba] -d quadratic

benchmark_bilevel's functions are (inner, outer, start, batch_size) -> scalar on consecutive samples; a batch here is
the place where it starts. Rates are those of its own solvers: step_size for the inner level and the adjoint,
step_size / outer_ratio for the outer one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfuse.implicit import solvers

try:
    from benchopt import BaseSolver
    from benchopt.stopping_criterion import SufficientProgressCriterion
except ImportError:  # `stretches` is of use without
    BaseSolver = None

STEPS, TERMS = 10, 10
MAKERS: dict[str, Callable[..., solvers.StochasticSolver]] = {
    "soba": lambda i, o, rate, counts: solvers.soba(i, o),
    "saba": lambda i, o, rate, counts: solvers.saba(i, o, *counts),
    "srba": lambda i, o, rate, counts: solvers.srba(i, o, sum(counts)),
    "fsla": lambda i, o, rate, counts: solvers.fsla(i, o),
    "amigo": lambda i, o, rate, counts: solvers.amigo(i, o, STEPS, TERMS),
    "stocbio": lambda i, o, rate, counts: solvers.stocbio(i, o, rate, STEPS, TERMS),
    "bsa": lambda i, o, rate, counts: solvers.bsa(i, o, rate, STEPS, TERMS),
    "ttsa": lambda i, o, rate, counts: solvers.ttsa(i, o, rate, terms=TERMS),
    "mrbo": lambda i, o, rate, counts: solvers.mrbo(i, o, rate, terms=TERMS),
    "sustain": lambda i, o, rate, counts: solvers.sustain(i, o, rate, terms=TERMS),
    "vrbo": lambda i, o, rate, counts: solvers.vrbo(i, o, rate, sum(counts), STEPS, TERMS),
    "f2sa": lambda i, o, rate, counts: solvers.f2sa(i, o, lambda step: 1 + 0.1 * step.astype(float), STEPS),
    "bome": lambda i, o, rate, counts: solvers.bome(i, o, inner_steps=STEPS),
    "pzobo": lambda i, o, rate, counts: solvers.pzobo(i, o, inner_steps=STEPS),
}


def stretches(problem: dict[str, Any], name: str, step_size: float, outer_ratio: float, **sizes: int) -> Any:
    """Returns (start, advance): the first state, and the function that makes it one of `steps` steps later.

    Args:
        problem: what benchmark_bilevel hands to `set_objective`.
        name: one of MAKERS.
        step_size, outer_ratio: rates, see above.
        sizes: batch_size, steps (between two points of a curve) and seed.
    """
    size, key = sizes["batch_size"], jax.random.key(sizes["seed"])
    counts = tuple(problem[f"n_{level}_samples"] // size for level in ("outer", "inner"))
    data = tuple(jnp.arange(count) * size for count in counts)

    def lower(x, y, start):
        return problem["f_inner"](y, x, start=start, batch_size=size)

    def upper(x, y, start):
        return problem["f_outer"](y, x, start=start, batch_size=size)

    solver = MAKERS[name](optax.sgd(step_size), optax.sgd(step_size / outer_ratio), step_size, counts)
    first = solver.bind(upper, lower).init(problem["outer_var0"], problem["inner_var0"], key)

    @jax.jit
    def advance(state: solvers.State) -> solvers.State:
        return solvers.solve(
            upper, lower, solver, state.x, state.y, steps=sizes["steps"], key=key, data=data, state=state
        ).state

    return first, advance


if BaseSolver is not None:

    class Solver(BaseSolver):
        """A solver of jaxfuse by its name."""

        name = "jaxfuse"
        stopping_criterion = SufficientProgressCriterion(patience=100, strategy="callback")
        requirements = ("pip::jaxfuse",)
        parameters = {  # noqa: RUF012 -- benchopt reads it from the class
            "solver": list(MAKERS),
            "step_size": [0.1],
            "outer_ratio": [1.0],
            "batch_size": [64],
            "eval_freq": [128],
            "random_state": [1],
        }

        def get_next(self, stop_val: int) -> int:
            return stop_val + 1

        def set_objective(self, **problem: Any) -> None:
            sizes = {"batch_size": self.batch_size, "steps": self.eval_freq, "seed": self.random_state}
            self.first, self.advance = stretches(problem, self.solver, self.step_size, self.outer_ratio, **sizes)
            self.state = self.first
            self.advance(self.first)  # compiles

        def run(self, callback: Any) -> None:
            self.state = self.first
            while callback():
                self.state = self.advance(self.state)

        def get_result(self) -> dict[str, Any]:
            return {"inner_var": self.state.y, "outer_var": self.state.x}
