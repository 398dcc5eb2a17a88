"""Functions of Python that XLA calls from within a compiled program for CPU, on the memory of its arrays.

What a function is called with is laid out as `xla/ffi/api/c_api.h` of jaxlib says: the interface that JAX documents for
functions of other languages ("Foreign function interface"). XLA asks for the version first, and refuses another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax

_VERSION = (0, 3)
_EXECUTE = 3
_INTERNAL = 13
# Where the function that creates an error lies in the table of XLA's functions.
_CREATE_ERROR = 48


@dataclass(frozen=True)
class Operand:
    """An array of a call: its address and shape."""

    address: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A call from a program: operands, result, and attributes, each of them a tuple of integers."""

    operands: tuple[Operand, ...]
    result: Operand
    attributes: Mapping[str, tuple[int, ...]]


class _Version(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("more", ctypes.c_void_p), ("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("version", _Version)]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("more", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("sides", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Buffers(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("more", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("kinds", ctypes.c_void_p),
        ("each", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Text(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Integers(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("count", ctypes.c_size_t), ("each", ctypes.POINTER(ctypes.c_int64))]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("more", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("kinds", ctypes.c_void_p),
        ("names", ctypes.POINTER(ctypes.POINTER(_Text))),
        ("each", ctypes.POINTER(ctypes.POINTER(_Integers))),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("table", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("operands", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


class _Error(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("more", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
_CreateError = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Error))
# Handlers that XLA may call as long as the process lives.
_KEPT: list[object] = []


def register(name: str, function: Callable[[Call], None]) -> None:
    """Lets programs for CPU call a function by name, through `jax.ffi.ffi_call`.

    What it raises ends the program with an error. Attributes are arrays of 64-bit integers.

    Raises:
        Exception: XLA's interface is of another version.
    """

    def handle(pointer: ctypes._Pointer[_Frame]) -> int | None:
        frame = pointer.contents
        if frame.extension:
            version = frame.extension.contents.metadata.contents.version
            version.major, version.minor = _VERSION
            return None
        if frame.stage != _EXECUTE:
            return None
        try:
            function(_read(frame))
        except BaseException as error:  # an interruption too: the result is not there
            return _failure(frame, f"{name}: {str(error) or type(error).__name__}")
        return None

    handler = _Handler(handle)
    _KEPT.append(handler)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")


def _read(frame: _Frame) -> Call:
    operands = tuple(_operand(frame.operands.each[number].contents) for number in range(frame.operands.count))
    given, attributes = frame.attributes, {}
    for number in range(given.count):
        name, array = given.names[number].contents, given.each[number].contents
        attributes[ctypes.string_at(name.text, name.length).decode()] = tuple(array.each[: array.count])
    return Call(operands, _operand(frame.results.each[0].contents), attributes)


def _operand(buffer: _Buffer) -> Operand:
    return Operand(buffer.data, tuple(buffer.sides[: buffer.rank]))


def _failure(frame: _Frame, message: str) -> int | None:
    create = _CreateError.from_address(frame.table + _CREATE_ERROR)
    return create(_Error(ctypes.sizeof(_Error), None, message.encode(), _INTERNAL))
