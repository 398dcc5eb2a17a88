"""An entry of the cache that is damaged: it is made anew, and that is said once."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.prepared import CachedCase
from tests.data.tiny_case import SCHEME, files_on_disk
from tests.faults.catalogue import given, table


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def garbled(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def other_values(path: Path) -> None:
    np.save(path, np.load(path) + 9)


def without_marks(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["marks"]
    path.write_text(json.dumps(content))


Call = Callable[[], tuple[list[np.ndarray], list[str]]]


@pytest.fixture
def call(tmp_path) -> Call:
    """Prepares a case; returns its arrays and what was said."""
    files = files_on_disk(tmp_path)

    def prepared() -> tuple[list[np.ndarray], list[str]]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            (case,) = prepare([files], ("t1", "flair"), SCHEME, cache=tmp_path / "cache")
        assert isinstance(case, CachedCase)
        return [np.array(case.stored(name)) for name in ("image", "label", "tumor", "brain")], [
            str(one.message) for one in said
        ]

    return prepared


@table(
    "name,spoil",
    ("`image.npy` cut short", "made anew, said once", "image.npy", truncated),
    ("`image.npy` empty", "made anew, said once", "image.npy", emptied),
    ("`image.npy` deleted", "made anew, said once", "image.npy", Path.unlink),
    ("`case.json` cut short", "made anew, said once", "case.json", truncated),
    ("`case.json` all zero bytes", "made anew, said once", "case.json", zeroed),
    ("`case.json` without what it says of the arrays", "made anew, said once", "case.json", without_marks),
    ("`case.json` deleted", "made anew, said once", "case.json", Path.unlink),
    ("`label.npy` of random bytes", "made anew, said once", "label.npy", garbled),
    ("`label.npy` with other values", "made anew, said once", "label.npy", other_values),
    ("`tumor.npy` all zero bytes", "made anew, said once", "tumor.npy", zeroed),
    ("`brain.npy` cut short", "made anew, said once", "brain.npy", truncated),
)
def test_it_is_made_anew(tmp_path, call: Call, name, spoil):
    before, said = call()
    assert said == []
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    spoil(folder / name)
    after, (told,) = call()
    assert told.startswith(f"the cache entry {folder} is damaged (")
    assert told.endswith("); it is made anew")
    again, said = call()
    assert said == []
    for one, other, third in zip(before, after, again, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(["digests.json", folder.name])


@given("the cache's list of digests cut short", "made anew, said once")
@pytest.mark.parametrize("spoil", [truncated, emptied, zeroed, lambda path: path.write_text("[]")])
def test_its_list_of_digests(tmp_path, call: Call, spoil):
    before, _ = call()
    spoil(tmp_path / "cache" / "digests.json")
    after, (told,) = call()
    assert "digests.json is damaged (" in told
    np.testing.assert_array_equal(before[0], after[0])
    assert call()[1] == []
