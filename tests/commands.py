"""Commands of jaxfuse as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def call(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `python -m jaxfuse.NAME` on the CPU in a folder, with a cache there and programs that compile quickly."""
    environment = {**os.environ, "JAXFUSE_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", f"jaxfuse.{name}", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        check=False,
    )
