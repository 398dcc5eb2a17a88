"""A convolution and its two gradients as primitives of JAX, so that each has a form of its own on CPU.

The three are one trilinear form, the sum of result times convolved image: the derivative of each in either argument is
one of the others. So every order of differentiation stays, forward and backward, and the backward pass keeps image and
kernel alone. The form falls when a program is lowered: one exported program holds that of each platform, and other
devices than CPUs keep XLA's own convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxfuse.arrays import Array
from jaxfuse.nn import conv_rule
from jaxfuse.nn.conv_forms import Window

# (two arrays, window=, form=) -> array
Bound = Callable[..., Array]
# (two arrays, window) -> array
Fixed = Callable[[Array, Array, Window], Array]

# "mapped" is "auto" for what `jax.vmap` maps over kernels: there the rule of forms was not measured.
FORMS = ("auto", "mapped", "native", "folded")


def convolve(x: Array, kernel: Array, window: Window, form: str) -> Array:
    """Cross-correlation of x (b *space m) with a kernel (*size m k), in one of the FORMS.

    "auto" is the form of `conv_rule` on CPU and XLA's own elsewhere, "native" is XLA's own, "folded" the plain form.
    """
    return _CONVOLVE.bind(x, kernel, window=window, form=form)


def _by_form(native: Fixed, plain: Fixed, ruled: Fixed) -> Bound:
    def one(a: Array, b: Array, *, window: Window, form: str) -> Array:
        if form in ("native", "folded"):
            return (native if form == "native" else plain)(a, b, window)
        on_cpu = partial(ruled if form == "auto" else plain, window=window)
        return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=partial(native, window=window))

    return one


def _primitive(name: str, shape: Callable[..., tuple[int, ...]], computed: Bound) -> Primitive:
    """A primitive of two arrays that is evaluated and lowered as `computed`; its result has a `shape` of theirs."""
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda a, b, *, window, form: ShapedArray(shape(a.shape, b.shape, window), a.dtype))
    primitive.def_impl(jax.jit(computed, static_argnames=("window", "form")))
    mlir.register_lowering(primitive, mlir.lower_fun(computed, multiple_results=False))
    return primitive


def _mapped(primitive: Primitive, computed: Bound, alike: tuple[bool, bool] | None) -> None:
    """Makes `jax.vmap` of a primitive one larger batch where `alike` tells of what is mapped, else a map of forms."""

    def rule(arrays: tuple[Array, Array], axes: tuple[int | None, int | None], **params: Any) -> tuple[Array, int]:
        if tuple(axis is not None for axis in axes) != alike:
            form = "mapped" if params["form"] == "auto" else params["form"]
            # Without it reverse mode would keep the residuals of every platform's form.
            one = jax.checkpoint(partial(computed, window=params["window"], form=form), prevent_cse=False)
            return jax.vmap(one, axes)(*arrays), 0
        one_batch, count = [], 1
        for array, axis in zip(arrays, axes, strict=True):
            if axis is not None:
                array = jnp.moveaxis(array, axis, 0)
                count, array = array.shape[0], array.reshape(-1, *array.shape[2:])
            one_batch.append(array)
        made = primitive.bind(*one_batch, **params)
        return made.reshape(count, -1, *made.shape[1:]), 0

    batching.primitive_batchers[primitive] = rule


def _forward_shape(x: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> tuple[int, ...]:
    return (x[0], *window.out, kernel[-1])


def _image_shape(y: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> tuple[int, ...]:
    return (y[0], *window.sides, kernel[-2])


def _kernel_shape(x: tuple[int, ...], y: tuple[int, ...], window: Window) -> tuple[int, ...]:
    return (*window.size, x[-1], y[-1])


_in_image, _in_kernel = conv_rule.transposed_in_image, conv_rule.transposed_in_kernel
_native, _plain = conv_rule.native, conv_rule.plain
_forward = _by_form(_native, _plain, conv_rule.convolve)
_to_image = _by_form(partial(_in_image, _native), partial(_in_image, _plain), conv_rule.input_gradient)
_to_kernel = _by_form(partial(_in_kernel, _native), partial(_in_kernel, _plain), conv_rule.kernel_gradient)

_CONVOLVE = _primitive("convolve", _forward_shape, _forward)
_IMAGE = _primitive("convolve_input_gradient", _image_shape, _to_image)
_KERNEL = _primitive("convolve_kernel_gradient", _kernel_shape, _to_kernel)

# Each takes two of (image, kernel, result) and makes the third; what is asked for is given as None.
ad.defbilinear(
    _CONVOLVE,
    lambda y, _, kernel, **params: _IMAGE.bind(y, kernel, **params),
    lambda y, x, _, **params: _KERNEL.bind(x, y, **params),
)
ad.defbilinear(
    _IMAGE,
    lambda x, _, kernel, **params: _CONVOLVE.bind(x, kernel, **params),
    lambda x, y, _, **params: _KERNEL.bind(x, y, **params),
)
ad.defbilinear(
    _KERNEL,
    lambda kernel, _, y, **params: _IMAGE.bind(y, kernel, **params),
    lambda kernel, x, _, **params: _CONVOLVE.bind(x, kernel, **params),
)

_mapped(_CONVOLVE, _forward, (True, False))
_mapped(_IMAGE, _to_image, (True, False))
_mapped(_KERNEL, _to_kernel, None)
