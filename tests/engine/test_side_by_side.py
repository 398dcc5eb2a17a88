"""The parts of a training of several phases: rows, judges, streams, and what may train side by side."""

from dataclasses import replace

import pytest

from jaxfuse.data.facts import DatasetFacts
from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.side_by_side import (
    Alone,
    MemberBatches,
    MemberJudges,
    MemberRows,
    Together,
    check_alike,
    group_of,
    in_step,
)
from jaxfuse.engine.validation import PhaseJudge, Progress
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from tests.engine.valid_phases import Kept
from tests.tiny_systems import valid_system

VIEWS = ("coronal", "axial")


def test_a_phase_alone_is_its_own_training(tmp_path):
    """Nothing is wrapped: the step, the state, the stream, the judge and the writer are the phase's."""
    group = group_of(valid_system(1), ["axial"])
    assert isinstance(group, Alone)
    writer = MetricWriter(tmp_path)
    state = State(step=3, rng=None, params={}, stats={}, opt_state={}, memory={})  # pyright: ignore
    judge = PhaseJudge("axial", lambda state: {}, writer, Kept(), Progress())
    assert group.stack({"axial": state}) is state
    assert group.member(state, "axial") is state
    assert group.stream({"axial": Counting}) is Counting
    assert group.judge({"axial": judge}) is judge
    assert group.rows(writer) is writer
    group.keep(3, {"axial": state}, judge, {})  # the loop has saved it
    writer.close()
    assert isinstance(group_of(valid_system(1), VIEWS), Together)


def test_rows_go_to_their_phases_and_the_speed_to_all(tmp_path):
    writer = MetricWriter(tmp_path)
    values = {"axial/net/loss": 0.25, "coronal/net/loss": 0.5, "steps_per_s": 4.0}
    MemberRows(writer, VIEWS).write(3, "coronal+axial", "train", values)
    writer.close()
    same = {"step": 3, "split": "train", "steps_per_s": 4.0}
    coronal, axial = {"phase": "coronal", "net/loss": 0.5, **same}, {"phase": "axial", "net/loss": 0.25, **same}
    assert read_metrics(tmp_path) == [coronal, axial]


def test_each_phase_keeps_its_own_best(tmp_path):
    scores = {"coronal": [0.5, 0.4, 0.6], "axial": [0.3, 0.7, 0.2]}
    writer, kept = MetricWriter(tmp_path), {view: Kept() for view in VIEWS}
    makings = {view: (writer, kept[view], Progress()) for view in VIEWS}
    judges = {v: PhaseJudge(v, lambda own: {"score": own.params["score"]}, *made) for v, made in makings.items()}
    judge = MemberJudges(judges, lambda every, view: replace(every, params={"score": every.params[view]}))
    for step in (1, 2, 3):
        own = {view: scores[view][step - 1] for view in VIEWS}
        judge(step, State(step=step, rng=None, params=own, stats={}, opt_state={}, memory={}))  # pyright: ignore
    writer.close()
    assert {view: one.best for view, one in kept.items()} == {"coronal": [1, 3], "axial": [1, 2]}
    document = judge.document()
    assert document == {
        "coronal": {"best_score": 0.6, "best_step": 3, "since": 0},
        "axial": {"best_score": 0.7, "best_step": 2, "since": 1},
    }
    assert [one.waited for one in kept.values()] == [1, 1]  # what the document names is on disk
    judge.recall({view: {"best_score": 0.9, "best_step": 8} for view in VIEWS})
    assert judge.document()["axial"] == {"best_score": 0.9, "best_step": 8, "since": 0}


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
    for steps in ((5, 41), (6, 42)):
        assert next(stream) == {view: {"step": step} for view, step in zip(VIEWS, steps, strict=True)}
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
        ({"voxels_per_class": (20, 10)}, True, 4, r"weigh their losses are \(30, 10\) and \(20, 10\); .* for both"),
    ],
)
def test_data_that_build_other_systems_are_refused(changes, weighs, steps, message):
    other = replace(FACTS, **changes)
    check_alike({"coronal": (FACTS, False, 4), "axial": (replace(FACTS, voxels_per_class=(20, 10)), False, 4)})
    with pytest.raises(UserError, match=f"coronal and axial cannot train side by side: .*{message}"):
        check_alike({"coronal": (FACTS, weighs, 4), "axial": (other, weighs, steps)})
