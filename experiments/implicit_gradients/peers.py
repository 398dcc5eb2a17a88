"""The other ways to a hypergradient: a hand-written CG as users write it, and the libraries that are installed.

Every adapter gets the same tolerance and the same cap of steps. None of these libraries is a dependency: what is not
installed is left out, and `missing()` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.implicit_gradients.measure import Method
from experiments.implicit_gradients.tasks import Library, Task

LIBRARIES = ("lineax", "jaxopt", "optimistix", "torch", "torchopt", "betty")


def installed(*names: str) -> bool:
    return all(find_spec(name) is not None for name in names)


def missing() -> list[str]:
    return [name for name in LIBRARIES if not installed(name)]


def tolerance_of(task: Any) -> float:
    """The relative residual that every iterative solver is asked for: 1e-10, in float32 1e-6."""
    return 1e-10 if task.double else 1e-6


def steps_of(task: Any) -> int:
    return min(10 * task.unknowns, 20_000)


def hand_cg(
    upper: Callable, lower: Callable, x: Any, y: Any, *, tolerance: float, steps: int
) -> tuple[Any, dict[str, Any]]:
    """The textbook recipe in about twenty lines: CG on Hessian products, no check of anything."""
    slope = jax.grad(lower, 1)
    direct, target = jax.grad(upper, (0, 1))(x, y)

    def product(v: Any) -> Any:
        return jax.jvp(lambda inner: slope(x, inner), (y,), (v,))[1]

    def dot(a: Any, b: Any) -> Any:
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        count, q, r, p, squared = state
        image = product(p)
        length = squared / dot(p, image)
        q = jax.tree.map(lambda a, b: a + length * b, q, p)
        r = jax.tree.map(lambda a, b: a - length * b, r, image)
        new = dot(r, r)
        return count + 1, q, r, jax.tree.map(lambda a, b: a + new / squared * b, r, p), new

    limit = tolerance**2 * dot(target, target)
    first = (0, jax.tree.map(jnp.zeros_like, target), target, target, dot(target, target))
    count, q, *_ = jax.lax.while_loop(lambda state: (state[0] < steps) & (state[4] > limit), step, first)
    _, pull = jax.vjp(lambda outer: slope(outer, y), x)
    return jax.tree.map(lambda a, b: a - b, direct, pull(q)[0]), {"steps": count, "products": count}


def jaxopt_gradient(solve: Callable, upper: Callable, lower: Callable, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    """`custom_root` around an inner solver that has found y. `solve` as in jaxopt; None leaves its default."""
    from jaxopt import implicit_diff

    def slope(y: Any, x: Any) -> Any:
        return jax.grad(lower, 1)(x, y)

    root = implicit_diff.custom_root(slope) if solve is None else implicit_diff.custom_root(slope, solve=solve)
    inner = root(lambda start, x: y)
    return jax.grad(lambda outer: upper(outer, inner(None, outer)))(x), {}


def lineax_gradient(solver: Any, upper: Callable, lower: Callable, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    """The adjoint equation handed to lineax, the rest assembled by hand."""
    import lineax

    slope = jax.grad(lower, 1)
    direct, target = jax.grad(upper, (0, 1))(x, y)
    operator = lineax.FunctionLinearOperator(
        lambda v: jax.jvp(lambda inner: slope(x, inner), (y,), (v,))[1],
        jax.eval_shape(lambda: target),
        [lineax.positive_semidefinite_tag],
    )
    solution = lineax.linear_solve(operator, target, solver)
    _, pull = jax.vjp(lambda outer: slope(outer, y), x)
    return (
        jax.tree.map(lambda a, b: a - b, direct, pull(solution.value)[0]),
        {"steps": solution.stats["num_steps"], "products": solution.stats["num_steps"]},
    )


def _given(inputs: Any) -> tuple[Any, None]:
    _, _, y, _ = inputs
    return y, None


def _slope(y: Any, _: Any, inputs: Any) -> Any:
    lower, x, *_ = inputs
    return jax.grad(lambda inner: lower(x, inner))(y)


def optimistix_gradient(
    adjoint: Any, tags: frozenset[Any], upper: Callable, lower: Callable, x: Any, y: Any
) -> tuple[Any, dict[str, Any]]:
    """optimistix' adjoint around an inner solver that has found y; it wants global functions, hence those above.

    `tags` say what the caller knows of the Hessian; its CG asks for it, its default is left without.
    """
    import equinox

    def outer(x: Any) -> Any:
        function = equinox.filter_closure_convert(lower, x, y)
        found, _ = adjoint.apply(_given, _slope, (function, x, y), tags)
        return upper(x, found)

    return jax.grad(outer)(x), {}


def torch_library(dtype: Any) -> Library:
    import torch

    kind = torch.float64 if dtype == np.float64 else torch.float32
    return Library(
        array=lambda value: torch.as_tensor(np.asarray(value), dtype=kind),
        exp=torch.exp,
        sigmoid=torch.sigmoid,
        softplus=lambda value: torch.nn.functional.softplus(value, threshold=50),
        logsumexp=lambda value: torch.logsumexp(value, -1),
    )


def _in_torch(task: Task) -> tuple[Callable, Callable, list[Any], list[Any]]:
    """upper and lower on lists of tensors, and the point as leaves; x is what gradients are taken in."""
    library = torch_library(task.dtype)
    upper, lower = task.losses(library)
    x, x_tree = jax.tree.flatten(jax.tree.map(library.array, task.x))
    y, y_tree = jax.tree.flatten(jax.tree.map(library.array, task.y))

    def lifted(function: Callable) -> Callable:
        return lambda a, b: function(jax.tree.unflatten(x_tree, a), jax.tree.unflatten(y_tree, b))

    return lifted(upper), lifted(lower), [leaf.requires_grad_() for leaf in x], [leaf.requires_grad_() for leaf in y]


def torchopt_cg(task: Task) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """TorchOpt's `custom_root` with its CG."""
    import torch
    from torchopt.diff.implicit import custom_root
    from torchopt.linear_solve import solve_cg

    upper, lower, x, y = _in_torch(task)
    slope = torch.func.grad(lambda inner, outer: lower(outer, inner))
    count = len(y)

    def call() -> tuple[Any, dict[str, Any]]:
        @custom_root(
            lambda inner, *outer: tuple(slope(list(inner), list(outer))),
            argnums=tuple(range(1, len(x) + 1)),
            solve=solve_cg(rtol=tolerance_of(task), atol=0.0, maxiter=steps_of(task)),
        )
        def inner(start: Any, *outer: Any) -> Any:
            return tuple(leaf.detach().clone() for leaf in y)

        found = inner(None, *x)
        found = [found] if isinstance(found, torch.Tensor) else list(found)[:count]
        return [part.numpy() for part in torch.autograd.grad(upper(x, found), x, allow_unused=False)], {}

    return call


