"""Hypergradient descent by other libraries, where they are installed: the same inner steps, the same linear solver.

None of them has a stochastic solver. PyTorch's libraries (TorchOpt, Betty) would need these tasks in PyTorch; single
hypergradients of theirs are compared in `experiments.implicit_gradients`.
"""

from __future__ import annotations

import warnings
from typing import Any

from experiments.bilevel_benchmark.methods import TERMS, Method, descent
from experiments.implicit_gradients import peers

LIBRARIES = ("jaxopt", "optimistix")


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


def methods() -> list[Method]:
    """Descent by each library that is installed."""
    made = {"jaxopt": jaxopt_gradient, "optimistix": optimistix_gradient}
    return [descent(name, name, made[name], TERMS + 1) for name in LIBRARIES if name not in missing()]
