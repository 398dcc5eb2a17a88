"""Curvature of the lower level as a function: the Hessian and its positive stand-ins, each with damping, matrix-free.

A curvature is called with a `Problem` and returns the product (v, step) -> C v. Damping and Gauss-Newton change the
system that is solved, never in silence: they are asked for here, and `Info.residual` still measures the Hessian's own.
Lower case, like functions: that is how a recipe reads, `curvature=hessian(damping=1e-2)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jaxfuse.implicit import trees
from jaxfuse.implicit.problem import Problem, objective
from jaxfuse.implicit.trees import Vector


@dataclasses.dataclass(frozen=True)
class Levenberg:
    """Damping that grows until the solve succeeds: `start`, then times `factor`, at most `tries` solves.

    A try succeeds if it met positive curvature only and converged by its estimator's own rule; each starts anew.
    Levenberg 1944. Forward mode only: the number of tries is decided on the device.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> curvature = implicit.hessian(damping=implicit.Levenberg(start=4.0))
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, curvature=curvature)
        >>> print(gradient, info.damping)
        0.125 4.0
    """

    start: float = 1e-3
    factor: float = 10.0
    tries: int = 6

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.factor > 1 and self.tries >= 1):
            raise ValueError(f"{self}: start must be positive, factor above 1, tries at least 1")


@dataclasses.dataclass(frozen=True)
class TraceShare:
    """Damping as a share of the mean eigenvalue: `share` * |trace| / unknowns, and `beside` added to that.

    So that it means the same at any scale of `lower` and any number of unknowns. The trace is Hutchinson's (1990): the
    mean of v'C v over probes v of random signs, one product each; exact where C is diagonal.

    Args:
        share: of the mean eigenvalue.
        key: what the probes are drawn with.
        probes: how many.
        beside: added as it is, such as a weight decay that the curvature does not know.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # curvature 4
        >>> damping = implicit.TraceShare(0.25, jax.random.key(0))
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> _, info = implicit.hypergradient(upper, lower, x, y, curvature=implicit.hessian(damping))
        >>> print(info.damping)
        1.0
    """

    share: float | Array
    key: Array
    probes: int = 1
    beside: float | Array = 0.0

    def __post_init__(self) -> None:
        _check_damping(self.share)
        _check_damping(self.beside)
        if self.probes < 1:
            raise ValueError(f"probes is {self.probes}; at least 1 was expected")

    def of(self, product: Callable[[Vector, Array], Vector], like: Vector) -> Array:
        """The damping of the curvature with this product, of vectors like this one."""

        def one(total: Array, key: Array) -> tuple[Array, None]:
            probe = [jnp.where(leaf < 0, -1, 1).astype(leaf.dtype) for leaf in trees.random_like(key, like)]
            return total + trees.dot(probe, product(probe, jnp.array(0))), None

        first, *others = jax.random.split(self.key, self.probes)
        total, _ = one(jnp.zeros((), trees.scalar_type(like)), first)
        if others:
            total, _ = jax.lax.scan(one, total, jnp.stack(others))
        return self.share * jnp.abs(total) / (self.probes * trees.unknowns(like)) + self.beside


@runtime_checkable
class Curvature(Protocol):
    """Attributes: damping, what is added to the diagonal; fresh, whether each product draws a new batch."""

    @property
    def damping(self) -> float | Array | Levenberg | TraceShare: ...
    @property
    def fresh(self) -> bool: ...
    def __call__(self, problem: Problem) -> Callable[[Vector, Array], Vector]: ...


def _check_damping(damping: Any) -> None:
    if isinstance(damping, (int, float)) and not damping >= 0:
        raise ValueError(f"damping is {damping}; it is added to the curvature and must not be negative")


@dataclasses.dataclass(frozen=True)
class hessian:
    """The exact Hessian of `lower` in y, as the jvp of its gradient: about two gradients a product.

    Args:
        damping: multiple of the identity added to it, fixed, `TraceShare` or `Levenberg`.

    Example:
        Damping as large as the curvature itself halves what is exact:

        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 2 * y**2 - x * y, lambda x, y: y  # y*(x) = x / 4
        >>> x, y = jnp.array(8.0), jnp.array(2.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, curvature=implicit.hessian(damping=4.0))
        >>> print(gradient)
        0.125
    """

    damping: float | Array | Levenberg | TraceShare = 0.0
    fresh = False

    def __post_init__(self) -> None:
        _check_damping(self.damping)

    def __call__(self, problem: Problem) -> Callable[[Vector, Array], Vector]:
        return lambda vector, step: problem.hessian(vector)


@dataclasses.dataclass(frozen=True)
class gauss_newton:
    """Generalized Gauss-Newton: J' C J with J = d residual / dy and C the Hessian of `convex`; never negative.

    `lower(x, y)` must be `convex(residual(x, y))`; a penalty on y belongs into it by letting `residual` return
    (outputs, y), and weights that depend on x alone by letting it return (outputs, weights). Schraudolph 2002.

    Args:
        residual: (x, y) -> outputs, any pytree of floating leaves.
        convex: outputs -> scalar, convex in what depends on y.
        damping: as in `hessian`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> residual, convex = lambda x, y: y - x / 4, lambda r: 2 * r**2
        >>> lower, upper = lambda x, y: convex(residual(x, y)), lambda x, y: y
        >>> curvature, x, y = implicit.gauss_newton(residual, convex), jnp.array(8.0), jnp.array(2.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, curvature=curvature)
        >>> print(gradient)
        0.25
    """

    residual: Callable[[Any, Any], Any]
    convex: Callable[[Any], Any]
    damping: float | Array | Levenberg | TraceShare = 0.0
    fresh = False

    def __post_init__(self) -> None:
        _check_damping(self.damping)

    def __call__(self, problem: Problem) -> Callable[[Vector, Array], Vector]:
        outputs, push, pull = _linear_model(problem, self.residual)
        _, curve = jax.linearize(jax.grad(self.convex), outputs)
        return lambda vector, step: pull(curve(push(vector)))


@dataclasses.dataclass(frozen=True)
class fisher:
    """The Fisher information of a model's own predictive distribution: J' I J, J = d outputs / dy; never negative.

    The expectation is over labels drawn from the model, not over the labels of the data. Equal to Gauss-Newton where
    the outputs are natural parameters, as here. Martens 2020, section 9.

    Args:
        outputs: (x, y) -> natural parameters: logits (..., classes) for "categorical", logits (...) for "bernoulli",
            means (...) of unit variance for "gaussian".
        family: the predictive distribution.
        scale: factor of the sum over samples: 1 / samples where `lower` is a mean, 1 / variance for other Gaussians.
        damping: as in `hessian`; a weight decay in `lower` belongs here too, since the likelihood does not know it.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> lower, upper = lambda x, y: 0.5 * (y - x) ** 2, lambda x, y: y  # a mean of unit variance
        >>> curvature, x, y = implicit.fisher(lambda x, y: y, "gaussian"), jnp.array(8.0), jnp.array(8.0)
        >>> gradient, info = implicit.hypergradient(upper, lower, x, y, curvature=curvature)
        >>> print(gradient)
        1.0
    """

    outputs: Callable[[Any, Any], Any]
    family: Literal["categorical", "bernoulli", "gaussian"]
    scale: float | Array = 1.0
    damping: float | Array | Levenberg | TraceShare = 0.0
    fresh = False

    def __post_init__(self) -> None:
        _check_damping(self.damping)
        if self.family not in ("categorical", "bernoulli", "gaussian"):
            raise ValueError(f"family {self.family!r} is not known; choose categorical, bernoulli or gaussian")

    def __call__(self, problem: Problem) -> Callable[[Vector, Array], Vector]:
        outputs, push, pull = _linear_model(problem, self.outputs)

        def inform(tangent: Array, output: Array) -> Array:
            if self.family == "categorical":
                probs = jax.nn.softmax(output)
                return probs * (tangent - jnp.sum(probs * tangent, axis=-1, keepdims=True))
            if self.family == "bernoulli":
                return jax.nn.sigmoid(output) * jax.nn.sigmoid(-output) * tangent
            return tangent

        def product(vector: Vector, step: Array) -> Vector:
            return trees.scale(pull(jax.tree.map(inform, push(vector), outputs)), self.scale)

        return product


@dataclasses.dataclass(frozen=True)
class minibatch_hessian:
    """The Hessian of a fresh batch in every product: unbiased products for Neumann series and fixed-point steps.

    Product number k uses batch k modulo their number. Refused by solvers whose recursion needs one matrix
    (conjugate gradients, MINRES, GMRES, ...). The certificate uses `lower` itself.

    Args:
        lower_of_batch: (x, y, batch) -> scalar, with mean over batches `lower(x, y)`.
        batches: pytree of arrays whose first axis counts batches.
        damping: as in `hessian`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse import implicit
        >>> of_batch = lambda x, y, curve: 0.5 * curve * y**2 - x * y
        >>> batches = jnp.array([2.0, 6.0])
        >>> lower, upper = lambda x, y: of_batch(x, y, 4.0), lambda x, y: y  # the mean of both
        >>> options = {
        ...     "curvature": implicit.minibatch_hessian(of_batch, batches),
        ...     "estimator": implicit.neumann(terms=2, learning_rate=0.125),
        ... }
        >>> gradient, info = implicit.hypergradient(upper, lower, jnp.array(8.0), jnp.array(2.0), **options)
        >>> print(gradient)  # a (1 + (1 - 2 a)) of the one product that is done; 0.25 is exact
        0.21875
    """

    lower_of_batch: Callable[[Any, Any, Any], Any]
    batches: Any
    damping: float | Array = 0.0
    fresh = True

    def __post_init__(self) -> None:
        _check_damping(self.damping)
        if isinstance(self.damping, Levenberg | TraceShare):
            raise ValueError("minibatch_hessian takes a fixed damping: its products are of several batches")

    def __call__(self, problem: Problem) -> Callable[[Vector, Array], Vector]:
        count = {len(leaf) for leaf in jax.tree.leaves(self.batches)}
        if len(count) != 1:
            raise ValueError(f"batches have leading axes of lengths {sorted(count)}; one common length was expected")
        number = count.pop()

        def product(vector: Vector, step: Array) -> Vector:
            batch = jax.tree.map(lambda leaf: leaf[step % number], self.batches)
            lower = problem.of_trees(objective(lambda x, y: self.lower_of_batch(x, y, batch), "lower_of_batch"))
            slope = jax.grad(lambda y: lower(problem.x, y)[0])
            return jax.jvp(slope, (problem.y,), (vector,))[1]

        return product


def _linear_model(problem: Problem, function: Callable[[Any, Any], Any]) -> tuple[Any, Callable, Callable]:
    """Outputs of `function` at (x, y), v -> J v, and u -> J' u."""
    lifted = problem.of_trees(function)
    outputs, push = jax.linearize(lambda y: lifted(problem.x, y), problem.y)
    transposed = jax.linear_transpose(push, problem.y)
    return outputs, push, lambda outputs_tangent: transposed(outputs_tangent)[0]


def is_undamped(curvature: Curvature) -> bool:
    return isinstance(curvature.damping, (int, float)) and curvature.damping == 0


def refuse_curvature(name: str, curvature: Curvature) -> None:
    """Refuses any curvature but `hessian()` for an estimator that solves no linear system.

    Raises:
        ValueError: another curvature was given.
    """
    if not (isinstance(curvature, hessian) and is_undamped(curvature)):
        raise ValueError(
            f"{name} solves no linear system, so the curvature {curvature} would be ignored: leave it out, or choose a "
            "solver such as cg"
        )
