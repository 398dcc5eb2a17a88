"""Hypergradient descent by other libraries, where they are installed: the same inner steps, the same linear solver.

None of them has a stochastic solver. TorchOpt takes part in the quadratic alone, whose formula PyTorch can read too;
single hypergradients of it and of Betty are compared in `experiments.implicit_gradients`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bilevel_benchmark.methods import INNER_STEPS, TERMS, Method, calls_of_descent, descent
from experiments.bilevel_benchmark.tasks import Task
from experiments.implicit_gradients import peers

LIBRARIES = ("jaxopt", "optimistix", "torchopt")


def missing() -> list[str]:
    return [name for name in LIBRARIES if not peers.installed(name)]


def jaxopt_gradient(upper: Any, lower: Any, x: Any, y: Any, q: Any) -> tuple[Any, Any]:
    """`custom_root` with conjugate gradients; it takes no start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jaxopt import linear_solve

    def solve(product: Any, target: Any) -> Any:
        return linear_solve.solve_cg(product, target, maxiter=TERMS)

    return peers.jaxopt_gradient(solve, upper, lower, x, y)[0], q


def optimistix_gradient(upper: Any, lower: Any, x: Any, y: Any, q: Any) -> tuple[Any, Any]:
    """`ImplicitAdjoint` with conjugate gradients of lineax; it takes no start, and raises where CG has not converged.

    So CG is run to a relative residual of 1e-6, and as many steps as that takes.
    """
    import lineax
    import optimistix

    adjoint = optimistix.ImplicitAdjoint(linear_solver=lineax.CG(rtol=1e-6, atol=1e-6))
    tags = frozenset({lineax.positive_semidefinite_tag})
    return peers.optimistix_gradient(adjoint, tags, upper, lower, x, y)[0], q


def torchopt_program(task: Task, steps: int, points: int) -> Callable[..., Any]:
    """Descent in PyTorch with TorchOpt's `custom_root` and its conjugate gradients; eager, as PyTorch is."""
    import torch
    from torchopt.diff.implicit import custom_root
    from torchopt.linear_solve import solve_cg

    def tensors(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: torch.as_tensor(np.array(leaf)), tree)

    data = tensors(jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, *leaf.shape[2:])), task.data))
    slope = torch.func.grad(lambda y, x: task.lower(x, y, data[1]))

    def step(x: Any, y: Any, inner: float, outer: float) -> tuple[Any, Any]:
        with torch.no_grad():
            for _ in range(INNER_STEPS):
                y = y - inner * slope(y, x)
        x = x.detach().requires_grad_()

        warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")

        @custom_root(slope, argnums=1, solve=solve_cg(rtol=1e-12, atol=0.0, maxiter=TERMS))
        def solution(start: Any, x: Any) -> Any:
            return y.detach().clone()

        (found,) = torch.autograd.grad(task.upper(x, solution(None, x), data[0]), x)
        return (x - outer * found).detach(), y

    def run(inner: Any, outer: Any, seed: Any) -> tuple[Any, Any]:
        x, y = tensors(task.start)
        kept = []
        for _ in range(points):
            for _ in range(steps):
                x, y = step(x, y, float(inner), float(outer))
            kept.append((x.numpy(), y.numpy()))
        return tuple(jnp.asarray(np.stack(part)) for part in zip(*kept, strict=True))

    return run


def methods() -> list[Method]:
    """Descent by each library that is installed."""
    made = {"jaxopt": jaxopt_gradient, "optimistix": optimistix_gradient}
    found = [descent(name, name, gradient, TERMS + 1) for name, gradient in made.items() if name not in missing()]
    if "torchopt" not in missing():
        calls = functools.partial(calls_of_descent, products=TERMS + 1)
        found.append(Method("TorchOpt", "torchopt", calls, None, None, torchopt_program, ("quadratic",)))
    return found
