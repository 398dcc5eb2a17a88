"""Entries of the cache: written whole, or said by name where they cannot be."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.entries import Making, fault_of, read_prepared, remove_begun_by, write_entry
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.data.shelf import FLOAT32
from jaxfuse.errors import OutputError
from jaxfuse.io.claims import claim, claimed, give_up
from tests.data.tiny_case import case_in_memory, files_on_disk

PREPARED = prepare_case(case_in_memory(), classes=4)
NAME = f"c-{'0a' * 10}"


def test_an_entry_is_what_was_prepared(tmp_path):
    write_entry(tmp_path / NAME, "key", PREPARED, FLOAT32)
    found = read_prepared(tmp_path / NAME)
    assert (found.key, found.facts) == ("key", PREPARED.facts)
    np.testing.assert_array_equal(found.image, PREPARED.image)
    np.testing.assert_array_equal(np.load(tmp_path / NAME / "image.npy"), PREPARED.image)
    assert fault_of(tmp_path / NAME) == ""
    assert json.loads((tmp_path / NAME / "case.json").read_text())["key"] == "key"


def test_a_full_disk_is_said_with_the_place(tmp_path):
    files = Path("/dev/full")
    if not files.exists():
        pytest.skip("no /dev/full")
    for name in ("image", "beyond"):
        place = tmp_path / name

        def full(path: Path, mode: str, name: str = name, opened=Path.open):
            return opened(files if path.stem == name else path, mode)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "open", full)
            with pytest.raises(
                OutputError, match=rf"{place} cannot be written \(No space left on device\); free space"
            ):
                write_entry(place, "key", PREPARED, FLOAT32)
        assert list(tmp_path.iterdir()) == []


def test_an_entry_that_another_makes_is_left_to_it(tmp_path):
    making = Making(lambda one: PREPARED, files_on_disk(tmp_path), tmp_path / NAME, "key", FLOAT32)
    with claimed(tmp_path / NAME) as free:
        assert free
        assert making() is None
    assert [making(), making()] == [True, False]
    assert not list(tmp_path.glob(".*"))


def test_what_an_ended_process_has_left_goes_and_what_others_hold_stays(tmp_path):
    for process in (17, 18):
        (tmp_path / f".{NAME}.{process}.0123abcd").mkdir()
    held = tmp_path / f".{NAME}.lock"
    (tmp_path / f".d-{'0b' * 10}.lock").touch()
    lock = claim(held)
    assert lock is not None
    remove_begun_by(tmp_path, 17)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{NAME}.18.0123abcd", held.name]
    give_up(lock, held)
    assert os.getpid() != 17
