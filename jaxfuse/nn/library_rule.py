"""The choice between oneDNN and the forms of `conv_rule`, for convolutions and their gradients on CPU.

oneDNN, where it is installed, computes in float32 what is not tiny.
"""

from __future__ import annotations

import numpy as np

from jaxfuse.arrays import Array
from jaxfuse.nn import conv_rule
from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.onednn import convolutions as onednn

# Maps of so many voxels along every axis are faster as one matrix product over patches.
_TINY = 4


def convolve(x: Array, kernel: Array, window: Window) -> Array:
    """Cross-correlation."""
    if not _serves(x, window):
        return conv_rule.convolve(x, kernel, window)
    return onednn.result(x, kernel, (x.shape[0], *window.out, kernel.shape[-1]), **_place(window))


def input_gradient(y: Array, kernel: Array, window: Window) -> Array:
    """The gradient of the image from the result's, y."""
    if not _serves(y, window):
        return conv_rule.input_gradient(y, kernel, window)
    return onednn.image(y, kernel, (y.shape[0], *window.sides, kernel.shape[-2]), **_place(window))


def kernel_gradient(x: Array, y: Array, window: Window) -> Array:
    """The gradient of the kernel from the image and the result's, y."""
    if not _serves(x, window):
        return conv_rule.kernel_gradient(x, y, window)
    return onednn.kernel(x, y, (*window.size, x.shape[-1], y.shape[-1]), **_place(window))


def _serves(array: Array, window: Window) -> bool:
    return array.dtype == np.float32 and max(window.out) > _TINY and onednn.available()


def _place(window: Window) -> dict[str, tuple[int, ...]]:
    return {"strides": window.strides, "padding": window.padding, "groups": (1,)}
