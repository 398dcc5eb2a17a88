"""Two views side by side: the phases that one after another would make, and a run that resumes.

Quick tests train the network of `tiny_systems.py`, in whose place a slow one puts InfiNet.
"""

from __future__ import annotations

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
from jaxfuse.config import parse
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.engine.build import abstract_state
from jaxfuse.engine.display import Display
from jaxfuse.engine.judging import segmentation as judging
from jaxfuse.engine.run import Run
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.run_folder.workdir import open_workdir
from jaxfuse.engine.side_by_side import MemberBatches, MemberJudges, MemberRows, check_alike, in_step
from jaxfuse.engine.stop_request import StopRequest
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.validation import PhaseJudge, Progress
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.learning.state import State

VIEWS = ("coronal", "axial")
TOGETHER = "coronal+axial"
TIMED = ("steps_per_s", "wait_share")
STEPS = 5


# --- a run ----------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class Deadly(Display):
    """A display at whose line of this step the run dies."""

    def __init__(self, step: int) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.deadly = step

    def step(self, step: int, **shown: Any) -> None:
        if step == self.deadly:
            raise Killed
        super().step(step, **shown)


def recipe(cache: Path, *, side_by_side: bool, steps: int, pixelwise: bool) -> Any:
    config = infinet.get_config("tiny")
    config.data.cache = str(cache)
    config.schedule = config.result = VIEWS
    config.side_by_side = side_by_side
    if pixelwise:
        config.network = ConfigDict()
    for view in VIEWS:
        config[view].model = "tests.tiny_systems" if pixelwise else "infinet"
        config[view].steps, config[view].checkpoint_every, config[view].validation.every = steps, 2, 2
    return config


def run_in(
    folder: Path, name: str, *, side_by_side: bool, dies_at: int = 0, steps: int = STEPS, pixelwise: bool = True
) -> tuple[Run, str]:
    """The run, and what it said; its figures are not painted."""
    config = recipe(folder / "cache", side_by_side=side_by_side, steps=steps, pixelwise=pixelwise)
    display = Deadly(dies_at)
    run = Run(parse(config), open_workdir(folder / name, config), display, StopRequest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging.figures, "segmentation_panel", lambda path, **asked: None)
        if dies_at:
            with pytest.raises(Killed):
                run.execute()
        else:
            run.execute()
    return run, display.console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def together(folder) -> tuple[Run, str]:
    return run_in(folder, "together", side_by_side=True)


@pytest.fixture(scope="module")
def in_turn(folder) -> tuple[Run, str]:
    return run_in(folder, "in_turn", side_by_side=False)


@pytest.fixture(scope="module")
def resumed(folder) -> tuple[Run, list[str]]:
    """Killed after step 3, when step 2 had been saved; called again, and once more."""
    runs = [run_in(folder, "resumed", side_by_side=True, dies_at=dies_at) for dies_at in (3, 0, 0)]
    return runs[-1][0], [said for _, said in runs]