class BettyLevel:
    """A level as Betty's hypergradient functions expect it: loss, parameters and configuration."""

    paths = ()
    cur_batch = None

    def __init__(self, loss: Any, parameters: list[Any], config: Any) -> None:
        self.loss, self.variables, self.config = loss, parameters, config

    def training_step_exec(self, batch: Any) -> Any:
        return self.loss()

    def parameters(self) -> list[Any]:
        return self.variables

    trainable_parameters = parameters


def betty_gradient(
    task: Task, which: str, iterations: int, alpha: float = 1.0
) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """Betty's function "cg" or "neumann", called with the upper level's gradient; it has no tolerance, only a count."""
    import torch
    from betty.configs import Config
    from betty.hypergradient import jvp_fn_mapping

    upper, lower, x, y = _in_torch(task)
    config = Config(
        type=which,
        cg_iterations=iterations,
        neumann_iterations=iterations,
        neumann_alpha=alpha,
    )
    inner = BettyLevel(lambda: lower(x, y), y, config)
    outer = BettyLevel(lambda: upper(x, y), x, config)

    def call() -> tuple[Any, dict[str, Any]]:
        loss = upper(x, y)
        target = torch.autograd.grad(loss, y, retain_graph=True)
        direct = torch.autograd.grad(loss, x, allow_unused=True)
        indirect = jvp_fn_mapping[which](target, inner, outer, False)
        total = [b if a is None else a + b for a, b in zip(direct, indirect, strict=True)]
        return [part.detach().numpy() for part in total], {"steps": iterations}

    return call


def of_functions(name: str, gradient: Callable, **options: Any) -> Method:
    """A peer that differentiates JAX functions; options are made per task."""

    def build(task: Task) -> Callable[..., Any]:
        upper, lower, *_ = task.in_jax()
        made = {key: value(task) for key, value in options.items()}
        return lambda x, y: gradient(*made.values(), upper, lower, x, y)

    return Method(name, "peer", build)


def hand_method() -> Method:
    def build(task: Task) -> Callable[..., Any]:
        upper, lower, *_ = task.in_jax()
        return lambda x, y: hand_cg(upper, lower, x, y, tolerance=tolerance_of(task), steps=steps_of(task))

    return Method("hand-written CG", "peer", build)


def peer_methods(hand_steps: Callable[[], int]) -> list[Method]:
    """All peers that are installed. `hand_steps` tells, when asked, how many steps the hand-written CG took."""
    found = []
    if installed("lineax"):
        import lineax

        def lineax_cg(task: Task) -> Any:
            return lineax.CG(rtol=tolerance_of(task), atol=tolerance_of(task), max_steps=steps_of(task))

        found.append(of_functions("lineax CG, own assembly", lineax_gradient, solver=lineax_cg))
    if installed("jaxopt"):
        from functools import partial

        from jaxopt import linear_solve

        def jaxopt_cg(task: Task) -> Any:
            return partial(linear_solve.solve_cg, tol=tolerance_of(task), maxiter=steps_of(task))

        found.append(of_functions("jaxopt custom_root, solve_cg", jaxopt_gradient, solve=jaxopt_cg))
        found.append(of_functions("jaxopt custom_root, default", jaxopt_gradient, solve=lambda task: None))
    if installed("optimistix"):
        import optimistix

        found.append(
            of_functions(
                "optimistix ImplicitAdjoint, CG",
                optimistix_gradient,
                adjoint=lambda task: optimistix.ImplicitAdjoint(lineax_cg(task)),
                tags=lambda task: frozenset({lineax.positive_semidefinite_tag}),
            )
        )
        default = of_functions(
            "optimistix ImplicitAdjoint, default",
            optimistix_gradient,
            adjoint=lambda task: optimistix.ImplicitAdjoint(),
            tags=lambda task: frozenset(),
        )
        found.append(Method(default.name, "peer", default.build, fits=lambda task: task.dense))
    small = lambda task: task.dense and task.key != "cleaning"  # noqa: E731
    if installed("torch", "torchopt"):
        found.append(Method("TorchOpt custom_root, solve_cg", "peer", torchopt_cg, jitted=False, fits=small))
    if installed("torch", "betty"):
        betty_cg = lambda task: betty_gradient(task, "cg", hand_steps())  # noqa: E731
        betty_series = lambda task: betty_gradient(task, "neumann", 199, 1 / task.largest)  # noqa: E731
        found.append(Method("Betty cg, steps of the hand CG", "peer", betty_cg, jitted=False, fits=small))
        found.append(Method("Betty neumann, 200 terms", "peer", betty_series, jitted=False, fits=small))
    return found
