"""Tensors of PyTorch's own files, `.pth`, `.pt` or `.pkl`, as `torch.save` writes them, without PyTorch.

Such a file tells by a pickle which tensors it holds, and a pickle can call any function. Here it may name what
`ALLOWED` has and nothing else, so that reading calls no code but this module's: tensors, parameters, the dictionaries
and lists around them, numbers and text. All other names are refused before any of them is looked up. There is one way
for all users, whether PyTorch is installed or not, so that what can be read does not depend on it. What stands for a
name has no attributes that a pickle could set, and a small file asks for little memory.

Both forms are read: the archive of PyTorch 1.6 and later (`data.pkl` beside a file of bytes for each storage), and the
one before it, five pickles in a row with the storages behind them.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np

from jaxfuse.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
# Types of storages by their names in `torch`, without "Storage".
_TYPES: dict[str, Any] = {"Float": np.float32, "Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16}
_TYPES |= {"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_}
_ADVICE = (
    "where you trust it, read it with PyTorch and write its state_dict as safetensors (safetensors.torch.save_file)"
)
# What no file of weights comes near: entries of its dictionaries, dictionaries within each other, and how many times
# over its tensors hold the values of its storages, which tied weights share.
_ENTRIES, _DEPTH, _TIMES = 1_000_000, 100, 16


class _Refused(Exception):
    """A pickle that is not one of tensors; the message says why."""


class _Kind(NamedTuple):
    """The type of a storage's values."""

    dtype: np.dtype[Any]


class _Storage(NamedTuple):
    """A storage that is named, and not read yet."""

    key: str
    kind: _Kind


class _Tensor(NamedTuple):
    """A view of a storage: where it begins, its sides and steps, in values."""

    storage: _Storage
    start: Any
    shape: Any
    steps: Any

    def size(self) -> int:
        """Returns how many values it has; refuses what are no sides and steps."""
        shape, steps = tuple(self.shape), tuple(self.steps)
        numbers = [self.start, *shape, *steps]
        if len(shape) != len(steps) or not all(type(one) is int and one >= 0 for one in numbers):
            raise _Refused(f"a tensor of sides {shape} and steps {steps}")
        return math.prod(shape)

    def of(self, values: np.ndarray) -> np.ndarray:
        """Returns a copy of the view; refuses one that reaches beyond the storage."""
        shape, steps = tuple(self.shape), tuple(self.steps)
        last = self.start + sum((side - 1) * step for side, step in zip(shape, steps, strict=True))
        if 0 not in shape and last >= values.size:
            raise _Refused(f"a tensor that reaches value {last} of a storage of {values.size}")
        if 0 in shape:
            return np.zeros(shape, values.dtype)
        bytes_apart = [step * values.itemsize for step in steps]
        return np.lib.stride_tricks.as_strided(values[self.start :], shape, bytes_apart).copy()


def _tensor(storage: Any, start: Any, shape: Any, steps: Any, *further: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise _Refused("a tensor without a storage")
    return _Tensor(storage, start, shape, steps)


def _parameter(tensor: Any, *further: Any) -> Any:
    return tensor


def _size(sides: Any) -> tuple[Any, ...]:
    return tuple(sides)


# The names that a pickle may use, each with what stands for it here.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _size,
    **{("torch", f"{name}Storage"): _Kind(np.dtype(dtype)) for name, dtype in _TYPES.items()},
}


