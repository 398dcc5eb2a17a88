"""A convolution and its two gradients as primitives of JAX, so that each has a form of its own on CPU.

Other devices than CPUs keep XLA's own convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxfuse.arrays import Array
from jaxfuse.nn import conv_rule
from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.trilinear import Form, Forms, trilinear

# (two arrays, window) -> array
Fixed = Callable[[Array, Array, Window], Array]

FORMS = ("auto", "native", "folded")


def convolve(x: Array, kernel: Array, window: Window, form: str) -> Array:
    """Cross-correlation of x (b *space m) with a kernel (*size m k), in one of the FORMS.

    "auto" is the form of `conv_rule` on CPU and XLA's own elsewhere, "native" is XLA's own, "folded" the plain form.
    """
    return _CONVOLVE(x, kernel, window=window, form=form)


def _forms(native: Fixed, plain: Fixed, ruled: Fixed) -> Forms:
    def on_cpu(auto: Fixed) -> Form:
        named = {"auto": auto, "native": native, "folded": plain}
        return lambda a, b, *, window, form: named[form](a, b, window)

    def elsewhere(a: Array, b: Array, *, window: Window, form: str) -> Array:
        return (plain if form == "folded" else native)(a, b, window)

    # The rule was not measured for kernels that `jax.vmap` maps over.
    return Forms(on_cpu(ruled), elsewhere, mapped=on_cpu(plain))


_in_image, _in_kernel = conv_rule.transposed_in_image, conv_rule.transposed_in_kernel
_native, _plain = conv_rule.native, conv_rule.plain
_CONVOLVE = trilinear(
    "convolve",
    ("window", "form"),
    _forms(_native, _plain, conv_rule.convolve),
    _forms(partial(_in_image, _native), partial(_in_image, _plain), conv_rule.input_gradient),
    _forms(partial(_in_kernel, _native), partial(_in_kernel, _plain), conv_rule.kernel_gradient),
    batched=True,
)
