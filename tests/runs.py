"""Runs that speak to no console, and trees compared bit by bit."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxfuse.config import parse
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.display import Display
from jaxfuse.engine.run import Run
from jaxfuse.engine.run_folder.workdir import open_workdir
from jaxfuse.engine.stop_request import StopRequest


def run_of(config: Any, workdir: Path, *, new: bool = True) -> Run:
    """Returns the run of a config in a workdir; `new`: the folder is made, and the config written there."""
    display = Display(Console(file=io.StringIO(), highlight=False, soft_wrap=True))
    folder = open_workdir(workdir, config) if new else workdir
    return Run(parse(config), folder, display, StopRequest(), one_device())


def said(run: Run) -> str:
    """Returns all that such a run has said so far."""
    return run.display.console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def bits(tree: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Returns (dtype, shape, content) of every leaf of a tree by its path; keys as their numbers."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        plain = jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        leaves[jax.tree_util.keystr(path)] = (str(leaf.dtype), leaf.shape, np.asarray(plain).tobytes())
    return leaves