class _Reader(pickle.Unpickler):
    """A reader of pickles that knows the names of `ALLOWED` alone; `kinds` are those of the storages it met."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self.kinds: dict[str, _Kind] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Refused(f"{module}.{name}, which is no tensor")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, *_ = pid
        if word != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str):
            raise _Refused(f"a part {word!r} that is no storage")
        if len(pid) > 5 and pid[5] is not None:
            raise _Refused("views of storages as PyTorch wrote them before 0.4")
        self.kinds[key] = kind
        return _Storage(key, kind)


def _load(file: io.BufferedIOBase) -> tuple[Any, dict[str, _Kind]]:
    """Reads the pickle at which a file stands; returns it and the kinds of its storages.

    A pickle notes what it names again under numbers, and memory is taken for all numbers up to the largest.
    """
    start = file.tell()
    for count, (operation, number, _) in enumerate(pickletools.genops(cast("IO[bytes]", file))):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (number or 0) > count:
            raise ValueError(f"note {number} of fewer")
    file.seek(start)
    reader = _Reader(file)
    return reader.load(), reader.kinds


def read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a file of PyTorch, by its name; those within dictionaries are named `outer.inner`.

    What is no tensor, such as a number of epochs, is left out.

    Raises:
        UserError: the file is not there, is damaged, is no such file, or its pickle names anything but tensors; none of
            what it names has run then.
    """
    try:
        with path.open("rb") as file:
            found = _archive(file) if zipfile.is_zipfile(file) else _in_a_row(file)
    except _Refused as error:
        raise UserError(
            f"{path} is not read: its pickle asks for {error}, and what it asks for may be code; {_ADVICE}"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); name a file of weights") from error
    # A pickle that is none, or was cut, can end in any error of Python's.
    except Exception as error:
        raise UserError(
            f"{path} is no whole file that torch.save has written ({type(error).__name__}: {_short(error)}); fetch it "
            "again, or name a file of weights"
        ) from error
    return found


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def _archive(file: io.BufferedIOBase) -> dict[str, np.ndarray]:
    """Reads the form of an archive."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("an archive without a data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder").decode() if f"{root}byteorder" in archive.namelist() else "little"
        tree, _ = _load(io.BytesIO(_stored(archive, pickles[0])))

        def read(storage: _Storage) -> np.ndarray:
            return np.frombuffer(_stored(archive, f"{root}data/{storage.key}"), _ordered(storage.kind.dtype, order))

        return _named(tree, read)


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads a part of an archive; refuses a compressed one, which a small file could have unpacked to any size."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, as torch.save leaves nothing")
    return archive.read(name)


def _in_a_row(file: io.BufferedIOBase) -> dict[str, np.ndarray]:
    """Reads the form before archives: magic number, version, facts of the system, tree, keys; then the storages."""
    file.seek(0)
    if _load(file)[0] != _MAGIC:
        raise ValueError("another beginning")
    _, system = (_load(file)[0] for _ in range(2))
    order = "little" if system.get("little_endian", True) else "big"
    tree, kinds = _load(file)
    keys, _ = _load(file)
    held: dict[str, np.ndarray] = {}
    for key in keys:
        count, dtype = int.from_bytes(file.read(8), order), _ordered(kinds[key].dtype, order)
        held[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return _named(tree, lambda storage: held[storage.key])


def _ordered(dtype: np.dtype[Any], order: str) -> np.dtype[Any]:
    return dtype if order == sys.byteorder or dtype.itemsize == 1 else dtype.newbyteorder()


def _named(tree: Any, read: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """Reads the storages of all tensors, each once, and cuts the tensors from them."""
    held: dict[str, np.ndarray] = {}
    found = {}
    room = 0
    for name, tensor in _leaves(tree).items():
        key = tensor.storage.key
        if key not in held:
            held[key] = read(tensor.storage)
            room += _TIMES * held[key].nbytes
        room -= tensor.size() * held[key].itemsize
        if room < 0:
            raise ValueError(f"its tensors hold more than {_TIMES} times the values of its storages")
        values = tensor.of(held[key])
        found[name] = values.astype(values.dtype.newbyteorder("="), copy=False)
    return found


def _leaves(tree: Any) -> dict[str, _Tensor]:
    """Returns the tensors of nested dictionaries by their names; lists are left out, as those of optimizers are."""
    found: dict[str, _Tensor] = {}
    left, met = [("", tree, 0)], 0
    while left:
        name, value, depth = left.pop()
        met += 1
        if met > _ENTRIES or depth > _DEPTH:
            raise ValueError(f"more than {_ENTRIES:,} entries, or {_DEPTH} dictionaries within each other")
        if isinstance(value, _Tensor):
            found[name or "tensor"] = value
        elif isinstance(value, Mapping):
            named = [(key, inner) for key, inner in value.items() if isinstance(key, (str, int))]
            left += [(f"{name}.{key}" if name else str(key), inner, depth + 1) for key, inner in reversed(named)]
    return found
