"""oneDNN's convolutions through its C interface, on arrays that lie in memory as JAX lays them.

Functions, and the numbers of enumerations, are those of version 3 of the library ("oneDNN developer guide", Intel).
Maps are read and written as they lie, channels last; of kernels, which are small, the library makes copies in the order
that it likes best.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

DISTRIBUTION = "onednn-cpu-gomp"
_FILE = "libdnnl.so.3"

# Which of the three arrays of a convolution is computed from the other two.
Part = Literal["result", "image", "kernel"]

_CPU, _IN_ORDER, _FLOAT32, _ANY_ORDER, _TRAINING, _DIRECT = 1, 1, 3, 1, 64, 1
_OWN_MEMORY = ctypes.c_void_p(-1)
# Numbers of arguments; those of gradients are higher by 128.
_SOURCE, _TARGET, _WEIGHTS, _GRADIENT = 1, 17, 33, 128
_LAYOUT_OF_WEIGHTS, _LAYOUT_OF_THEIR_GRADIENT = 131, 132
_Handle = ctypes.c_void_p
_Dims = ctypes.c_int64 * 12


class OneDnnError(RuntimeError):
    """The failure of a call of the library."""


class _Argument(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("memory", _Handle)]


class Library:
    """The library, loaded, with a processor's engine and stream. One thread at a time may use it.

    Raises:
        OneDnnError, OSError: it cannot be loaded or started.
    """

    def __init__(self, path: Path) -> None:
        # Calls through `_long` let other threads of Python go on meanwhile.
        self._long, self._short = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
        self._short.dnnl_primitive_desc_query_md.restype = _Handle
        self.engine = self.made("engine_create", _CPU, ctypes.c_size_t(0))
        self.stream = self.made("stream_create", self.engine, _IN_ORDER)

    def made(self, function: str, *arguments: object) -> ctypes.c_void_p:
        """Calls a function that creates something, and returns that."""
        handle = _Handle()
        self.call(function, ctypes.byref(handle), *arguments)
        return handle

    def call(self, function: str, *arguments: object) -> None:
        """Calls a function that returns a status."""
        if status := getattr(self._short, f"dnnl_{function}")(*arguments):
            raise OneDnnError(f"oneDNN's {function} returned the status {status}")

    def run(self, primitive: ctypes.c_void_p, arguments: ctypes.Array[_Argument]) -> None:
        """Executes a primitive and waits for it."""
        status = self._long.dnnl_primitive_execute(primitive, self.stream, len(arguments), arguments)
        if status := status or self._long.dnnl_stream_wait(self.stream):
            raise OneDnnError(f"oneDNN's execution of a convolution returned the status {status}")

    def layout(self, sides: Sequence[int], steps: Sequence[int] | None) -> ctypes.c_void_p:
        """Describes a float32 array by sides and steps of its axes; without steps the library is to choose them."""
        rank = len(sides)
        if steps is None:
            return self.made("memory_desc_create_with_tag", rank, _Dims(*sides), _FLOAT32, _ANY_ORDER)
        return self.made("memory_desc_create_with_strides", rank, _Dims(*sides), _FLOAT32, _Dims(*steps))

    def asked_layout(self, description: ctypes.c_void_p, which: int) -> ctypes.c_void_p:
        """Returns the layout that the library chose."""
        return _Handle(self._short.dnnl_primitive_desc_query_md(description, which, 0))

    def same(self, one: ctypes.c_void_p, other: ctypes.c_void_p) -> bool:
        """Whether two layouts are equal."""
        return bool(self._short.dnnl_memory_desc_equal(one, other))


class Convolution:
    """A convolution, or one of its two gradients, for arrays of given shapes.

    Args:
        part: what is computed.
        image, kernel, result: shapes (b *space m), (*size m/groups k) and (b *out k).
        strides, padding: per axis.
        groups: of channels that know nothing of each other; neighbors in the image and in the result.
    """

    def __init__(
        self,
        library: Library,
        part: Part,
        shapes: Sequence[Sequence[int]],
        strides: Sequence[int],
        padding: Sequence[int],
        groups: int = 1,
    ) -> None:
        self.library, self._part = library, part
        image, result = (library.layout(*channels_second(shape)) for shape in (shapes[0], shapes[2]))
        sides, steps = features_first(shapes[1], groups)
        given, chosen = library.layout(sides, steps), library.layout(sides, None)
        place = [_Dims(*numbers) for numbers in (strides, (0,) * len(strides), padding, padding)]
        primitive = self._described(image, chosen, result, place)
        which = _LAYOUT_OF_THEIR_GRADIENT if part == "kernel" else _LAYOUT_OF_WEIGHTS
        inner = library.asked_layout(primitive, which)
        self._primitive = library.made("primitive_create", primitive)
        self._memories = tuple(self._memory(layout, None) for layout in (image, given, result))
        self._copy = None if library.same(inner, given) else self._copied(given, inner)
        kernel_memory = self._memories[1] if self._copy is None else self._inner
        numbers = {
            "result": (_SOURCE, _WEIGHTS, _TARGET),
            "image": (_SOURCE + _GRADIENT, _WEIGHTS, _TARGET + _GRADIENT),
            "kernel": (_SOURCE, _WEIGHTS + _GRADIENT, _TARGET + _GRADIENT),
        }[part]
        self._arguments = _arguments(zip(numbers, (self._memories[0], kernel_memory, self._memories[2]), strict=True))

    def __call__(self, image: int, kernel: int, result: int) -> None:
        """Reads and writes the arrays at these addresses."""
        library = self.library
        for memory, address in zip(self._memories, (image, kernel, result), strict=True):
            library.call("memory_set_data_handle", memory, _Handle(address))
        if self._copy is not None and self._part != "kernel":
            library.run(*self._copy)
        library.run(self._primitive, self._arguments)
        if self._copy is not None and self._part == "kernel":
            library.run(*self._copy)

    def _described(self, image: _Handle, kernel: _Handle, result: _Handle, place: list) -> ctypes.c_void_p:
        made, engine = self.library.made, self.library.engine
        name = "convolution_{}_primitive_desc_create"
        forward = (engine, _TRAINING, _DIRECT, image, kernel, None, result, *place, None)
        hint = made(name.format("forward"), *forward)
        if self._part == "image":
            return made(name.format("backward_data"), engine, _DIRECT, image, kernel, result, *place, hint, None)
        if self._part == "kernel":
            arrays = (image, kernel, None, result)
            return made(name.format("backward_weights"), engine, _DIRECT, *arrays, *place, hint, None)
        return hint

    def _copied(self, given: _Handle, inner: _Handle) -> tuple[_Handle, ctypes.Array[_Argument]]:
        """The primitive that copies the kernel into the order that the library chose, or back from it."""
        library = self.library
        self._inner = self._memory(inner, _OWN_MEMORY)
        pair = [(given, self._memories[1]), (inner, self._inner)]
        (source, from_memory), (target, to_memory) = reversed(pair) if self._part == "kernel" else pair
        described = library.made("reorder_primitive_desc_create", source, library.engine, target, library.engine, None)
        arguments = _arguments([(_SOURCE, from_memory), (_TARGET, to_memory)])
        return library.made("primitive_create", described), arguments

    def _memory(self, layout: _Handle, address: ctypes.c_void_p | None) -> ctypes.c_void_p:
        return self.library.made("memory_create", layout, self.library.engine, address)


def installed() -> Path | None:
    """Returns the library's file as its distribution says; None where that is not installed."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(one.locate())) for one in files if one.name == _FILE)
    return next((path for path in found if path.is_file()), None)


def channels_second(shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns sides and steps of a map (b *space m) in the order (b m *space)."""
    order = [0, len(shape) - 1, *range(1, len(shape) - 1)]
    steps = _steps(shape)
    return [shape[axis] for axis in order], [steps[axis] for axis in order]


def features_first(shape: Sequence[int], groups: int) -> tuple[list[int], list[int]]:
    """Returns sides and steps of a kernel (*size m k) in the order (k m *size); of groups (groups k m *size)."""
    steps, space = _steps(shape), len(shape) - 2
    of_size = [*range(space)]
    sides = [shape[-1] // groups, shape[-2], *(shape[axis] for axis in of_size)]
    apart = [steps[-1], steps[-2], *(steps[axis] for axis in of_size)]
    return (sides, apart) if groups == 1 else ([groups, *sides], [shape[-1] // groups, *apart])


def _steps(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _arguments(pairs: Iterable[tuple[int, _Handle]]) -> ctypes.Array[_Argument]:
    made = [_Argument(number, memory) for number, memory in pairs]
    return (_Argument * len(made))(*made)
