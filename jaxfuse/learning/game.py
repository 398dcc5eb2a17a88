"""The input and the result of a bi-level scheme, and the guard of an implicit gradient in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from jaxfuse import implicit
from jaxfuse.arrays import Array, Key, Metrics, Params
from jaxfuse.errors import UserError
from jaxfuse.implicit.curvature import Curvature
from jaxfuse.implicit.hypergradient import Estimator

# Of a batch: all of it, what the follower learns from, and what is held out from it for the leader.
Part = Literal["all", "lower", "upper"]
Memory = Mapping[str, Any]


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
        fusion_terms: what the network makes of the whole batch -> the weighted terms whose sum is L^f.
        key: for what a scheme draws, such as probes of a trace; one and the same where there is none.
    """

    fuse: Callable[[Params, Part], Any]
    fusion_loss: Callable[[Any], tuple[Array, Metrics]]
    segmentation_loss: Callable[[Params, Array, Part], Array]
    logits: Callable[[Params, Array], Array]
    energy: Callable[..., Energy] | None = None
    task_weight: float | Array = 1.0
    fusion_weight: float | Array = 1.0
    fusion_terms: Callable[[Any], Metrics] | None = None
    key: Key[Array, ""] | None = None

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

    def start(self, phi: Params, psi: Params) -> Memory:
        """The memory at first, given the weights of both networks; empty for a scheme that remembers nothing."""
        ...

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        """The image that segmentation reads, in training and later, where the fusion network has made `output`.

        `energy` is that of `Game`.
        """
        ...

    def follow(self, game: Game, made: Any, psi: Params) -> tuple[Array, Metrics]:
        """The follower's objective; `made` is the output of the fusion network for the whole batch."""
        ...

    def without_task(self, game: Game, phi: Params, psi: Params) -> tuple[Params, Array, Metrics]:
        """The leader's gradient, loss and terms while no gradient of the task reaches the fusion network."""
        ...

    def __call__(self, game: Game, phi: Params, psi: Params, memory: Memory) -> Lead: ...


class FusionLeads:
    """A scheme in which the fusion network leads and the segmentation network learns from `follower_part`.

    A scheme of one's own may derive from it: then `__call__` alone is left to write.
    """

    leader: ClassVar[str] = "fusion"
    follower_part: ClassVar[Part] = "all"
    settles: ClassVar[bool] = False
    back_propagates: ClassVar[bool] = False

    def start(self, phi: Params, psi: Params) -> Memory:
        del phi, psi
        return {}

    def image(self, output: Array, energy: Callable[..., Energy] | None) -> Array:
        del energy
        return output

    def follow(self, game: Game, made: Any, psi: Params) -> tuple[Array, Metrics]:
        theta = jax.lax.stop_gradient(part_of(self.image(made.theta, game.energy), self.follower_part))
        return game.segmentation_loss(psi, theta, self.follower_part), {}

    def without_task(self, game: Game, phi: Params, psi: Params) -> tuple[Params, Array, Metrics]:
        """Returns those of fusion_weight * L^f alone."""
        del psi

        def objective(phi: Params) -> tuple[Array, Metrics]:
            fusion, terms = game.fusion_loss(game.fuse(phi, "all"))
            return game.fusion_weight * fusion, {**terms, "fusion_loss": fusion}

        (value, terms), gradient = jax.value_and_grad(objective, has_aux=True)(phi)
        return gradient, value, terms


def led(scheme: Scheme, game: Game, phi: Params, psi: Params, memory: Memory, warming: Array | None) -> Lead:
    """The scheme's result, or that of `without_task` while the fusion network warms up; one of them is computed.

    What the scheme alone would tell is -1, unknown, meanwhile; its memory stays as it is.

    Args:
        warming: whether it warms up; None where it never does.
    """

    def by_scheme() -> Lead:
        return scheme(game, phi, psi, memory)

    if warming is None:
        return by_scheme()
    told = jax.eval_shape(by_scheme)

    def by_fusion() -> Lead:
        gradient, loss, terms = scheme.without_task(game, phi, psi)
        unknown = {name: jnp.full((), -1, value.dtype) for name, value in told.metrics.items()}
        return Lead(gradient, loss, {**unknown, **terms}, memory)

    return jax.lax.cond(warming, by_fusion, by_scheme)


def shares(game: Game, phi: Params, gradient: Params) -> Metrics:
    """The share of each term in a gradient of the fusion network: its length over the sum of all lengths.

    The terms are those of L^f, with their weights, and the task, whose part, implicit gradients included, is what the
    others leave of the gradient. `share_cosine` is that between the task's part and the part of all of L^f: below 0 the
    two pull against each other. One backward pass through the fusion network for each term of L^f.
    """
    if game.fusion_terms is None:
        raise ValueError("this game does not tell the terms of its fusion loss")
    made, pull = jax.vjp(lambda phi: game.fuse(phi, "all"), phi)
    names: list[str] = []

    def weighed(made: Any) -> Array:
        terms = game.fusion_terms(made)  # pyright: ignore[reportOptionalCall]
        names[:] = terms
        return game.fusion_weight * jnp.stack(list(terms.values()))

    values, back = jax.vjp(weighed, made)

    def one(total: Params, which: Array) -> tuple[Params, Array]:
        (found,) = pull(back(which)[0])
        return jax.tree.map(jnp.add, total, found), optax.tree.norm(found)

    nothing = jax.tree.map(jnp.zeros_like, phi)
    of_fusion, lengths = jax.lax.scan(one, nothing, jnp.eye(len(names), dtype=values.dtype))
    of_task = jax.tree.map(jnp.subtract, gradient, of_fusion)
    length = optax.tree.norm(of_task)
    product = length * optax.tree.norm(of_fusion)
    cosine = jnp.where(product > 0, optax.tree.vdot(of_task, of_fusion) / jnp.where(product > 0, product, 1), 0)
    whole = length + lengths.sum()
    whole = jnp.where(whole > 0, whole, 1)
    told = {f"share/{name}": lengths[place] / whole for place, name in enumerate(names)}
    return {**told, "share/task": length / whole, "share_cosine": cosine}


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


class Guarded(NamedTuple):
    """The evidence of a guard: whether the implicit part was dropped, and how long both parts are."""

    dropped: Array
    direct_norm: Array
    implicit_norm: Array


def guard(direct: Any, implicit_part: Any, residual: Array, limit: float = 10.0) -> tuple[Any, Guarded]:
    """direct + implicit part, or direct alone, and the evidence.

    It is dropped where it is not finite, where the relative residual of its linear solve is above 1 (the zero vector
    has less), or where it is more than `limit` times as long as the direct part. An unknown residual (-1, where no
    system is solved) does not count.
    """
    length, of_direct = optax.tree.norm(implicit_part), optax.tree.norm(direct)
    bad = ~jnp.isfinite(length) | (residual > 1) | (length > limit * of_direct)
    kept = jax.tree.map(lambda a, b: a + jnp.where(bad, jnp.zeros_like(b), b), direct, implicit_part)
    return kept, Guarded(bad, of_direct, length)


def report(info: implicit.Info, guarded: Guarded) -> Metrics:
    """The evidence about an implicit gradient as "bilevel/..." float32 scalars, -1 for what is unknown or not finite.

    A loop takes a metric that is not finite for divergence, and a dropped implicit part is none.
    """
    numbers = {**info.scalars(), **guarded._asdict()}
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
    gradient, guarded = guard(direct, found, info.system_residual)
    return Lead(gradient, value, {**terms, **report(info, guarded)}, {}), info
