"""One checkpoint on disk: a folder that appears in one piece, beside a digest of each of its files.

Trees of arrays are written and read by Orbax, each in a folder of its own, and documents as JSON. A file whose bytes
are no longer those that were written is told from one that was written for another model by its digest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxfuse.io.whole_file import file_digest

DIGESTS = "digests.json"
# Name of a checkpoint that is being written; steps are numbers, so that nothing takes it for one.
_PARTIAL = ".partial-"
# What Orbax writes beside the bytes of an array, about.
_BYTES_BESIDE = 1000
_TOLD = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
# Names that Orbax and what it stands on take for names alone. Others hold signs of patterns, of addresses (gs:), or of
# escapes.
_PLAIN = re.compile(r"[A-Za-z0-9_./ +=,-]*")


class Damaged(Exception):
    """A checkpoint that is not what was written; the message says what is wrong with which of its files."""


class Misfit(Exception):
    """Arrays of another model; the message names one that differs."""


def write_stored(folder: Path, trees: Mapping[str, Any], documents: Mapping[str, Any]) -> None:
    """Writes a checkpoint of these trees and documents, with digests, in place of one that may be there.

    Raises:
        OSError: it cannot be written; what was there is kept.
    """
    partial = folder.with_name(f"{_PARTIAL}{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        for name, tree in trees.items():
            _write_tree(partial / name, tree)
        for name, document in documents.items():
            (partial / name).write_text(json.dumps(document), encoding="utf-8")
        digests = {path.relative_to(partial).as_posix(): file_digest(path) for path in _files(partial)}
        (partial / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_tree(folder: Path, name: str, like: Any) -> Any:
    """Reads one tree of a checkpoint, in the form of `like` and onto its devices.

    Raises:
        Damaged: its bytes are not those that were written.
        Misfit: its arrays are not those of such a tree.
    """
    _check(folder, name)
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, without_keys(like))
    with _plainly_named(folder) as plain, _orbax() as reader:
        _check_fit(reader.metadata(plain / name), shapes)
        found = reader.restore(plain / name, args=ocp.args.StandardRestore(shapes))  # pyright: ignore[reportCallIssue]
    return jax.tree.map(_keyed, found, like)


def without_keys(tree: Any) -> Any:
    """Returns a tree with the numbers of random keys in their places: Orbax writes keys in runs of one process only."""

    def plain(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        # The copy of this process, of a key that all have.
        return jax.random.key_data(leaf if leaf.is_fully_addressable else leaf.addressable_data(0))

    return jax.tree.map(plain, tree)


def digest(tree: Any) -> str:
    """Returns a short name of the bits of a tree."""
    found = hashlib.blake2b(digest_size=8)
    for path, leaf in _named(without_keys(tree)).items():
        found.update(path.encode() + np.asarray(leaf).tobytes())
    return found.hexdigest()


def _keyed(leaf: Any, like: Any) -> Any:
    if not _is_key(like):
        return leaf
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(jnp.zeros((), like.dtype)))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def read_document(folder: Path, name: str) -> Any:
    """Reads one document of a checkpoint.

    Raises:
        Damaged: its bytes are not those that were written.
    """
    _check(folder, name)
    return json.loads((folder / name).read_bytes())


def read_back(folder: Path, trees: Mapping[str, Any]) -> None:
    """Reads the trees of a checkpoint that was just written.

    Raises:
        Damaged: they cannot be read, or are not these trees bit by bit.
    """
    for name, tree in trees.items():
        try:
            found = read_tree(folder, name, tree)
        except Exception as error:  # whatever it is, it would come again when the run is to go on
            raise Damaged(_first_sentence(error)) from error
        read, wrote = (_named(without_keys(one)) for one in (found, tree))
        differ = [
            path for path, leaf in wrote.items() if np.asarray(leaf).tobytes() != np.asarray(read[path]).tobytes()
        ]
        if differ:
            raise Damaged(f"{differ[0]} of {name} is another")


def fault_of(folder: Path, names: Iterable[str]) -> str:
    """Returns what is wrong with a checkpoint that should have these parts; "" where nothing is."""
    try:
        for name in names:
            _check(folder, name)
    except Damaged as error:
        return str(error)
    return ""


def remove_partial(folder: Path) -> None:
    """Removes, from a folder of checkpoints, what a killed process had begun to write."""
    for begun in folder.iterdir() if folder.is_dir() else ():
        if begun.name.startswith(_PARTIAL):
            shutil.rmtree(begun, ignore_errors=True)


def _check_space(folder: Path, tree: Any) -> None:
    """Refuses to begin where a tree has no room: a disk that fills while Orbax writes is told of by each array."""
    leaves = jax.tree.leaves(tree)
    needed = sum(leaf.nbytes for leaf in leaves) + _BYTES_BESIDE * len(leaves)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _write_tree(path: Path, tree: Any) -> None:
    _check_space(path.parent, tree)
    with _plainly_named(path.parent) as plain, _orbax() as writer:
        try:
            plainly = ocp.args.StandardSave(without_keys(tree))  # pyright: ignore[reportCallIssue]
            writer.save(plain / path.name, args=plainly)
        except OSError:
            raise
        except Exception as error:  # TensorStore tells of a full disk by errors of many kinds
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and once more for every array
            reason = next((os.strerror(code) for code in _TOLD if os.strerror(code) in str(error)), "")
            raise OSError(errno.EIO, reason or _first_sentence(error), str(path)) from error


@contextmanager
def _orbax() -> Iterator[ocp.Checkpointer]:
    """Gives what reads and writes in this process by itself: it waits for no other of the run."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    checkpointer = ocp.Checkpointer(
        ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
    )
    try:
        yield checkpointer
    finally:
        checkpointer.close()


@contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """Names a folder without signs of patterns and addresses: Orbax looks for its files by patterns below its path."""
    if _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxfuse-", dir=_plain_temporary()) as temporary:
        link = Path(temporary) / "checkpoint"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _plain_temporary() -> str | None:
    """None where the folder for temporary files has a plain name; else the one that every such system has."""
    return None if _PLAIN.fullmatch(tempfile.gettempdir()) else "/tmp"


def _check(folder: Path, name: str) -> None:
    """Compares one part of a checkpoint, a file or a folder, with its digests."""
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
    except ValueError as error:
        raise Damaged(f"{DIGESTS} is not valid JSON") from error
    except OSError as error:
        raise Damaged(f"{DIGESTS} cannot be read: {error.strerror}") from error
    own = {file for file in digests if file == name or file.startswith(f"{name}/")} if isinstance(digests, dict) else ()
    if not own:
        raise Damaged(f"{DIGESTS} does not name {name}")
    for file in sorted(own):
        try:
            found = file_digest(folder / file)
        except OSError as error:
            raise Damaged(f"{file} cannot be read: {error.strerror}") from error
        if found != digests[file]:
            raise Damaged(f"the bytes of {file} are not those that were written")


def _check_fit(metadata: Any, shapes: Any) -> None:
    """Compares the arrays that were written with those that are expected."""
    found, wanted = _named(metadata.item_metadata.tree), _named(shapes)
    if odd := sorted(found.keys() ^ wanted.keys()):
        raise Misfit(f"{odd[0]} is {'not there' if odd[0] in wanted else 'there, and no part of it'}")
    for name, leaf in wanted.items():
        there = found[name]
        if (tuple(there.shape), there.dtype) != (leaf.shape, leaf.dtype):
            told, here = (f"{one.dtype} {tuple(one.shape)}" for one in (there, leaf))
            raise Misfit(f"{name} is {told} there and {here} here")


def _named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as params/net/trunk/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda one: hasattr(one, "dtype"))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _first_sentence(error: Exception) -> str:
    """Returns the first sentence of an error of Orbax, which goes on to options and trees of many lines."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.split(". ")[0].split(" [")[0].rstrip(":.")[:300]
