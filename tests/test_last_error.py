"""The last error: what a command that ends badly keeps, and that keeping it can do no harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxfuse
from jaxfuse import last_error

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_it_lies_in_the_users_own_cache_and_not_in_that_of_data(home, monkeypatch):
    monkeypatch.setenv("JAXFUSE_CACHE", str(home / "shared"))
    assert last_error.place() == home / "cache" / "jaxfuse" / "last_error.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(home / "user"))
    assert last_error.place() == home / "user" / ".cache" / "jaxfuse" / "last_error.json"


def test_one_is_kept_at_a_time(home, monkeypatch):
    assert last_error.kept() == {}
    monkeypatch.setattr(sys, "argv", ["predict", "--input", "a b"])
    last_error.keep("first")
    last_error.keep("x" * 30_000 + "end")
    found = last_error.kept()
    assert found["told"].endswith("xend")
    assert len(found["told"]) == 20_000
    assert found["version"] == jaxfuse.__version__
    assert found["command"].endswith(" --input 'a b'")
    assert found["time"].endswith("+00:00")
    assert [path.name for path in (home / "cache" / "jaxfuse").iterdir()] == ["last_error.json"]


def test_a_place_that_cannot_be_written_or_read_is_passed_over(home):
    (home / "cache").write_text("a file in place of the folder")
    last_error.keep("a sentence")
    assert last_error.kept() == {}


@pytest.mark.parametrize("damage", ["", "{", "[1]", '"text"'])
def test_what_is_no_record_is_none(home, damage):
    last_error.keep("a sentence")
    last_error.place().write_text(damage)
    assert last_error.kept() == {}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise UserError('a sentence')", "a sentence"),
        ("raise Stopped('loss became nan', 1)", "loss became nan"),
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("return 0", None),
    ],
)
def test_commands_keep_what_they_end_with(home, body, told):
    imports = "from jaxfuse import cli\nfrom jaxfuse.errors import Stopped, UserError"
    program = f"{imports}\ndef main(argv):\n    {body}\ncli.run(main)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    if told is None:
        assert not last_error.place().exists()
        return
    found = json.loads(last_error.place().read_text())
    assert told in found["told"]
    assert ("Traceback" in found["told"]) == ("Traceback" in done.stderr)
    assert told in done.stderr
