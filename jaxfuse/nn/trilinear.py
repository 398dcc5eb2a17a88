"""Products of two arrays, and their two gradients, as primitives of JAX: each has a form of its own on CPU.

Such a product, summed with weights, is linear in three arrays: both that are multiplied, and the weights. The
derivative of each of the three primitives in either argument is one of the other two. So every order of differentiation
stays, forward and backward, and reverse mode keeps the arguments alone. The form falls when a program is lowered: a
program that is exported for several platforms holds that of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from jaxfuse.arrays import Array, mesh_of

Form = Callable[..., Array]

# Primitive -> its form for any device, for whoever carries out a traced function elsewhere.
DEFAULTS: dict[str, Form] = {}

# Whether a program that is exported is for one CPU device of a process like this one.
_EXPORTED_ALONE: ContextVar[bool] = ContextVar("exported for one device", default=False)


@contextmanager
def exported_alone() -> Iterator[None]:
    """Within the block, programs that are exported take the forms of those that run in this process on one device."""
    token = _EXPORTED_ALONE.set(True)
    try:
        yield
    finally:
        _EXPORTED_ALONE.reset(token)


@dataclass(frozen=True)
class Forms:
    """One function of two arrays and static options, written twice.

    Attributes:
        cpu: the form for CPUs.
        default: that for other devices.
        mapped: the form for CPUs that `jax.vmap` maps; None: `cpu`.
        alone: the form for programs that run in this process on one CPU device, so that XLA need not divide them; None:
            `cpu`.
    """

    cpu: Form
    default: Form
    mapped: Form | None = None
    alone: Form | None = None

    def __call__(self, a: Array, b: Array, **options: Any) -> Array:
        """Computes it in the form of the device; differentiable like any function, but keeps what either form keeps."""
        cpu, default = partial(self.cpu, **options), partial(self.default, **options)
        return jax.lax.platform_dependent(a, b, cpu=cpu, default=default)


def trilinear(
    name: str, options: Sequence[str], product: Forms, first: Forms, second: Forms, *, batched: bool = False
) -> Form:
    """Makes the function (a, b, **options) -> product.

    Args:
        name: of the primitive.
        options: names of the static options.
        product: (a, b) -> result.
        first: (result, b) -> a, the gradient of a.
        second: (a, result) -> b, the gradient of b.
        batched: whether a and the result lead with an axis of examples that know nothing of each other: where
            `jax.vmap` maps over them alone, it makes one larger batch.
    """
    made = _primitive(name, options, product, batched)
    of_first = _primitive(f"{name}_first", options, first, batched)
    of_second = _primitive(f"{name}_second", options, second, False)
    ad.defbilinear(
        made,
        lambda ct, _, b, **options: of_first.bind(ct, b, **options),
        lambda ct, a, _, **options: of_second.bind(a, ct, **options),
    )
    ad.defbilinear(
        of_first,
        lambda ct, _, b, **options: made.bind(ct, b, **options),
        lambda ct, result, _, **options: of_second.bind(ct, result, **options),
    )
    ad.defbilinear(
        of_second,
        lambda ct, _, result, **options: of_first.bind(result, ct, **options),
        lambda ct, a, _, **options: made.bind(a, ct, **options),
    )
    return made.bind


def _primitive(name: str, options: Sequence[str], forms: Forms, batched: bool) -> Primitive:
    primitive, compiled = Primitive(name), partial(jax.jit, static_argnames=tuple(options))
    DEFAULTS[name] = forms.default

    @lru_cache(maxsize=1024)
    def made(a: jax.ShapeDtypeStruct, b: jax.ShapeDtypeStruct, given: tuple[tuple[str, Any], ...]) -> ShapedArray:
        shape = jax.eval_shape(partial(forms.default, **dict(given)), a, b)
        return ShapedArray(shape.shape, shape.dtype)

    def abstract(a: Any, b: Any, **given: Any) -> ShapedArray:
        shapes = (jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (a, b))
        found = made(*shapes, tuple(given.items()))
        # What follows is to know of the devices that share its arguments.
        shared = next((one.sharding.mesh for one in (a, b) if one.sharding.mesh.size), None)
        return found if shared is None else found.update(sharding=NamedSharding(shared, PartitionSpec()))

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(compiled(primitive.bind))
    # Compiled apart, so that calls of equal shapes are written out once.
    several, alone, other = (
        mlir.lower_fun(compiled(form), multiple_results=False)
        for form in (forms.cpu, forms.alone or forms.cpu, forms.default)
    )

    def on_cpu(context: mlir.LoweringRuleContext, *arguments: Any, **given: Any) -> Any:
        module = context.module_context
        is_alone = getattr(module.axis_context, "num_devices", None) == 1
        is_alone = is_alone and (_EXPORTED_ALONE.get() or not module.lowering_parameters.for_export)
        return (alone if is_alone else several)(context, *arguments, **given)

    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    mlir.register_lowering(primitive, other)
    batching.primitive_batchers[primitive] = partial(_mapped, primitive, forms, batched)
    return primitive


def _mapped(
    primitive: Primitive,
    forms: Forms,
    batched: bool,
    arguments: Sequence[Array],
    axes: Sequence[int | None],
    **options: Any,
) -> tuple[Array, int]:
    """Maps a primitive over a further axis.

    On several devices that share a batch nothing comes before the examples, and maps over weights are written out:
    of convolutions in groups, as `jax.vmap` makes them, each device would take all of the batch.
    """
    shared = mesh_of(*arguments) is not None
    if batched and axes[0] is not None and axes[1] is None:
        many = jnp.moveaxis(arguments[0], axes[0], int(shared))
        made = primitive.bind(many.reshape(-1, *many.shape[2:]), arguments[1], **options)
        return made.reshape(*many.shape[:2], *made.shape[1:]), int(shared)
    if shared:
        count = next(array.shape[axis] for array, axis in zip(arguments, axes, strict=True) if axis is not None)
        parts = [[_member(*pair, number) for pair in zip(arguments, axes, strict=True)] for number in range(count)]
        return jnp.stack([primitive.bind(*part, **options) for part in parts]), 0
    forms = Forms(forms.mapped or forms.cpu, forms.default)
    # Without it reverse mode would keep the residuals of both forms.
    one = jax.checkpoint(partial(forms, **options), prevent_cse=False)
    return jax.vmap(one, tuple(axes))(*arguments), 0


def _member(array: Array, axis: int | None, number: int) -> Array:
    return array if axis is None else jax.lax.index_in_dim(array, number, axis, keepdims=False)
