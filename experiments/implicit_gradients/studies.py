"""Questions beside the main tables: overhead at equal work, memory, inexact inner solves, reuse between outer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.implicit_gradients import tasks
from experiments.implicit_gradients.measure import (
    Runner,
    compiled,
    error_and_cosine,
    flat,
    race,
    ratios,
    temporary_bytes,
)
from experiments.implicit_gradients.network import descend, network
from experiments.implicit_gradients.peers import hand_cg, installed, jaxopt_gradient, optimistix_gradient
from jaxfuse import implicit
from jaxfuse.implicit.nystrom import nystrom, nystrom_preconditioner
from jaxfuse.implicit.series import identity, neumann
from jaxfuse.implicit.unrolled import one_step, phantom, unroll

Tick = Callable[[str], None]


def overhead_problems(quick: bool) -> Iterator[tuple[str, bool, int, tuple[Any, ...]]]:
    """Name, whether float64, CG steps, and (upper, lower, x, y)."""
    sizes = (200,) if quick else (200, 1000, 2000)
    for dtype in (np.float64, np.float32):
        for n in sizes:
            task = tasks.quadratic(n, 1e3, dtype)
            with jax.enable_x64(task.double):
                yield f"quadratic, n = {n}, {np.dtype(dtype).name}", task.double, 50, task.in_jax()
    for task in (tasks.ridge(), tasks.logistic()):
        with jax.enable_x64(True):
            yield f"{task.key}, float64", True, 50, task.in_jax()
    with jax.enable_x64(False):
        yield "tanh network, 1,088 weights, float32", False, 20, network()


def overhead(rounds: int, quick: bool, tick: Tick) -> list[dict[str, Any]]:
    """Ours against the hand-written CG at the same fixed number of steps, nothing else running between the two.

    The first calls (tracing, compiling, running) are the medians of three fresh compilations of each.
    """
    rows = []
    for name, double, steps, (upper, lower, x, y) in overhead_problems(quick):
        tick(f"overhead: {name}")

        def hand(x: Any, y: Any, upper: Any = upper, lower: Any = lower, steps: int = steps) -> Any:
            return hand_cg(upper, lower, x, y, tolerance=0.0, steps=steps)

        def ours(x: Any, y: Any, upper: Any = upper, lower: Any = lower, steps: int = steps) -> Any:
            return implicit.hypergradient(upper, lower, x, y, estimator=implicit.cg(tolerance=0.0, steps=steps))

        with jax.enable_x64(double):
            compiled(hand, x, y)  # what the first compilation of a kind costs once is nobody's
            tries = [(compiled(hand, x, y), compiled(ours, x, y)) for _ in range(1 if quick else 3)]
            of_hand, of_ours = tries[-1]
            first = np.median([b.first_s for _, b in tries]) / np.median([a.first_s for a, _ in tries])
            reference, runner = Runner("hand", "peer", of_hand.call), Runner("ours", "ours", of_ours.call)
            race([reference, runner], rounds, np.inf, lambda said: None)
            info = of_ours.result[1]
        rows.append(
            {
                "problem": name,
                "steps": steps,
                "hand_ms": float(np.median(list(reference.times_s.values())) * 1e3),
                **ratios(runner, reference),
                "first_call_ratio": float(first),
                "temporary_ratio": of_ours.temporary_bytes / of_hand.temporary_bytes,
                "extra_products": int(info.products) - steps,
                "steps_taken": int(info.steps),
            }
        )
    return rows


def memory(counts: list[int], tick: Tick) -> dict[str, list[float]]:
    """Temporary megabytes that the compiler reports for inner solve and hypergradient in one program, by inner steps.

    Nothing is run: an unrolled program of 10,000 steps would not fit many machines.
    """
    with jax.enable_x64(False):
        upper, lower, x, y = network()
        rate = 0.1

        def solved(x: Any, y: Any, steps: int) -> Any:
            return jax.lax.stop_gradient(descend(lower, x, y, steps, rate))

        def unrolled(checkpoint: bool) -> Callable[[Any, Any, int], Any]:
            return lambda x, y, steps: implicit.hypergradient(
                upper, lower, x, y, estimator=unroll(steps, learning_rate=rate, start=y, checkpoint=checkpoint)
            )[0]

        ways: dict[str, Callable[[Any, Any, int], Any]] = {
            "jax.grad of the scan": lambda x, y, steps: jax.grad(lambda x: upper(x, descend(lower, x, y, steps, rate)))(
                x
            ),
            "ours: unroll": unrolled(False),
            "ours: unroll, checkpointed": unrolled(True),
            "ours: cg": lambda x, y, steps: implicit.hypergradient(
                upper, lower, x, solved(x, y, steps), estimator=implicit.cg(steps=50)
            ),
            "hand-written CG": lambda x, y, steps: hand_cg(
                upper, lower, x, solved(x, y, steps), tolerance=1e-6, steps=50
            )[0],
        }
        ways |= _peers_of_memory(upper, lower, solved)
        found: dict[str, list[float]] = {}
        for name, way in ways.items():
            found[name] = []
            for steps in counts:
                tick(f"memory: {name}, {steps} inner steps")
                program = jax.jit(lambda x, y, way=way, steps=steps: way(x, y, steps)).lower(x, y).compile()
                found[name].append(temporary_bytes(program) / 1e6)
    return found


def _peers_of_memory(upper: Any, lower: Any, solved: Any) -> dict[str, Callable[[Any, Any, int], Any]]:
    ways: dict[str, Callable[[Any, Any, int], Any]] = {}
    if installed("jaxopt"):
        from functools import partial

        from jaxopt import linear_solve

        solve = partial(linear_solve.solve_cg, tol=1e-6, maxiter=50)
        ways["jaxopt custom_root, solve_cg"] = lambda x, y, steps: jaxopt_gradient(
            solve, upper, lower, x, solved(x, y, steps)
        )[0]
    if installed("optimistix"):
        import lineax
        import optimistix

        for name, adjoint, tags in (
            (
                "CG",
                optimistix.ImplicitAdjoint(lineax.CG(rtol=1e-6, atol=1e-6, max_steps=50)),
                frozenset({lineax.positive_semidefinite_tag}),
            ),
            ("default", optimistix.ImplicitAdjoint(), frozenset()),
        ):
            ways[f"optimistix ImplicitAdjoint, {name}"] = lambda x, y, steps, adjoint=adjoint, tags=tags: (
                optimistix_gradient(adjoint, tags, upper, lower, x, solved(x, y, steps))[0]
            )
    return ways


def inexact(counts: list[int], quick: bool, tick: Tick) -> dict[str, dict[str, list[float]]]:
    """Error and cosine of the estimators where y comes from so many gradient steps from zero; condition 100."""
    task = tasks.quadratic(50 if quick else 500, 100)
    with jax.enable_x64(True):
        upper, lower, x, y = task.in_jax()
        zero = jnp.zeros_like(y)
        ways: dict[str, Any] = {
            "cg": implicit.cg(),
            "cg, 5 steps": implicit.cg(tolerance=0.0, steps=5),
            "cg, 20 steps": implicit.cg(tolerance=0.0, steps=20),
            "neumann, 20 terms": neumann(20, 1.0),
            "neumann, 200 terms": neumann(200, 1.0),
            "nystrom, rank 10": nystrom(10, 1e-2, key=jax.random.key(1)),
            "phantom, 5 steps, 0.5": phantom(5, 0.5, learning_rate=1.0),
            "one_step": one_step(learning_rate=1.0),
            "identity": identity(1.0),
        }
        found: dict[str, dict[str, list[float]]] = {}
        for name in (*ways, "unroll from 0"):
            tick(f"inexact inner solve: {name}")
            scores = []
            shared = None if name not in ways else jax.jit(_estimate(upper, lower, ways[name]))
            for steps in counts:
                if shared is None:
                    whole = unroll(steps, learning_rate=1.0, start=zero)
                    gradient, _ = jax.jit(_estimate(upper, lower, whole))(x, zero)
                else:
                    gradient, _ = shared(x, descend(lower, x, zero, steps, 1.0))
                scores.append(error_and_cosine(flat(gradient), task.exact))
            found[name] = {"error": [s[0] for s in scores], "cosine": [s[1] for s in scores]}
    return found


def _estimate(upper: Any, lower: Any, estimator: Any) -> Callable[[Any, Any], Any]:
    return lambda x, y: implicit.hypergradient(upper, lower, x, y, estimator=estimator, policy="ignore")


def drifting(n: int) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """Returns upper, lower and x -> y*(x) of a quadratic in n unknowns whose matrix drifts with x, a scalar.

    lower = y'A(x)y/2 - b(x)'y with eigenvalues exp(-i / 10) + 1e-4 and a drift in other directions.
    """
    rng = np.random.default_rng(9)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    turned, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = np.exp(-np.arange(n) / 10)
    A = jnp.asarray((basis * (values + 1e-4)) @ basis.T)
    D = jnp.asarray((turned * values[::-1]) @ turned.T) * 0.02
    b, t, c = (jnp.asarray(rng.normal(size=n)) for _ in range(3))

    def lower(x: Any, y: Any) -> Any:
        drift = 0.1 * jnp.sin(x)
        return 0.5 * y @ (A @ y) + 0.5 * drift * y @ (D @ y) - y @ (b + x * c * 0.05)

    def upper(x: Any, y: Any) -> Any:
        return 0.5 * jnp.sum((A @ (y - t)) ** 2)

    return upper, lower, jax.jit(lambda x: jnp.linalg.solve(A + 0.1 * jnp.sin(x) * D, b + x * c * 0.05))


def reuse(outer_steps: int, quick: bool, tick: Tick) -> list[dict[str, Any]]:
    """CG steps to a residual of 1e-6 over a drifting sequence: from zero, from the last adjoint, and preconditioned.

    x = 1 - 0.7^k, as in an outer loop that converges; the Nystrom preconditioner (rank 50) is that of the first step,
    or made anew.
    """
    n = 100 if quick else 500
    with jax.enable_x64(True):
        upper, lower, optimum = drifting(n)
        path = 1 - 0.7 ** jnp.arange(outer_steps, dtype=jnp.float64)

        def made(x: Any) -> Any:
            return nystrom_preconditioner(lower, x, optimum(x), rank=50, damping=1e-4, key=jax.random.key(2))

        first = made(path[0])
        ways: dict[str, tuple[bool, Callable[[Any], Any]]] = {
            "cold": (False, lambda x: None),
            "warm": (True, lambda x: None),
            "cold, Nystrom of the first step": (False, lambda x: first),
            "warm, Nystrom of the first step": (True, lambda x: first),
            "warm, Nystrom of every step": (True, made),
        }
        rows = []
        for name, (warm, preconditioner) in ways.items():
            tick(f"reuse: {name}")

            def outer(adjoint: Any, x: Any, warm: bool = warm, preconditioner: Any = preconditioner) -> Any:
                solver = implicit.cg(tolerance=1e-6, start=adjoint if warm else None, preconditioner=preconditioner(x))
                _, info = implicit.hypergradient(upper, lower, x, optimum(x), estimator=solver, policy="ignore")
                return info.adjoint, (info.steps, info.converged)

            _, (steps, converged) = jax.jit(lambda path, outer=outer: jax.lax.scan(outer, jnp.zeros(n), path))(path)
            rows.append({"way": name, **_counted(np.asarray(steps), np.asarray(converged)), "outer_steps": outer_steps})
    for line in rows:
        line["fewer"] = rows[0]["total"] / max(line["total"], 1)
    return rows


def _counted(steps: np.ndarray, converged: np.ndarray) -> dict[str, Any]:
    return {
        "first": int(steps[0]),
        "median_later": float(np.median(steps[1:])),
        "total": int(steps.sum()),
        "converged": int(np.sum(converged)),
    }
