"""Every estimator of jaxfuse.implicit as a method of this experiment, with one rule of settings for all tasks.

Step sizes are 1 / (largest eigenvalue of the inner Hessian), damping of Nystrom 0.01 and of its preconditioner 0.001
times that eigenvalue, rank 50 (10 beyond 100,000 unknowns), 200 steps where an iteration is cut. Solvers get the
tolerance and the cap of steps of the peers; in float32 that tolerance is our default and is left unnamed, so that
`info.converged` judges the estimated error of the adjoint. None of this is the best setting for any task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.implicit_gradients.measure import Method
from experiments.implicit_gradients.peers import steps_of, tolerance_of
from experiments.implicit_gradients.tasks import Task, jax_library
from jaxfuse import implicit
from jaxfuse.implicit.linear_solvers import bicgstab, gmres, lsmr
from jaxfuse.implicit.nystrom import nystrom, nystrom_preconditioner
from jaxfuse.implicit.series import direct, finite_difference, fixed_point, identity, neumann, rank_one
from jaxfuse.implicit.unrolled import one_step, phantom, truncated, unroll

KEY = 11  # of the random test vectors of Nystrom


def stop_of(task: Task) -> float | None:
    return tolerance_of(task) if task.double else None


def rank_of(task: Task) -> int:
    return 10 if task.unknowns > 100_000 else 50


def evidence(info: implicit.Info) -> dict[str, Any]:
    return {
        "steps": info.steps,
        "products": info.products,
        "converged": info.converged,
        "residual": info.residual,
    }


def ours(
    name: str,
    estimator: Callable[[Task], Any],
    *,
    curvature: Callable[[Task, Any], Any] = lambda task, x: implicit.hessian(),
    fits: Callable[[Task], bool] = lambda task: True,
) -> Method:
    """`estimator` and `curvature` are made per task; an estimator of None leaves hypergradient's own choice."""

    def build(task: Task) -> Callable[..., Any]:
        upper, lower, *_ = task.in_jax()

        def call(x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
            gradient, info = implicit.hypergradient(
                upper, lower, x, y, estimator=estimator(task), curvature=curvature(task, x)
            )
            return gradient, evidence(info)

        return call

    return Method(name, "ours", build, fits=fits)


def preconditioned() -> Method:
    """CG with a Nystrom preconditioner of the point itself; making it is part of the time."""

    def build(task: Task) -> Callable[..., Any]:
        upper, lower, *_ = task.in_jax()

        def call(x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
            matrix = nystrom_preconditioner(
                lower, x, y, rank=rank_of(task), damping=1e-3 * task.largest, key=jax.random.key(KEY)
            )
            solver = implicit.cg(stop_of(task), steps_of(task), preconditioner=matrix)
            gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=solver)
            return gradient, evidence(info) | {"products": info.products + rank_of(task)}

        return call

    return Method("cg, Nystrom preconditioner", "ours", build)


def gauss_newton_of(task: Task, x: Any) -> Any:
    assert task.gauss_newton is not None  # methods with it fit such tasks only
    return implicit.gauss_newton(*task.gauss_newton(jax_library(task.dtype)))


def fisher_of(task: Task, x: Any) -> Any:
    assert task.fisher is not None
    return implicit.fisher(**task.fisher(jax_library(task.dtype), x))


def solvers() -> list[Method]:
    """Methods that solve the adjoint equation to a tolerance, or exactly."""
    limits = lambda task: {"tolerance": stop_of(task), "steps": steps_of(task)}  # noqa: E731
    held = lambda task: task.dense  # noqa: E731
    with_model = lambda task: task.gauss_newton is not None  # noqa: E731
    return [
        ours("no options", lambda task: None),
        ours("cg", lambda task: implicit.cg(**limits(task))),
        preconditioned(),
        ours("minres", lambda task: implicit.minres(**limits(task))),
        ours("gmres", lambda task: gmres(**limits(task))),
        ours("bicgstab", lambda task: bicgstab(**limits(task))),
        ours("lsmr", lambda task: lsmr(**limits(task))),
        ours("fixed_point", lambda task: fixed_point(1 / task.largest, **limits(task))),
        ours("dense", lambda task: implicit.dense(), fits=held),
        ours("cg, Gauss-Newton", lambda task: implicit.cg(**limits(task)), curvature=gauss_newton_of, fits=with_model),
        ours(
            "cg, Fisher",
            lambda task: implicit.cg(**limits(task)),
            curvature=fisher_of,
            fits=lambda task: task.fisher is not None,
        ),
    ]


def approximations() -> list[Method]:
    """Methods that are cheap because they leave something out."""
    rate = lambda task: 1 / task.largest  # noqa: E731

    def start(task: Task) -> Any:
        library = jax_library(task.dtype)
        return jax.tree.map(lambda leaf: jnp.zeros_like(library.array(leaf)), task.y)

    return [
        ours("neumann, 20 terms", lambda task: neumann(20, rate(task))),
        ours("neumann, 200 terms", lambda task: neumann(200, rate(task))),
        ours("nystrom", lambda task: nystrom(rank_of(task), 1e-2 * task.largest, key=jax.random.key(KEY))),
        ours("truncated, 20 steps", lambda task: truncated(20, learning_rate=rate(task))),
        ours("phantom, 5 steps, 0.5", lambda task: phantom(5, 0.5, learning_rate=rate(task))),
        ours("one_step", lambda task: one_step(learning_rate=rate(task))),
        ours("identity", lambda task: identity(rate(task))),
        ours("finite_difference", lambda task: finite_difference(rate(task))),
        ours("rank_one, limit 1", lambda task: rank_one(limit=1.0)),
        ours("direct", lambda task: direct()),
        ours(
            "unroll, 200 steps from 0",
            lambda task: unroll(200, learning_rate=rate(task), start=start(task)),
            fits=lambda task: task.dense,  # it holds all 200 iterates
        ),
        ours(
            "unroll, checkpointed",
            lambda task: unroll(200, learning_rate=rate(task), start=start(task), checkpoint=True),
        ),
    ]
