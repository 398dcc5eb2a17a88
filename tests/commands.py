"""Commands of jaxfuse, as processes of their own or in this process."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from absl import flags

ROOT = Path(__file__).resolve().parents[1]


def call(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `python -m jaxfuse.NAME` on the CPU in a folder, with a cache there."""
    environment = {**os.environ, "JAXFUSE_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", f"jaxfuse.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


class _Flags:
    """Stands in for `absl.flags`: what a command defines lies in values of its own."""

    def __init__(self) -> None:
        self.FLAGS = flags.FlagValues()
        self.FLAGS.set_gnu_getopt(True)

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(flags, name), flag_values=self.FLAGS)


def call_here(command: ModuleType, *arguments: object, **options: object) -> None:
    """Runs a command in this process to its end; the compilation cache of the tests stays.

    What is no flag comes last; options that are None or False are left out.
    """
    own = _Flags()
    named = {name: value for name, value in options.items() if value is not None and value is not False}
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in named.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "flags", own)
        patch.setattr("jaxfuse.engine.run_folder.workdir.compilation_cache", lambda folder: None)
        command.define_flags()
        rest = own.FLAGS([command.__name__, *given, *map(str, arguments)])
        assert command.main(rest) == 0
