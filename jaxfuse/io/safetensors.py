"""Named arrays in the form of safetensors, which can hold no code.

A file is the length of its header (8 bytes, little-endian), the header (JSON: for each array its type, its sides and
where its bytes begin and end), and the bytes, little-endian, each array in C order, without gaps
(https://github.com/huggingface/safetensors, "Format"). It takes so little that it is read and written here: a folder
with exported programs reads its weights without any further package, and says in one sentence what is wrong with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.io.whole_file import write_whole

# Types by the names of the format. NumPy has no bfloat16; `ml_dtypes`, which comes with JAX, has.
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
_TYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_TYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_METADATA = "__metadata__"
# The format's own limit, which keeps a reader from taking a damaged length for an order of memory.
_LONGEST_HEADER = 100_000_000
_ALIGNED = 8
_MOST_SIDES = 32


@dataclass(frozen=True)
class Tensors:
    """The content of a file.

    Attributes:
        arrays: by name; read-only views of the file, whose values are read when they are used.
        metadata: what the writer tells of them, text by text.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays under their names; the file appears in one piece or not at all.

    Equal arrays and metadata give equal bytes, in whichever order they come.

    Raises:
        UserError: an array has a type that the format does not know, or the place cannot be written.
    """
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    parts, begin = list[bytes](), 0
    # Wide types first, so that each array begins at a multiple of its own width.
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        kind = _name_of(name, array.dtype)
        part = np.asarray(array, _type_of(kind)).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, begin + len(part)]}
        parts.append(part)
        begin += len(part)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    write_whole(path, b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def read_safetensors(path: Path) -> Tensors:
    """Reads what lies in a file.

    Raises:
        UserError: it is not there, or is no whole file of safetensors: what is wrong, and what to do.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 8 + length <= size and length <= _LONGEST_HEADER else b""
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file of safetensors") from error
    if not text.startswith(b"{"):
        raise _damaged(path, f"its {size} bytes do not begin with a header")
    header = _header(path, text)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, f"its {_METADATA} is not text by text")
    held = size - 8 - length
    places = {name: _place(path, name, entry) for name, entry in header.items()}
    _check_places(path, places, held)
    content = np.memmap(path, np.uint8, "r", offset=8 + length) if held else np.zeros(0, np.uint8)
    return Tensors({name: place.of(content) for name, place in places.items()}, metadata)


@dataclass(frozen=True)
class _Place:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int

    def of(self, content: np.ndarray) -> np.ndarray:
        """Returns the array as a view of the file's bytes; one that does not lie on its own width is copied."""
        part = content[self.begin : self.end]
        aligned = part if part.ctypes.data % max(self.dtype.itemsize, 1) == 0 else part.copy()
        return np.asarray(aligned).view(self.dtype).reshape(self.shape)


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
            raise _damaged(path, f"its header names {twice[0]!r} twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=once)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON ({error})") from error
    assert isinstance(header, dict)  # it begins with a brace
    return header


def _place(path: Path, name: str, entry: Any) -> _Place:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"the header's entry of {name!r} lacks dtype, shape or data_offsets") from error
    if not all(type(one) is int and one >= 0 for one in numbers):
        raise _damaged(path, f"the sides or offsets of {name!r} are no whole numbers from 0 on")
    if len(shape) > _MOST_SIDES:
        raise _damaged(path, f"{name!r} has {len(shape)} sides")
    if not isinstance(kind, str) or kind not in _TYPES:
        known = ", ".join(_TYPES)
        raise UserError(f"{path} holds {name!r} in the type {kind!r}, which is not read here; store it as {known}")
    dtype = _type_of(kind)
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{name!r} has {end - begin} bytes, and its sides {shape} of {kind} take another number")
    return _Place(dtype, tuple(shape), begin, end)


def _check_places(path: Path, places: Mapping[str, _Place], held: int) -> None:
    """Refuses arrays that overlap, leave gaps, or reach beyond the bytes that the file holds."""
    reached = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != reached:
            raise _damaged(path, f"{name!r} begins at byte {place.begin}, and the one before it ends at {reached}")
        reached = place.end
    if reached != held:
        raise _damaged(path, f"its header tells of {reached} bytes of arrays, and it holds {held}")


def _type_of(kind: str) -> np.dtype[Any]:
    if kind != "BF16":
        return np.dtype(_TYPES[kind]).newbyteorder("<")
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _name_of(name: str, dtype: np.dtype[Any]) -> str:
    for kind, own in _TYPES.items():
        if own == dtype.name:
            return kind
    known = ", ".join(_TYPES)
    raise UserError(f"{name!r} is an array of {dtype}, which safetensors cannot hold; give {known}")


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is no whole file of safetensors: {what}; fetch or write it again")
