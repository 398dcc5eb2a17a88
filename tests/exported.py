"""Bundles of untrained runs, and processes that open them where there is no jaxfuse."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxfuse.engine.display import Display
from jaxfuse.engine.exported.written_bundle import export_bundle
from jaxfuse.engine.trained.phases import load

# What a bundle does without.
NOT_THERE = ("jaxfuse", "flax", "optax", "orbax", "grain", "skimage", "filelock", "jaxtyping", "ml_collections")
NOT_THERE += ("absl", "rich", "matplotlib", "lineax", "jinja2", "tensorboardX", "PIL")
ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(f"{{name}} is not there")
sys.meta_path.insert(0, Absent())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def exported(run: Path | Sequence[Path], bundle: Path, **options: Any) -> Path:
    """Exports runs, and returns the folder of their bundle."""
    runs = [run] if isinstance(run, Path) else run
    export_bundle(load([str(one) for one in runs]), bundle, Display(), **options)
    return bundle


def run_alone(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Calls a bundle's run.py elsewhere, in a process that has what a bundle takes and nothing more."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-I", "-c", ALONE.format(absent=NOT_THERE), str(bundle / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=bundle.parent, env=environment, check=False)
