"""The ways of all commands: how they end, and how little they load before they have work to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxfuse.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "cmff.py"
HEAVY = "sorted({'jax', 'flax', 'optax', 'grain', 'orbax'} & set(sys.modules))"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


def ending(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose whole work is `body`."""
    imports = "from jaxfuse import cli\nfrom jaxfuse.errors import Stopped, UserError"
    return python("-c", f"{imports}\ndef main(argv):\n    {body}\ncli.run(main)", *arguments)


def loaded_by(command: str, *arguments: str) -> tuple[int, str, str]:
    """Runs a command to its end in a process that then prints which heavy packages it has loaded."""
    lines = [
        "import atexit, runpy, sys",
        f"atexit.register(lambda: print('loaded', {HEAVY}))",
        f"sys.argv = ['jaxfuse.{command}', *sys.argv[1:]]",
        f"runpy.run_module('jaxfuse.{command}', run_name='__main__', alter_sys=True)",
    ]
    done = python("-c", "\n".join(lines), *arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("return None", 0, ""),
        ("return 1", 1, ""),
        ("raise UserError('a sentence')", 2, "error: a sentence\n"),
        ("raise Stopped('SIGTERM: saved', 143)", 143, "SIGTERM: saved\n"),
        ("raise Stopped('loss became nan', 1)", 1, "loss became nan\n"),
    ],
)
def test_exit_code_and_what_is_told(body, code, told):
    done = ending(body)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)


def test_a_fault_of_the_library_keeps_its_traceback():
    done = ending("raise RuntimeError('broken')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: broken" in done.stderr


def test_what_is_no_flag_is_handed_to_the_command():
    assert ending("print(argv[1:])", "a", "b").stdout == "['a', 'b']\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_jax(command):
    """absl ends with 1 after help; standard error stays empty."""
    code, out, err = loaded_by(command, "--helpshort")
    assert (code, err) == (1, "")
    assert out.endswith("loaded []\n")
    assert "python -m jaxfuse." + command in out


def test_short_help_of_training_lists_its_options_alone():
    done = python("-m", "jaxfuse.train", "--helpshort")
    listed = [line.split(":")[0].strip() for line in done.stdout.splitlines() if line.startswith("  --")]
    recipe, own = ["--config", "--data", "--preset", "--row"], ["--distributed", "--distributed_wait", "--track"]
    assert listed == sorted([*recipe, *own, "--workdir"])
    assert "configs/cmff.py:paper,row=S_A" in done.stdout


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("train", ("--config", f"{CONFIG}:tiny", "--config.fusion.stepz=3"), 'did you mean "steps"?'),
        ("train", ("--config", f"{CONFIG}:tiny", "--wrokdir=x"), "wrokdir"),
        ("train", ("--config", f"{CONFIG}:tiny,row=S_C"), "row 'S_C' is not known; choose one of ours, S_A"),
        ("predict", ("--workdir", "runs/a", "--input", "in"), "--output is not given"),
        ("impute", ("--synthesis", "runs/a", "--segmentation", "runs/b", "--input", "in"), "--output is not given"),
        ("fuse", ("--run", "runs/a", "--output", "x.png", "--axis", "axal"), "axis"),
        ("brats_fuse", ("--root", "a", "--axes", "axial"), "axes"),
        ("describe", ("--config", f"{CONFIG}:paper", "--row"), "row"),
        ("benchmark", ("--config", f"{CONFIG}:tiny", "--steps=many"), "a whole number is expected"),
        ("benchmark", ("--config", f"{CONFIG}:tiny", "--steps=0"), "--steps=0"),
    ],
)
def test_a_mistyped_option_is_told_without_jax(command, arguments, told):
    code, out, err = loaded_by(command, *arguments)
    assert (code, out) == (2, "loaded []\n")
    (sentence,) = err.splitlines()
    assert sentence.startswith("error: ")
    assert told in sentence
