"""Runs of two views on small phantoms of infant heads, with the network of `tiny_systems.py` or with InfiNet."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from configs import infinet
from jaxfuse.engine.display import Display
from jaxfuse.engine.judging import segmentation as judging
from jaxfuse.engine.run import Run
from jaxfuse.engine.run_folder.metric_writer import read_metrics
from jaxfuse.learning.state import State
from tests.runs import run_of, said

VIEWS = ("coronal", "axial")
TIMED = ("steps_per_s", "wait_share")
STEPS = 5


class Killed(Exception):
    pass


class Deadly(Display):
    """A display at whose line of this step the run dies."""

    def __init__(self, step: int) -> None:
        super().__init__(Console(file=io.StringIO(), soft_wrap=True))
        self.deadly = step

    def step(self, step: int, **shown: Any) -> None:
        if step == self.deadly:
            raise Killed
        super().step(step, **shown)


def recipe(cache: Path, *, side_by_side: bool, steps: int, pixelwise: bool) -> Any:
    config = infinet.get_config("tiny")
    config.schedule = config.result = VIEWS
    config.side_by_side = side_by_side
    if pixelwise:
        config.network = ConfigDict()
    for view in VIEWS:
        config[view].data.cache = str(cache)
        config[view].count_classes = "crop"  # padded slices of each view show another share of background
        config[view].model = "tests.tiny_systems" if pixelwise else "infinet"
        config[view].steps, config[view].checkpoint_every, config[view].validation.every = steps, 2, 2
        config[view].modality_dropout.probability = 0.5
    return config


def run_in(
    folder: Path,
    name: str,
    *,
    side_by_side: bool,
    dies_at: int = 0,
    steps: int = STEPS,
    pixelwise: bool = True,
    **changes: Any,
) -> tuple[Run, str]:
    """The run, and what it said; its figures are not painted. `changes` are options by dotted names."""
    config = recipe(folder / "cache", side_by_side=side_by_side, steps=steps, pixelwise=pixelwise)
    config.update_from_flattened_dict(changes)
    run = replace(run_of(config, folder / name), display=Deadly(dies_at))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging.figures, "segmentation_panel", lambda path, **asked: None)
        if dies_at:
            with pytest.raises(Killed):
                run.execute()
        else:
            run.execute()
    return run, said(run)


def leaves(state: State) -> dict[str, np.ndarray]:
    state = replace(state, rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def rows_of(run: Run, view: str, *, timed: bool = False) -> list[dict[str, Any]]:
    rows = [row for row in read_metrics(run.workdir) if row["phase"] == view]
    return rows if timed else [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
