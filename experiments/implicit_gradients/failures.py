"""Does a route say so when its hypergradient is wrong? Twelve cases that go wrong, ten that do not.

    python -m experiments.implicit_gradients.failures

asks anew with whichever peers are installed, and writes this part of scores.json and table.md. Detected: our
`info.converged` is False, a peer raises, or the gradient is NaN; anything else is silent. A false alarm is the same on
a healthy problem.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.implicit_gradients import further_failures, tables, tasks
from experiments.implicit_gradients.measure import error_and_cosine, flat, summary
from experiments.implicit_gradients.network import descend
from experiments.implicit_gradients.peers import hand_cg, installed, jaxopt_gradient, optimistix_gradient
from experiments.implicit_gradients.wrong import Case
from jaxfuse import implicit
from jaxfuse.io.tables import read_json, write_json

HERE = Path(__file__).parent


def _plain(matrix: np.ndarray, right: np.ndarray, y: np.ndarray) -> Callable[[], tuple[Any, Any, Any, Any]]:
    """lower = y'Ay/2 - y'(x + right), upper = |y - 1|^2/2 at x = 0: the hypergradient is A^-1 (y - 1)."""

    def problem() -> tuple[Any, Any, Any, Any]:
        A, b = jnp.asarray(matrix), jnp.asarray(right)
        return (
            lambda x, y: 0.5 * jnp.sum((y - 1) ** 2),
            lambda x, y: 0.5 * y @ (A @ y) - y @ (x + b),
            jnp.zeros_like(b),
            jnp.asarray(y),
        )

    return problem


def failing_cases() -> list[Case]:
    rng = np.random.default_rng(10)
    n = 60
    hard = tasks.quadratic(200, 1e4)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    right = rng.normal(size=n)
    saddle_values = np.concatenate([-np.linspace(0.1, 0.5, 3), np.linspace(0.1, 1, n - 3)])
    saddle = (basis * saddle_values) @ basis.T
    singular = (basis * np.concatenate([np.zeros(2), np.linspace(0.1, 1, n - 2)])) @ basis.T
    in_range = singular @ right  # the inner problem has minima, the adjoint equation has no solution
    single = tasks.quadratic(200, 1e3, np.float32)

    def cut() -> tuple[Any, Any, Any, Any]:
        upper, lower, x, y = hard.in_jax()
        return upper, lower, x, descend(lower, x, jnp.zeros_like(y), 20, 1.0)

    def not_a_number() -> tuple[Any, Any, Any, Any]:
        upper, lower, x, y = tasks.quadratic(n, 10).in_jax()
        return upper, lambda x, y: lower(x, y) + jnp.sqrt(-jnp.sum(y**2)), x, y

    return [
        Case("linear solve cut at 5 steps, condition 1e4", True, hard.in_jax, hard.exact, steps=5),
        Case("inner solve cut at 20 steps", True, cut, hard.exact),
        # A saddle has no hypergradient: y is no minimum. What a solver returns may be the derivative of the saddle.
        Case("Hessian with negative eigenvalues", True, _plain(saddle, right, np.linalg.solve(saddle, right))),
        Case("singular Hessian, no solution", True, _plain(singular, in_range, right)),
        Case("NaN in the lower function", True, not_a_number),
        Case("float32, tolerance 1e-10", False, single.in_jax, single.exact, tolerance=1e-10),
        *further_failures.failing_cases(),
    ]


def healthy_cases() -> list[Case]:
    quadratics = [tasks.quadratic(200, 1e3), tasks.quadratic(600, 1e3), tasks.quadratic(600, 1e2, np.float32)]
    logistic = tasks.logistic()

    def envelope() -> tuple[Any, Any, Any, Any]:
        _, lower, x, y = quadratics[0].in_jax()
        return lower, lower, x, y

    with jax.enable_x64(True):
        _, lower, x, y = envelope()
        slope = flat(jax.grad(lower)(x, y))
    return [
        *(Case(f"quadratic, {task.size}", task.double, task.in_jax, task.exact) for task in quadratics),
        Case(f"logistic, {logistic.size}", True, logistic.in_jax, logistic.exact),
        Case("upper = lower (zero right-hand side)", True, envelope, slope),
        *further_failures.healthy_cases(),
    ]


def routes() -> dict[str, Callable[[Any, Any, Any, Any, Case, int], tuple[Any, Any]]]:
    """Name -> function of (upper, lower, x, y, case, unknowns) that returns (gradient, converged or None)."""

    def limits(case: Case, unknowns: int) -> tuple[float, int]:
        return case.tolerance or (1e-10 if case.fine else 1e-6), case.steps or min(10 * unknowns, 20_000)

    def ours(upper: Any, lower: Any, x: Any, y: Any, case: Case, unknowns: int) -> tuple[Any, Any]:
        # In float32 the usual tolerance is our default, which is judged by the estimated error of the adjoint.
        tolerance, steps = limits(case, unknowns)
        estimator = implicit.cg(tolerance if case.fine or case.tolerance else None, steps)
        gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=estimator, policy="ignore")
        return gradient, info.converged

    def no_options(upper: Any, lower: Any, x: Any, y: Any, case: Case, unknowns: int) -> tuple[Any, Any]:
        gradient, info = implicit.hypergradient(upper, lower, x, y, policy="ignore")
        return gradient, info.converged

    def hand(upper: Any, lower: Any, x: Any, y: Any, case: Case, unknowns: int) -> tuple[Any, Any]:
        tolerance, steps = limits(case, unknowns)
        return hand_cg(upper, lower, x, y, tolerance=tolerance, steps=steps)[0], None

    found = {"ours: cg": ours, "ours: no options": no_options, "hand-written CG": hand}
    if installed("jaxopt"):
        from functools import partial

        from jaxopt import linear_solve

        def jaxopt(upper: Any, lower: Any, x: Any, y: Any, case: Case, unknowns: int) -> tuple[Any, Any]:
            tolerance, steps = limits(case, unknowns)
            solve = partial(linear_solve.solve_cg, tol=tolerance, maxiter=steps)
            return jaxopt_gradient(solve, upper, lower, x, y)[0], None

        found["jaxopt solve_cg"] = jaxopt
    if installed("optimistix"):
        import lineax
        import optimistix

        def optimistix_cg(upper: Any, lower: Any, x: Any, y: Any, case: Case, unknowns: int) -> tuple[Any, Any]:
            tolerance, steps = limits(case, unknowns)
            adjoint = optimistix.ImplicitAdjoint(lineax.CG(rtol=tolerance, atol=tolerance, max_steps=steps))
            tags = frozenset({lineax.positive_semidefinite_tag})
            return optimistix_gradient(adjoint, tags, upper, lower, x, y)[0], None

        found["optimistix CG"] = optimistix_cg
    return found


def inner_optimizers() -> dict[str, Callable[[Any, Any, Any, Any], Any]]:
    """Peers that bring their own inner solver, for the case that it is cut: (upper, lower, x, start) -> gradient."""
    found: dict[str, Callable[[Any, Any, Any, Any], Any]] = {}
    if installed("jaxopt"):
        from jaxopt import GradientDescent

        def jaxopt(upper: Any, lower: Any, x: Any, start: Any) -> Any:
            solver = GradientDescent(lambda y, x: lower(x, y), maxiter=20, stepsize=1.0, acceleration=False)
            return jax.grad(lambda x: upper(x, solver.run(start, x).params))(x)

        found["jaxopt solve_cg"] = jaxopt
    if installed("optimistix"):
        import optimistix

        def optimistix_own(upper: Any, lower: Any, x: Any, start: Any) -> Any:
            solver = optimistix.GradientDescent(learning_rate=1.0, rtol=1e-10, atol=1e-10)
            return jax.grad(
                lambda x: upper(x, optimistix.minimise(lambda y, x: lower(x, y), solver, start, x, max_steps=20).value)
            )(x)

        found["optimistix CG"] = optimistix_own
    return found


def judge(tick: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """Runs every case by every route: its verdict and its error, nan where no truth exists."""
    tables: dict[str, list[dict[str, Any]]] = {"failing": [], "healthy": []}
    for kind, cases in (("failing", failing_cases()), ("healthy", healthy_cases())):
        for case in cases:
            tick(f"failures: {case.name}")
            tables[kind] += [{"case": case.name, "route": name, **found} for name, found in _ask(case).items()]
    return tables


def _ask(case: Case) -> dict[str, dict[str, Any]]:
    """Collects the verdict of every route that the case applies to."""
    found = {}
    with jax.enable_x64(case.double):
        own = inner_optimizers() if case.name.startswith("inner solve cut") else {}
        for name, route in routes().items():
            if name == "ours: no options" and (case.steps or case.tolerance):
                continue  # it is told no such thing
            found[name] = _verdict(_call(case, route, own.get(name)), case, name)
    return found


def _call(case: Case, route: Callable, own: Callable | None) -> Callable[[], tuple[Any, Any]]:
    """The call of a route, or of a peer's `own` inner solver; in a batch, converged means that all rows have."""
    if case.rows is not None:
        rows = jnp.asarray(case.rows)

        def of_row(row: Any) -> tuple[Any, Any]:
            upper, lower, x, y = case.problem(row)
            return route(upper, lower, x, y, case, _size(y))

        return lambda: jax.vmap(of_row)(rows)
    upper, lower, x, y = case.problem()
    if own is not None:
        return lambda: (own(upper, lower, x, jax.tree.map(jnp.zeros_like, y)), None)
    return lambda: route(upper, lower, x, y, case, _size(y))


def _size(y: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(y))


def _verdict(call: Callable[[], tuple[Any, Any]], case: Case, name: str) -> dict[str, Any]:
    try:
        gradient, converged = jax.block_until_ready(jax.jit(call)())
    except Exception as error:  # a peer's way to say so
        if name.startswith("ours"):
            raise
        return {"said": summary(error), "detected": True, "error": float("nan")}
    values = flat(gradient)
    error = float("nan") if case.exact is None else error_and_cosine(values, case.exact)[0]
    if converged is None:
        finite = bool(np.all(np.isfinite(values)))  # NaN is no word, but it cannot be overlooked
        return {"said": "nothing" if finite else "NaN", "detected": not finite, "error": error}
    sure = bool(np.all(converged))
    return {"said": "converged" if sure else "not converged", "detected": not sure, "error": error}


def main() -> None:
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # peers raise inside compiled code
    path = HERE / "scores.json"
    scores = read_json(path)
    scores["failures"] = judge(print)
    write_json(path, scores)
    (HERE / "table.md").write_text(tables.table(scores), encoding="utf-8")
    print(tables.of_failures(scores["failures"]))


if __name__ == "__main__":
    main()
