"""The input and the result of a bi-level scheme, and the guard of an implicit gradient in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from jaxfuse import implicit
from jaxfuse.arrays import Array, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.implicit.curvature import Curvature
from jaxfuse.implicit.hypergradient import Estimator

# Of a batch: all of it, what the follower learns from, and what is held out from it for the leader.
Part = Literal["all", "lower", "upper"]
Memory = Mapping[str, Array]


@dataclass(frozen=True)
class Energy:
    """A function of the image theta around the output Phi of the fusion network: convex(residuals(theta, Phi)).

    Attributes:
        residuals: (theta, Phi) -> pytree of arrays.
        convex: residuals -> scalar, a sum over pixels, convex in each residual.
        weights: residuals r -> psi'(r) / r for each (the weights of iteratively reweighted least squares), positive.
            They define a quadratic that majorizes `convex` and touches it at r.
    """

    residuals: Callable[[Array, Array], Any]
    convex: Callable[[Any], Array]
    weights: Callable[[Any], Any]


@dataclass(frozen=True)
class Game:
    """One batch's pure functions of phi (weights of the fusion network) and psi (of the segmentation network).

    Keys, critics and the choice of modalities are fixed in them, so that products of one solve see one function.

    Attributes:
        fuse: (phi, part) -> what the fusion network makes of that part of the batch; its `theta` (n h w c) are the
            fused images.
        fusion_loss: what it makes of the whole batch -> (L^f, its terms).
        segmentation_loss: (psi, theta of the part, part) -> L^s.
        logits: (psi, theta) -> (n h w k).
        energy: (gamma=, kappa=, width=) -> `Energy` of the whole batch, for `pixel`; None where there is no image.
        task_weight: of L^s in the leader's objective; an array where it changes with the step (warm-up).
        fusion_weight: of L^f.
    """

    fuse: Callable[[Params, Part], Any]
    fusion_loss: Callable[[Any], tuple[Array, Metrics]]
    segmentation_loss: Callable[[Params, Array, Part], Array]
    logits: Callable[[Params, Array], Array]
    energy: Callable[..., Energy] | None = None
    task_weight: float | Array = 1.0
    fusion_weight: float | Array = 1.0

    def task(self, phi: Params, psi: Params, part: Part = "all") -> Array:
        """L^s of the fused images of one part of the batch."""
        return self.segmentation_loss(psi, self.fuse(phi, part).theta, part)

    def upper(self, phi: Params, psi: Params, part: Part = "all") -> tuple[Array, Metrics]:
        """F with the task judged on one part, and its terms."""
        made = self.fuse(phi, "all")
        return self.judged(made, made.theta, psi, part)

    def judged(self, made: Any, theta: Array, psi: Params, part: Part = "all") -> tuple[Array, Metrics]:
        """F of what the fusion network has made, the task judged on one part of the images theta, and its terms."""
        fusion, terms = self.fusion_loss(made)
        task = self.segmentation_loss(psi, part_of(theta, part), part)
        return self.task_weight * task + self.fusion_weight * fusion, {
            **terms,
            "fusion_loss": fusion,
            "task_loss": task,
        }


class Lead(NamedTuple):
    """The result of a scheme: the leader's gradient and loss, numbers for the log, and the scheme's memory."""

    gradient: Params
    loss: Array
    metrics: Metrics
    memory: Memory


@runtime_checkable
class Scheme(Protocol):
    """A way to find the leader's gradient, and the objective of the follower meanwhile."""

    # The player that is led by the scheme's gradient: "fusion" or "segmentation".
    leader: ClassVar[str]
    # What the follower learns from; unless it is "all", the rest of the batch must be of other subjects.
    follower_part: ClassVar[Part]
    # Whether `image` is another than the fusion network's output.
    settles: ClassVar[bool]
    # Whether the leader's gradient is one back-propagation through the fusion network at the weights it has.
    back_propagates: ClassVar[bool]

    def start(self) -> Memory:
        """The memory at first; empty for a scheme that remembers nothing."""
        ...

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        """The image that segmentation reads, in training and later, where the fusion network has made `output`.

        `energy` is that of `Game`.
        """
        ...

    def follow(self, game: Game, made: Any, psi: Params) -> tuple[Array, Metrics]:
        """The follower's objective; `made` is the output of the fusion network for the whole batch."""
        ...

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead: ...


