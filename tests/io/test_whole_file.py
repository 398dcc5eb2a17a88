"""A file is there whole or not at all, whichever module writes it."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.errors import machine_sentence
from jaxfuse.io.npz import write_npz
from jaxfuse.io.png import write_png
from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.io.whole_file import at, remove_begun, write_whole
from tests.refusals import refused

# Name of a file -> writes a number into it.
WRITERS = {
    "a.bin": lambda path, value: write_whole(path, bytes([value])),
    "a.npz": lambda path, value: write_npz(path, x=np.full(3, value)),
    "a.png": lambda path, value: write_png(path, np.full((2, 3), value, np.uint8)),
    "a.json": write_json,
    "a.csv": lambda path, value: write_rows(path, [{"case": "a", "x": value}]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_replaced_or_the_old_one_kept_and_nothing_else_left(tmp_path, monkeypatch, name):
    path, write = tmp_path / "new" / name, WRITERS[name]
    (tmp_path / "file").touch()
    refused(rf"file/{name} cannot be written", write, tmp_path / "file" / name, 1)
    write(path, 1)
    first = path.read_bytes()
    write(path, 2)
    second = path.read_bytes()
    assert first != second

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    refused(rf"{name} cannot be written \(No space left on device\); free space", write, path, 3)
    assert path.read_bytes() == second
    assert os.listdir(path.parent) == [name]


def test_what_a_killed_process_had_begun_is_removed_and_nothing_else(tmp_path, monkeypatch):
    begun = []

    def killed(partial, path):
        begun.append((partial.name, partial.read_bytes()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr("pathlib.Path.unlink", lambda path, missing_ok=False: None)
        with pytest.raises(KeyboardInterrupt):
            write_whole(tmp_path / "results" / "cases.csv", b"half")
    (left,) = (tmp_path / "results").iterdir()
    assert begun == [(left.name, b"half")]
    kept = [tmp_path / name for name in (".lock", ".hidden.txt", "cases.csv", ".a.17.0123abcdef")]
    for path in kept:
        path.touch()
    remove_begun(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_disk_that_fills_is_told_with_the_path_of_the_file(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space") as caught, at(tmp_path / "a.png"):
        full.write_bytes(b"a")
    assert machine_sentence(caught.value).startswith(f"{tmp_path / 'a.png'} cannot be read or written (No space left")
    with pytest.raises(OSError, match="other") as caught, at(tmp_path / "a.png"):
        raise OSError(28, "full", "other")
