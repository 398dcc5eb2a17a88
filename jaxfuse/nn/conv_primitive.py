"""A convolution and its two gradients as primitives of JAX, so that each has a form of its own on CPU.

Other devices than CPUs keep XLA's own convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxfuse.arrays import Array, mesh_of
from jaxfuse.nn import conv_rule, library_rule
from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.trilinear import Form, Forms, trilinear

# (two arrays, window) -> array; one of the rule has the option `shared`.
Fixed = Callable[..., Array]

FORMS = ("auto", "products", "native", "folded", "partitioned")

# "products" for a batch that several devices share.
_SHARED = "shared"


def convolve(x: Array, kernel: Array, window: Window, form: str) -> Array:
    """Cross-correlation of x (b *space m) with a kernel (*size m k), in one of the FORMS.

    On CPU "auto" is oneDNN's where that serves, else "products": the form of `conv_rule`. Elsewhere both are XLA's own.
    "native" is XLA's own, "folded" the plain form, and "partitioned" one of these two that XLA can divide among devices
    along the first axis of space.
    """
    if form in ("auto", "products") and mesh_of(x, kernel) is not None:
        form = _SHARED
    return _CONVOLVE(x, kernel, window=window, form=form)


def _forms(native: Fixed, plain: Fixed, ruled: Fixed, library: Fixed) -> Forms:
    def on_cpu(auto: Fixed, shared: Fixed) -> Form:
        def partitioned(a: Array, b: Array, window: Window) -> Array:
            # Where depth joins a batch of several examples, what is divided along depth would be gathered for it.
            return (plain if len(a) == 1 else native)(a, b, window)

        named = {"auto": auto, _SHARED: shared, "products": ruled, "native": native, "folded": plain}
        named["partitioned"] = partitioned
        return lambda a, b, *, window, form: named[form](a, b, window)

    def elsewhere(a: Array, b: Array, *, window: Window, form: str) -> Array:
        return (plain if form == "folded" else native)(a, b, window)

    # The rule was not measured for kernels that `jax.vmap` maps over.
    mapped, shared = on_cpu(plain, plain), partial(ruled, shared=True)
    return Forms(on_cpu(ruled, shared), elsewhere, mapped=mapped, alone=on_cpu(library, shared))


_native, _plain, _rule, _library = conv_rule.native, conv_rule.plain, conv_rule, library_rule
_in_image, _in_kernel = (
    (partial(of, _native), partial(of, _plain))
    for of in (conv_rule.transposed_in_image, conv_rule.transposed_in_kernel)
)
_CONVOLVE = trilinear(
    "convolve",
    ("window", "form"),
    _forms(_native, _plain, _rule.convolve, _library.convolve),
    _forms(*_in_image, _rule.input_gradient, _library.input_gradient),
    _forms(*_in_kernel, _rule.kernel_gradient, _library.kernel_gradient),
    batched=True,
)
