"""Two runs in one folder: the second is refused in one sentence, and the first goes on untouched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxfuse.engine.run_folder.lock import HOLDER, locked
from jaxfuse.errors import UserError
from tests.faults.catalogue import given, table


@pytest.fixture
def train(ended_training, tmp_path, monkeypatch) -> Callable[[Path], Path]:
    monkeypatch.chdir(tmp_path)
    return ended_training


@table(
    "name",
    ("the same command twice", "the second is refused; process and host of the first are named", "run"),
    ("the folder by another path", "refused as well", "run/../run"),
    ("the folder by a symbolic link", "refused as well", "link"),
)
def test_the_second_is_refused(tmp_path, train, unchanged, name):
    train(Path("run"))
    (tmp_path / "link").symlink_to("run")
    with locked(Path("run")), unchanged(tmp_path / "run"):
        with pytest.raises(UserError) as error:
            train(Path(name))
        assert str(error.value).startswith("another run is going on in ")
        assert " (process " in str(error.value)
        assert str(error.value).endswith("; name another --workdir, or wait until it has ended")
        assert "\n" not in str(error.value)
    assert train(Path(name)).is_file()


@given("a run that was killed, and left its word in the folder", "the next one goes on: the lock went with the process")
def test_a_killed_run_holds_nothing(tmp_path, train):
    train(Path("run"))
    (tmp_path / "run" / HOLDER).write_text(json.dumps({"process": 1, "host": "elsewhere"}))
    assert train(Path("run")).is_file()
    assert not (tmp_path / "run" / HOLDER).exists()


@given("another program's lock file in the folder", "the run goes on: a lock is the system's, not a file's")
def test_a_file_is_no_lock(train):
    train(Path("run"))
    Path("run", ".lock").write_text("held")
    assert train(Path("run")).is_file()