def remembered(function: Callable[[Params], Any], at: Params) -> tuple[Any, Callable[[Params], Any]]:
    """Returns function(at), and the function as it is there: neither value nor derivative are computed again.

    It takes any argument for `at`, and is differentiable in reverse mode, once.
    """
    value, pullback = jax.vjp(function, at)

    @jax.custom_vjp
    def known(x: Params) -> Any:
        del x
        return value

    known.defvjp(lambda x: (value, None), lambda _, cotangent: pullback(cotangent))
    return value, known


def part_of(array: Array, part: Part) -> Array:
    """All examples of a batch; its lower part, which are those at odd places; or its upper part, the others.

    They take turns, so that a device that holds an even number of neighbors holds as many of each: a batch over several
    devices stays where it is. Roles are fixed: `jaxfuse.data.pipeline` fills the parts from two streams without a
    subject in common.

    Raises:
        UserError: a half is asked of a batch of one.
    """
    if part == "all":
        return array
    if len(array) < 2:
        raise UserError("this bi-level scheme holds half of each batch out, so a batch must have at least 2 examples")
    # Not a slice with steps, which stops XLA where a matrix product on a GPU reads it (openxla/xla#47381).
    even = len(array) // 2 * 2
    pairs = array[:even].reshape(even // 2, 2, *array.shape[1:])
    if part == "lower":
        return pairs[:, 1]
    return jnp.concatenate([pairs[:, 0], array[even:]]) if even < len(array) else pairs[:, 0]


def guard(direct: Any, implicit_part: Any, residual: Array, limit: float = 10.0) -> tuple[Any, Array]:
    """direct + implicit part, or direct alone, and whether the implicit part was dropped.

    It is dropped where it is not finite, where the relative residual of its linear solve is above 1 (the zero vector
    has less), or where it is more than `limit` times as long as the direct part. An unknown residual (-1, where no
    system is solved) does not count.
    """
    length = optax.tree.norm(implicit_part)
    bad = ~jnp.isfinite(length) | (residual > 1) | (length > limit * optax.tree.norm(direct))
    return jax.tree.map(lambda a, b: a + jnp.where(bad, jnp.zeros_like(b), b), direct, implicit_part), bad


def report(info: implicit.Info, dropped: Array) -> Metrics:
    """The evidence about an implicit gradient as "bilevel/..." float32 scalars, -1 for what is unknown or not finite.

    A loop takes a metric that is not finite for divergence, and a dropped implicit part is none.
    """
    numbers = {**info.scalars(), "dropped": dropped}
    wide = {f"bilevel/{name}": jnp.asarray(value, jnp.float32) for name, value in numbers.items()}
    return {name: jnp.where(jnp.isfinite(value), value, -1.0) for name, value in wide.items()}


def with_implicit(
    upper: Callable[[Params, Params], tuple[Array, Metrics]],
    lower: Callable[[Params, Params], Array],
    x: Params,
    y: Params,
    estimator: Estimator,
    curvature: Curvature,
) -> tuple[Lead, implicit.Info]:
    """The guarded gradient of upper(x, y*(x)) with the value of upper, its terms and the evidence; no memory."""
    (value, terms), direct = jax.value_and_grad(upper, has_aux=True)(x, y)

    def held(x: Params, y: Params) -> Array:
        return upper(jax.lax.stop_gradient(x), y)[0]

    # Its own direct part is zero, so that what comes back is the implicit one alone.
    found, info = implicit.hypergradient(held, lower, x, y, estimator=estimator, curvature=curvature, policy="ignore")
    gradient, dropped = guard(direct, found, info.system_residual)
    return Lead(gradient, value, {**terms, **report(info, dropped)}, {}), info
