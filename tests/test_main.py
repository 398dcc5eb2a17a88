"""`jaxfuse COMMAND`: the same command as `python -m jaxfuse.COMMAND`, found without loading what it needs."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import jaxfuse
from jaxfuse.__main__ import main
from jaxfuse.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the entry with arguments -> code of exit, standard output and standard error."""

    def entry(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jaxfuse", *arguments])
        code = main()
        return (code, *capsys.readouterr())

    return entry


def test_all_commands_are_listed(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert listed == COMMANDS
    assert call() == (2, "", out)


def test_the_version_is_that_of_the_package(call):
    assert call("--version") == (0, f"jaxfuse {jaxfuse.__version__}\n", "")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("trian", "did you mean jaxfuse train?"),
        ("brats-fuse", "did you mean jaxfuse brats_fuse?"),
        ("--config", "choose one of train, predict,"),
        ("xyz", "choose one of train, predict,"),
    ],
)
def test_what_is_no_command_is_refused_in_a_sentence(call, name, advice):
    code, out, err = call(name, "--workdir=a")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {name!r} is no command of jaxfuse; {advice}")
    assert err.count("\n") == 1


def test_a_command_is_run_as_its_module_with_its_own_arguments(call, monkeypatch):
    seen = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **how: seen.append((name, how, sys.argv[1:])))
    for name in COMMANDS:
        assert call(name, "--workdir", "a b", "") == (0, "", "")
    how = {"run_name": "__main__", "alter_sys": True}
    assert seen == [(f"jaxfuse.{name}", how, ["--workdir", "a b", ""]) for name in COMMANDS]


def test_help_of_a_command_is_that_of_its_module():
    def told(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT, check=False)
        return done.returncode, done.stdout, done.stderr

    assert told("jaxfuse", "verify", "--helpshort") == told("jaxfuse.verify", "--helpshort")


def test_listing_the_commands_loads_nothing():
    listed = [sys.executable, "-c", "import sys; sys.argv = ['jaxfuse', '--help']; import jaxfuse.__main__ as entry\n"]
    listed[-1] += "entry.main(); print(sorted({'absl', 'numpy', 'jax', 'ml_collections'} & set(sys.modules)))"
    done = subprocess.run(listed, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.endswith("\n[]\n")
