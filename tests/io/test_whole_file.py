"""A file is there whole or not at all."""

import os

import pytest

from jaxfuse.errors import UserError
from jaxfuse.io.whole_file import write_whole


def test_a_file_is_replaced_and_nothing_else_left(tmp_path):
    path = tmp_path / "new" / "a.bin"
    for content in (b"first", b"2"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_whole(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"a\.bin cannot be written \(No space left on device\)"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
