"""Optimizers by player, and learning-rate schedules that do not cost a compilation.

The peak rate and the number of steps are arrays in the optimizer's state, not constants of the compiled step:
a run of another length finds the same program in the compilation cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfuse.arrays import Array
from jaxfuse.errors import UserError

Schedule = Callable[[Array], Array]


def constant(progress: Array) -> Array:
    """Factor 1 throughout."""
    return jnp.ones_like(progress)


def cosine(progress: Array) -> Array:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def linear_second_half(progress: Array) -> Array:
    """Constant for half the run, then linear to 0: the schedule of the public CycleGAN code."""
    return jnp.clip(2.0 - 2.0 * progress, 0.0, 1.0)


def linear_after_third(progress: Array) -> Array:
    """Constant for a third of the run, then linear to 0: 100 of the 300 epochs of Hi-Net (2020)."""
    return jnp.clip(1.5 - 1.5 * progress, 0.0, 1.0)


def poly(progress: Array) -> Array:
    """(1 - progress)^0.9, from 1 to 0 (TransUNet, nnU-Net)."""
    return (1.0 - progress) ** 0.9


def stepwise(progress: Array, stages: int, factor: float) -> Array:
    """Step decay: the rate is multiplied by `factor` at the end of each of `stages` equal stages."""
    # A little more than nothing, so that a stage does not begin late where count / total was rounded down.
    return factor ** jnp.clip(jnp.floor(progress * stages + 1e-4), 0, stages - 1)


SCHEDULES: Mapping[str, Schedule] = {
    f.__name__: f for f in (constant, cosine, linear_second_half, linear_after_third, poly)
}
STAGED = ("halving", "stepwise")


def schedule_named(name: str, stages: int | None = None, factor: float | None = None) -> Schedule:
    """Returns the schedule of this name. `halving` and `stepwise` need stages, `stepwise` its factor too.

    Raises:
        UserError: the name is not known, or stages or factor are missing, of no use or out of range.
    """
    if name not in (*SCHEDULES, *STAGED):
        known = ", ".join((*SCHEDULES, *STAGED))
        raise UserError(f"learning-rate schedule {name!r} is not known; choose one of {known}")
    if factor is not None and name != "stepwise":
        raise UserError(f"factor is {factor}, but only the schedule 'stepwise' has one, not {name!r}")
    if name not in STAGED:
        if stages is not None:
            raise UserError(f"stages is {stages}, but only {' and '.join(STAGED)} have stages, not {name!r}")
        return SCHEDULES[name]
    if stages is None or stages < 1:
        raise UserError(f"schedule {name!r} needs stages of at least 1, got {stages}")
    if name == "halving":
        factor = 0.5
    if factor is None or not 0 < factor <= 1:
        raise UserError(f"schedule {name!r} needs a factor above 0 and at most 1, got {factor}")
    return partial(stepwise, stages=stages, factor=factor)


class ScheduleState(NamedTuple):
    """The numbers that a rate depends on.

    Attributes:
        count: updates made.
        peak: the rate where the schedule is 1.
        total: steps of the run.
        warmup: steps in which the rate rises; None without a warm-up.
        every: steps for each update; None is one.
    """

    count: Array
    peak: Array
    total: Array
    warmup: Array | None = None
    every: Array | None = None


def scale_by_schedule(
    schedule: Schedule, peak: float, total_steps: int, warmup_steps: int = 0
) -> optax.GradientTransformation:
    """Multiplies updates by `-peak * schedule(progress)`, progress being the share of the run's steps that are done.

    In the first `warmup_steps` the rate rises in equal parts to its peak; the schedule begins after them.
    """

    def init(params: optax.Params) -> ScheduleState:
        del params
        warmup = jnp.float32(warmup_steps) if warmup_steps else None
        return ScheduleState(jnp.zeros((), jnp.int32), jnp.float32(peak), jnp.float32(total_steps), warmup)

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        del params
        each = 1 if state.every is None else state.every
        done = state.count * each
        if state.warmup is None:
            rate = state.peak * schedule(jnp.clip(done / state.total, 0.0, 1.0))
        else:
            left = jnp.maximum(state.total - state.warmup, 1.0)
            rising = jnp.minimum((done + each) / state.warmup, 1.0)
            rate = state.peak * rising * schedule(jnp.clip((done - state.warmup) / left, 0.0, 1.0))
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def adam(
    *,
    learning_rate: float,
    total_steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    schedule: str = "constant",
    stages: int | None = None,
    factor: float | None = None,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
    warmup_steps: int | None = None,
) -> optax.GradientTransformation:
    """Adam with a named schedule over `total_steps` steps; with `weight_decay`, AdamW.

    Args:
        stages, factor: of the schedules "halving" and "stepwise", the factor of the latter only.
        clip_norm: gradients that are longer, over all leaves, are cut to it.
        weight_decay: each update also takes so much of the weights, times the rate (Loshchilov and Hutter, Decoupled
            Weight Decay Regularization, 2019).
        warmup_steps: steps in which the rate rises in equal parts from 0, before the schedule begins.
    """
    _check_not_negative(weight_decay=weight_decay, warmup_steps=warmup_steps)
    return optax.chain(
        *_clipping(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2),
        *([optax.add_decayed_weights(weight_decay)] if weight_decay else []),
        _descent(learning_rate, total_steps, schedule_named(schedule, stages, factor), warmup_steps),
    )


def sgd(
    *,
    learning_rate: float,
    total_steps: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    stages: int | None = None,
    factor: float | None = None,
    clip_norm: float | None = None,
    warmup_steps: int | None = None,
) -> optax.GradientTransformation:
    """Gradient descent; m <- momentum m + gradient + weight_decay weights, the update being the rate times m.

    That is PyTorch's form, in which the decay is the gradient of weight_decay |weights|^2 / 2 and is not clipped.
    Other arguments as in `adam`.
    """
    _check_not_negative(momentum=momentum, weight_decay=weight_decay, warmup_steps=warmup_steps)
    if nesterov and not momentum:
        raise UserError("nesterov looks ahead along the momentum, which is 0; give a momentum")
    return optax.chain(
        *_clipping(clip_norm),
        *([optax.add_decayed_weights(weight_decay)] if weight_decay else []),
        *([optax.trace(momentum, nesterov)] if momentum else []),
        _descent(learning_rate, total_steps, schedule_named(schedule, stages, factor), warmup_steps),
    )


def rmsprop(
    *,
    learning_rate: float,
    total_steps: int,
    decay: float = 0.99,
    momentum: float = 0.0,
    schedule: str = "constant",
    stages: int | None = None,
    factor: float | None = None,
    clip_norm: float | None = None,
    warmup_steps: int | None = None,
) -> optax.GradientTransformation:
    """Gradients divided by the root of their mean square, 1e-8 added: s <- decay s + (1 - decay) gradient^2, from 0.

    With `momentum`, m <- momentum m + the quotient, the update being the rate times m. That is PyTorch's form; other
    arguments as in `adam`.
    """
    _check_not_negative(decay=decay, momentum=momentum, warmup_steps=warmup_steps)
    return optax.chain(
        *_clipping(clip_norm),
        optax.scale_by_rms(decay=decay, eps=1e-8, eps_in_sqrt=False),
        *([optax.trace(momentum)] if momentum else []),
        _descent(learning_rate, total_steps, schedule_named(schedule, stages, factor), warmup_steps),
    )


def _check_not_negative(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < 0:
            raise UserError(f"{name} is {value}; it must not be negative")


def _clipping(clip_norm: float | None) -> list[optax.GradientTransformation]:
    if clip_norm is None:
        return []
    if clip_norm <= 0:
        raise UserError(f"clip_norm is {clip_norm}; give a positive length, or leave it out")
    return [optax.clip_by_global_norm(clip_norm)]


def _descent(
    learning_rate: float, total_steps: int, schedule: Schedule, warmup_steps: int | None
) -> optax.GradientTransformation:
    if learning_rate <= 0:
        raise UserError(f"learning_rate is {learning_rate}; it must be positive")
    return scale_by_schedule(schedule, learning_rate, total_steps, warmup_steps or 0)


def accumulated(optimizer: optax.GradientTransformation, every: int) -> optax.GradientTransformation:
    """Makes one update of the mean gradient of so many steps, and none in between; schedules go on counting steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfuse.learning.optim import accumulated, sgd
        >>> descent = accumulated(sgd(learning_rate=1.0, total_steps=4), 2)
        >>> state = descent.init(jnp.array(0.0))
        >>> for gradient in (1.0, 3.0):
        ...     update, state = descent.update(jnp.array(gradient), state)
        ...     print(float(update))
        0.0
        -2.0
    """
    if every == 1:
        return optimizer
    several = optax.MultiSteps(optimizer, every)
    counting = optax.GradientTransformation(several.init, several.update)  # pyright: ignore[reportArgumentType]
    return paced(counting, every)


def paced(optimizer: optax.GradientTransformation, every: float) -> optax.GradientTransformation:
    """The optimizer of a player that makes one update in `every` steps, below 1 several in a step.

    Its schedules go on counting steps of the run, at whose end they end.
    """
    if every == 1:
        return optimizer

    def init(params: optax.Params) -> Any:
        def counting(node: Any) -> Any:
            if not _is_schedule(node):
                return node
            return node._replace(every=jnp.float32(every) * (1 if node.every is None else node.every))

        return jax.tree.map(counting, optimizer.init(params), is_leaf=_is_schedule)

    return optax.GradientTransformation(init, optimizer.update)


def by_part(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """One optimizer for each part of a player whose parameters are {part: parameters}; its states are {part: state}.

    Each part has moments, counts and a gradient norm of its own, so that `held` can stop one of them.
    """

    def init(params: Any) -> dict[str, Any]:
        return {part: optimizer.init(own) for part, own in params.items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        made = {
            part: optimizer.update(own, state[part], None if params is None else params[part])
            for part, own in updates.items()
        }
        return {part: pair[0] for part, pair in made.items()}, {part: pair[1] for part, pair in made.items()}

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def held(moves: Mapping[str, Array], after: Any, before: Any) -> dict[str, Any]:
    """{part: values} as `after` has them where a part moves, else as `before` has them, bit by bit.

    Schedules go on for all parts: they count the steps of the run, at whose end they end.

    Raises:
        ValueError: the values are not those of the parts that `moves` names.
    """
    if not all(isinstance(tree, Mapping) and set(tree) == set(moves) for tree in (after, before)):
        raise ValueError(f"what can be held is one state for each of {sorted(moves)}; make the optimizer by_part")

    def chosen(move: Array, new: Any, old: Any) -> Any:
        return new if isinstance(new, ScheduleState) else jnp.where(move, new, old)

    return {
        part: jax.tree.map(partial(chosen, moves[part]), after[part], before[part], is_leaf=_is_schedule)
        for part in after
    }


def _is_schedule(node: Any) -> bool:
    return isinstance(node, ScheduleState)


def with_total_steps(opt_state: Any, total_steps: int) -> Any:
    """Returns the optimizer state for a run of another length: every schedule in it ends at `total_steps`."""

    def renew(node: Any) -> Any:
        return node._replace(total=jnp.full_like(node.total, total_steps)) if _is_schedule(node) else node

    return jax.tree.map(renew, opt_state, is_leaf=_is_schedule)
