"""The hypergradient at the price of two gradients, in the metric of the optimizer that trains the lower level."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import optax

from jaxfuse.implicit import trees
from jaxfuse.implicit.adjoint import Estimate
from jaxfuse.implicit.curvature import Curvature
from jaxfuse.implicit.problem import Problem
from jaxfuse.implicit.series import Approximation, approximate, by_differences
from jaxfuse.implicit.trees import Vector


@dataclasses.dataclass(frozen=True)
class sama(Approximation):
    """q = D' b in place of H^-1 b, D the derivative of the optimizer's step in the gradient it is given (Choe 2023).

    With SGD it is `finite_difference` with the learning rate for a scale. With Adam each weight has a scale of its own,
    that of its last gradients, which stands for the curvature that is not computed. No second derivatives: products
    are differences of two gradients of `lower`, at y +- (step / |q|) q.

    At y with a gradient of exactly 0, Adam begun afresh has no derivative, and the hypergradient is NaN and flagged:
    give the state of the training.

    Args:
        optimizer: the optax transformation that trains y, its learning rate included.
        state: its state at y, as `optimizer.init(y)` has it; begun afresh if None.
        step: Euclidean distance from y.
        one_sided: take the second gradient at y itself, which a training step in the same program has computed already,
            so that the compiler may share it: an error of the order of the step instead of its square.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 0.5 * (y - x) ** 2, lambda x, y: y**2
        >>> x, y = jnp.array(3.0), jnp.array(3.0)
        >>> estimator = implicit.sama(optax.sgd(0.25))
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=estimator)
        >>> print(f"{gradient:.2f}")  # a quarter of 6, which is exact
        1.50
    """

    uses_curvature: ClassVar[bool] = False
    moves: ClassVar[bool] = True
    optimizer: optax.GradientTransformation
    state: Any = None
    step: float = 0.01
    one_sided: bool = False

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step is {self.step}; a positive distance was expected")

    def estimate(self, problem: Problem, curvature: Curvature, inner_tolerance: float | None) -> Estimate:
        def slope(target: Vector) -> tuple[Vector, Vector, Vector]:
            adjoint = self._adapted(problem, target)
            return adjoint, *by_differences(problem, adjoint, self.step, one_sided=self.one_sided)

        return approximate(self, problem, curvature, inner_tolerance, slope, products=1)

    def _adapted(self, problem: Problem, target: Vector) -> Vector:
        """-(d update / d gradient)' target: updates are added to y, and go against the gradient."""
        here = problem.tree_y(problem.y)
        state = self.optimizer.init(here) if self.state is None else self.state

        def updated(gradient: Vector) -> Vector:
            updates, _ = self.optimizer.update(problem.tree_y(gradient), state, here)
            return problem.read_y(updates, "the optimizer's updates")

        (pulled,) = jax.vjp(updated, problem.inner_gradient)[1](target)
        return trees.scale(pulled, -1)
