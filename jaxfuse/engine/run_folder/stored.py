"""One checkpoint on disk: a folder of files that appears in one piece, beside a digest of each of them.

Arrays lie in the form of safetensors, which other tools read as well: the length of a header (8 bytes, little endian),
the header in JSON, and the bytes of all arrays, one after another. A file whose bytes are no longer those that were
written is told from one that was written for another model by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

DIGESTS = "digests.json"
# Name of a checkpoint that is being written; steps are numbers, so that nothing takes it for one.
_PARTIAL = ".partial-"
_TYPES = {
    "BOOL": np.bool_, "BF16": jnp.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64,
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}

Arrays = Mapping[str, np.ndarray]


class Damaged(Exception):
    """A checkpoint that is not what was written; the message says what is wrong with which of its files."""


def write_stored(folder: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Writes a checkpoint of these files, with their digests, in place of one that may be there.

    It is on the disk, not in the memory of the operating system, before it bears its name.

    Raises:
        OSError: it cannot be written; what was there is kept.
    """
    partial = folder.with_name(f"{_PARTIAL}{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        digests = {name: _write(partial / name, parts) for name, parts in files.items()}
        _write(partial / DIGESTS, [json.dumps(digests, indent=1).encode()])
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_stored(folder: Path, name: str) -> bytes:
    """Reads one file of a checkpoint.

    Raises:
        Damaged: its bytes are not those that were written.
    """
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        content = (folder / name).read_bytes()
    except ValueError as error:
        raise Damaged(f"{DIGESTS} is not valid JSON") from error
    except OSError as error:
        missing = Path(error.filename).name if error.filename else name
        raise Damaged(f"{missing} cannot be read: {error.strerror}") from error
    if not isinstance(digests, dict) or name not in digests:
        raise Damaged(f"{DIGESTS} does not name {name}")
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise Damaged(f"the bytes of {name} are not those that were written")
    return content


def fault_of(folder: Path, names: Iterable[str]) -> str:
    """Returns what is wrong with a checkpoint that should have these files; "" where nothing is."""
    try:
        for name in names:
            read_stored(folder, name)
    except Damaged as error:
        return str(error)
    return ""


def remove_partial(folder: Path) -> None:
    """Removes, from a folder of checkpoints, what a killed process had begun to write."""
    for begun in folder.iterdir() if folder.is_dir() else ():
        if begun.name.startswith(_PARTIAL):
            shutil.rmtree(begun, ignore_errors=True)


def encode_arrays(arrays: Arrays, notes: Mapping[str, str]) -> Iterator[bytes]:
    """Yields the bytes of a file of arrays; `notes` are text about them."""
    header: dict[str, object] = {"__metadata__": dict(notes)}
    start = 0
    for name, array in arrays.items():
        end = start + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that arrays begin where processors like to read them
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        yield array.tobytes()


def decode_arrays(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of such a file, read-only, and its notes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    notes, data = header.pop("__metadata__"), memoryview(content)[8 + length :]
    arrays = {}
    for name, one in header.items():
        first, end = one["data_offsets"]
        arrays[name] = np.frombuffer(data[first:end], _TYPES[one["dtype"]]).reshape(one["shape"])
    return arrays, notes


def _write(path: Path, parts: Iterable[bytes]) -> str:
    """Writes a file to the disk; returns the digest of what was to be written."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