def leaves(state: State) -> dict[str, np.ndarray]:
    state = replace(state, rng=jax.random.key_data(state.rng))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def last_state(run: Run, view: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    phase = run.phase(view)
    checkpoints = Checkpoints(phase.checkpoint_folder)
    state, progress = checkpoints.restore(abstract_state(phase.system, phase.phase, phase.data.facts.modalities))
    checkpoints.close()
    return leaves(state), progress


def best_weights(run: Run, view: str) -> dict[str, np.ndarray]:
    return leaves(replace(run.phase(view).weights(best=True), rng=jax.random.key(0)))


def rows_of(run: Run, view: str, *, timed: bool = False) -> list[dict[str, Any]]:
    rows = [row for row in read_metrics(run.workdir) if row["phase"] == view]
    return rows if timed else [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


@pytest.mark.parametrize("view", VIEWS)
def test_a_phase_ends_as_it_would_alone(together, in_turn, view):
    """To rounding: the same first weights, batches and learning rates, and validations at the same steps."""
    (found, progress), (wanted, alone) = last_state(together[0], view), last_state(in_turn[0], view)
    assert found.keys() == wanted.keys()
    for leaf, value in wanted.items():
        assert found[leaf].dtype == value.dtype
        np.testing.assert_allclose(found[leaf], value, rtol=1e-4, atol=1e-6, err_msg=leaf)
    assert progress["best_step"] == alone["best_step"]
    mine, theirs = (rows_of(run, view, timed=True) for run in (together[0], in_turn[0]))
    assert [(row["step"], row["split"]) for row in mine] == [(row["step"], row["split"]) for row in theirs]
    for row, other in zip(mine, theirs, strict=True):
        assert list(row) == list(other)
        assert row["net/loss"] == pytest.approx(other["net/loss"], rel=1e-4)


def test_phases_that_were_trained_differ(together):
    """Or the comparison above would not tell one from the other."""
    first, second = (last_state(together[0], view)[0] for view in VIEWS)
    kernel = next(name for name in first if "params" in name and "kernel" in name)
    assert np.abs(first[kernel] - second[kernel]).max() > 0.01


def test_what_reads_a_run_finds_phases_like_others(together, in_turn):
    here, there = together[0].workdir, in_turn[0].workdir
    for name in (*VIEWS, "result"):
        mine, theirs = (read_rows(workdir / "results" / name / "cases.csv") for workdir in (here, there))
        assert [(row["case"], row["output"], row["region"]) for row in mine] == [
            (row["case"], row["output"], row["region"]) for row in theirs
        ]
        assert [row["dice"] for row in mine] == pytest.approx([row["dice"] for row in theirs], abs=0.02, nan_ok=True)
    trained = load([str(here)])
    assert [one.name for one in trained] == [f"together:{view}" for view in VIEWS]
    for one, view in zip(trained, VIEWS, strict=True):
        wanted, _ = last_state(together[0], view)
        for leaf, value in leaves(replace(one.weights(), rng=jax.random.key(0))).items():
            if "params" in leaf or "stats" in leaf:
                np.testing.assert_array_equal(value, wanted[leaf])
    assert sorted(read_json(here / "phases.json")) == sorted(VIEWS)


def test_it_says_what_trains_together(together):
    numbered, took = "Phases 1, 2 of 2, coronal+axial side by side: 5 steps of ", "Phase coronal+axial: 5 steps in "
    assert numbered in together[1]
    assert took in together[1]


@pytest.mark.parametrize("view", VIEWS)
def test_a_killed_run_resumes_bit_by_bit(together, resumed, view):
    run, said = resumed
    assert f"{TOGETHER} side by side: 5 steps from step 2 of" in said[1]
    (found, progress), (wanted, whole) = last_state(run, view), last_state(together[0], view)
    assert any("opt_state" in leaf for leaf in wanted)
    for before, after in ((wanted, found), (best_weights(together[0], view), best_weights(run, view))):
        assert [leaf for leaf, value in before.items() if value.tobytes() != after[leaf].tobytes()] == []
    assert progress == whole
    assert rows_of(run, view) == rows_of(together[0], view)
    summaries = [read_json(r.workdir / "results" / view / "summary.json") for r in (run, together[0])]
    for summary in summaries:
        del summary["seconds_per_subject"]
    assert summaries[0] == summaries[1]


def test_a_finished_run_says_so(resumed):
    assert f"Phases 1, 2, {TOGETHER} side by side: all 5 steps are there already" in resumed[1][2]


def test_fewer_steps_than_are_there_are_refused(folder, together):
    with pytest.raises(UserError, match=r"phase coronal\+axial has 5 steps already and 3 are asked for"):
        run_in(folder, "together", side_by_side=True, steps=3)


@pytest.mark.slow
def test_views_of_infinet_end_as_they_would_alone(folder):
    """On the whole: what is zero but for rounding falls to either side of a ReLU, and is normalized after it."""
    together, in_turn = (
        run_in(folder, name, side_by_side=name == "infinet_together", pixelwise=False)[0]
        for name in ("infinet_together", "infinet_in_turn")
    )
    for view in VIEWS:
        start = leaves(in_turn.phase(view).initial_state())
        found, wanted = (last_state(run, view)[0] for run in (together, in_turn))
        assert distance(found, wanted) < 0.03 * distance(wanted, start)


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Between the parameters of two states."""
    return float(np.sqrt(sum(np.sum((one[name] - other[name]) ** 2) for name in one if name.startswith(".params"))))


# --- its parts ------------------------------------------------------------------------------------------------


def test_rows_go_to_their_phases_and_the_speed_to_all(tmp_path):
    writer = MetricWriter(tmp_path)
    values = {"axial/net/loss": 0.25, "coronal/net/loss": 0.5, "steps_per_s": 4.0}
    MemberRows(writer, VIEWS).write(3, TOGETHER, "train", values)
    writer.close()
    assert read_metrics(tmp_path) == [
        {"step": 3, "phase": "coronal", "split": "train", "net/loss": 0.5, "steps_per_s": 4.0},
        {"step": 3, "phase": "axial", "split": "train", "net/loss": 0.25, "steps_per_s": 4.0},
    ]


class Kept(Checkpoints):
    """Checkpoints that note the best steps, and write nothing."""

    def __init__(self) -> None:
        self.best: list[int] = []
        self.waited = 0

    def save_best(self, step: int, state: Any) -> None:
        self.best.append(step)

    def wait_for_best(self) -> None:
        self.waited += 1


def test_each_phase_keeps_its_own_best(tmp_path):
    scores = {"coronal": [0.5, 0.4, 0.6], "axial": [0.3, 0.7, 0.2]}
    writer, kept = MetricWriter(tmp_path), {view: Kept() for view in VIEWS}
    judges = {
        view: PhaseJudge(view, lambda own: {"score": own.params["score"]}, writer, kept[view], Progress())
        for view in VIEWS
    }
    judge = MemberJudges(judges, lambda every, view: replace(every, params={"score": every.params[view]}))
    for step in (1, 2, 3):
        own = {view: scores[view][step - 1] for view in VIEWS}
        judge(step, State(step=step, rng=None, params=own, stats={}, opt_state={}, memory={}))  # pyright: ignore
    writer.close()
    assert {view: one.best for view, one in kept.items()} == {"coronal": [1, 3], "axial": [1, 2]}
    document = judge.document()
    assert document == {
        "coronal": {"best_score": 0.6, "best_step": 3},
        "axial": {"best_score": 0.7, "best_step": 2},
    }
    assert [one.waited for one in kept.values()] == [1, 1]  # what the document names is on disk
    judge.recall({view: {"best_score": 0.9, "best_step": 8} for view in VIEWS})
    assert judge.document()["axial"] == {"best_score": 0.9, "best_step": 8}


class Counting:
    def __init__(self, start: int, *, breaks: bool = False) -> None:
        self.number, self.breaks, self.closed = start, breaks, False

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, int]:
        self.number += 1
        return {"step": self.number}

    def close(self) -> None:
        self.closed = True
        if self.breaks:
            raise OSError("gone")


def test_streams_go_in_step_and_are_all_closed():
    stream = in_step({"coronal": Counting, "axial": lambda start: Counting(10 * start)})(4)
    assert [next(stream) for _ in range(2)] == [
        {"coronal": {"step": 5}, "axial": {"step": 41}},
        {"coronal": {"step": 6}, "axial": {"step": 42}},
    ]
    broken = MemberBatches({"coronal": Counting(0), "axial": Counting(0, breaks=True)})
    with pytest.raises(OSError, match="gone"):
        broken.close()
    assert [one.closed for one in broken.streams.values()] == [True, True]  # pyright: ignore


FACTS = DatasetFacts(("t1", "t2"), "iseg", ("background", "CSF"), (1.0, 1.0), ("a",), ("b",), {}, (30, 10))


@pytest.mark.parametrize(
    ("changes", "weighs", "steps", "message"),
    [
        ({"modalities": ("t2", "t1")}, False, 4, "their modalities are"),
        ({"classes": ("background", "GM")}, False, 4, "their classes are"),
        ({}, False, 5, "their steps are 4 and 5; give both the same number of steps in place of epochs"),
        ({"voxels_per_class": (20, 10)}, True, 4, r"weigh their losses are \(30, 10\) and \(20, 10\); .* in loss_args"),
    ],
)
def test_data_that_build_other_systems_are_refused(changes, weighs, steps, message):
    other = replace(FACTS, **changes)
    with pytest.raises(UserError, match=f"coronal and axial cannot train side by side: .*{message}"):
        check_alike({"coronal": (FACTS, weighs, 4), "axial": (other, weighs, steps)})


def test_counts_of_classes_that_no_loss_reads_may_differ():
    check_alike({"coronal": (FACTS, False, 4), "axial": (replace(FACTS, voxels_per_class=(20, 10)), False, 4)})
