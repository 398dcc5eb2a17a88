"""Convolutions and their gradients by oneDNN, as functions of JAX for CPU.

oneDNN has the kernels of PyTorch on CPU. Where it is installed (`pip install "jaxfuse[onednn]"`, Linux on x86-64) they
are called from within compiled programs, on their arrays as they lie. Programs for several devices do without: XLA
cannot divide what it does not know.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import jax
import numpy as np

from jaxfuse.arrays import Array
from jaxfuse.nn.onednn.frames import Call, register
from jaxfuse.nn.onednn.library import Convolution, Library, OneDnnError, Part, installed

_NAMES: dict[Part, str] = {part: f"jaxfuse_onednn_{part}" for part in ("result", "image", "kernel")}
# What programs call the functions by.
TARGETS = tuple(_NAMES.values())


@functools.cache
def available() -> bool:
    """Whether the library is installed and starts, and jaxlib is one that can call it; asked once in a process."""
    path = installed()
    if path is None:
        return False
    try:
        library = Library(path)
        # OpenMP keeps a team of threads for every thread that calls it, and XLA calls from all of its own.
        thread = ThreadPoolExecutor(1, "onednn")
        for part, name in _NAMES.items():
            register(name, functools.partial(_carry_out, _Kept(library, part), thread))
    except (OneDnnError, OSError, AttributeError, RuntimeError, ValueError):
        return False
    return True


def result(x: Array, kernel: Array, shape: Sequence[int], **window: Sequence[int]) -> Array:
    """Cross-correlation, of this shape; `window` holds strides and padding per axis, and [groups]."""
    return _call("result", (x, kernel), shape, window)


def image(y: Array, kernel: Array, shape: Sequence[int], **window: Sequence[int]) -> Array:
    """The gradient of the image, of this shape, from the result's."""
    return _call("image", (y, kernel), shape, window)


def kernel(x: Array, y: Array, shape: Sequence[int], **window: Sequence[int]) -> Array:
    """The gradient of the kernel, of this shape, from the image and the result's."""
    return _call("kernel", (x, y), shape, window)


def _call(part: Part, arrays: tuple[Array, Array], shape: Sequence[int], window: dict[str, Sequence[int]]) -> Array:
    run = jax.ffi.ffi_call(_NAMES[part], jax.ShapeDtypeStruct(tuple(shape), np.float32))
    return run(*arrays, **{name: np.asarray(numbers, np.int64) for name, numbers in window.items()})


class _Kept:
    """Convolutions of one part, each made when shapes come that were not seen before."""

    def __init__(self, library: Library, part: Part) -> None:
        self.library = library
        self.part: Part = part
        self.made = functools.lru_cache(maxsize=1024)(self._make)

    def _make(self, shapes: tuple[tuple[int, ...], ...], window: tuple[tuple[int, ...], ...]) -> Convolution:
        strides, padding, (groups,) = window
        return Convolution(self.library, self.part, shapes, strides, padding, groups)


def _carry_out(kept: _Kept, thread: ThreadPoolExecutor, call: Call) -> None:
    computed = thread.submit(_compute, kept, call)
    try:
        computed.result()
    except BaseException:
        # Interrupted: the arrays are the program's, which must not go on before they are let go.
        wait([computed])
        raise


def _compute(kept: _Kept, call: Call) -> None:
    first, second = call.operands
    arrays = {
        "result": (first, second, call.result),
        "image": (call.result, second, first),
        "kernel": (first, call.result, second),
    }[kept.part]
    window = tuple(call.attributes[name] for name in ("strides", "padding", "groups"))
    convolution = kept.made(tuple(one.shape for one in arrays), window)
    convolution(*(one.address for one in arrays))
