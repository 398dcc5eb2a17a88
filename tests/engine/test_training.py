"""Trainings: phases side by side come to what one after another would, and a killed run resumes.

Quick tests train the network of `tiny_systems.py`, in whose place a slow one puts InfiNet.
"""

import shutil
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxfuse.engine.build import abstract_state
from jaxfuse.engine.run import Run
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.trained.phases import load
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, read_rows
from tests.engine.view_runs import VIEWS, leaves, rows_of, run_in

TOGETHER = "coronal+axial"


@pytest.fixture(scope="module")
def together(folder) -> tuple[Run, str]:
    return run_in(folder, "together", side_by_side=True)


@pytest.fixture(scope="module")
def in_turn(folder) -> tuple[Run, str]:
    return run_in(folder, "in_turn", side_by_side=False)


@pytest.fixture(scope="module")
def resident(folder) -> tuple[Run, str]:
    """Killed after step 4, when step 2 had been saved, and called again: batches are cut on the device."""
    options = {"loader.on_device": "on", "loader.steps_per_call": 2, "log_every": 2}
    for dies_at in (4, 0):
        run, said = run_in(folder, "resident", side_by_side=True, dies_at=dies_at, **options)
    return run, said


@pytest.fixture(scope="module")
def resumed(folder) -> tuple[Run, list[str]]:
    """Killed after step 3, when step 2 had been saved; called again, and once more."""
    runs = [run_in(folder, "resumed", side_by_side=True, dies_at=dies_at) for dies_at in (3, 0, 0)]
    return runs[-1][0], [said for _, said in runs]


def last_state(run: Run, view: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    phase = run.phase(view)
    checkpoints = Checkpoints(phase.checkpoint_folder)
    state, progress = checkpoints.restore(abstract_state(phase.system, phase.phase, phase.data.facts.modalities))
    checkpoints.close()
    return leaves(state), progress


def best_weights(run: Run, view: str) -> dict[str, np.ndarray]:
    return leaves(replace(run.phase(view).weights(best=True), rng=jax.random.key(0)))


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


@pytest.mark.parametrize("view", VIEWS)
def test_the_step_of_a_training_is_compiled_once(in_turn, view):
    assert in_turn[0].phase(view).programs.step._cache_size() == 1


@pytest.mark.parametrize("view", VIEWS)
def test_cases_on_the_device_and_steps_in_blocks_come_to_the_same(together, resident, view):
    run, told = resident
    assert "The training cases lie on the device: 0.0" in told
    (found, progress), (wanted, whole) = last_state(run, view), last_state(together[0], view)
    for leaf, value in wanted.items():
        np.testing.assert_allclose(found[leaf], value, rtol=1e-4, atol=1e-6, err_msg=leaf)
    assert progress["best_step"] == whole["best_step"]
    rows = [(row["step"], row["split"]) for row in rows_of(run, view)]
    assert rows == [(2, "train"), (2, "val"), (4, "train"), (4, "val"), (5, "train"), (5, "val")]


def test_a_run_says_what_trains_together_and_its_phases_differ(together):
    """Or the comparison above would not tell one phase from the other."""
    for told in (f"Phases 1, 2 of 2, {TOGETHER} side by side: 5 steps of ", f"Phase {TOGETHER}: 5 steps in "):
        assert told in together[1]
    first, second = (last_state(together[0], view)[0] for view in VIEWS)
    kernel = next(name for name in first if "params" in name and "kernel" in name)
    assert np.abs(first[kernel] - second[kernel]).max() > 0.01


def test_what_reads_a_run_finds_phases_like_others(together, in_turn):
    here, there = together[0].workdir, in_turn[0].workdir
    for name in (*VIEWS, "result"):
        mine, theirs = (read_rows(workdir / "results" / name / "cases.csv") for workdir in (here, there))
        assert all(a[key] == b[key] for a, b in zip(mine, theirs, strict=True) for key in ("case", "output", "region"))
        assert [row["dice"] for row in mine] == pytest.approx([row["dice"] for row in theirs], abs=0.02, nan_ok=True)
    trained = load([str(here)])
    assert [one.name for one in trained] == [f"together:{view}" for view in VIEWS]
    for one, view in zip(trained, VIEWS, strict=True):
        wanted, _ = last_state(together[0], view)
        for leaf, value in leaves(replace(one.weights(), rng=jax.random.key(0))).items():
            if "params" in leaf or "stats" in leaf:
                np.testing.assert_array_equal(value, wanted[leaf])
    assert sorted(read_json(here / "phases.json")) == sorted(VIEWS)


@pytest.mark.parametrize("view", VIEWS)
def test_a_killed_run_resumes_bit_by_bit(together, resumed, view):
    run, said = resumed
    assert f"{TOGETHER} side by side: 5 steps from step 2 of" in said[1]
    assert f"Phases 1, 2, {TOGETHER} side by side: all 5 steps are there already" in said[2]
    (found, progress), (wanted, whole) = last_state(run, view), last_state(together[0], view)
    assert any("opt_state" in leaf for leaf in wanted)
    for before, after in ((wanted, found), (best_weights(together[0], view), best_weights(run, view))):
        assert [leaf for leaf, value in before.items() if value.tobytes() != after[leaf].tobytes()] == []
    assert progress == whole
    assert rows_of(run, view) == rows_of(together[0], view)
    summaries = [read_json(r.workdir / "results" / view / "summary.json") for r in (run, together[0])]
    for summary in summaries:
        del summary["seconds_per_subject"], summary["seconds_of_training"]
    assert summaries[0] == summaries[1]


def test_fewer_steps_than_are_there_are_refused(folder, together):
    with pytest.raises(UserError, match=r"phase coronal\+axial has 5 steps already and 3 are asked for"):
        run_in(folder, "together", side_by_side=True, steps=3)


def test_a_damaged_checkpoint_is_said_and_made_anew_from_the_one_before(folder, in_turn):
    """And what a later phase, which began from the same weights, has made stays."""
    where = shutil.copytree(in_turn[0].workdir, folder / "damaged") / "checkpoints" / "coronal"
    path = max((where / "last" / "5" / "weights" / "d").iterdir(), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    shutil.copytree(next((where / "best").iterdir()), where / "best" / "99")
    run, told = run_in(folder, "damaged", side_by_side=False)
    assert f"the checkpoint of step 5 in {where / 'last' / '5'} is damaged" in told
    assert "coronal: 5 steps from step 4" in told
    assert "axial: all 5 steps are there already" in told
    assert not (where / "best" / "99").exists()
    for view in VIEWS:
        (found, progress), (wanted, whole) = last_state(run, view), last_state(in_turn[0], view)
        assert [leaf for leaf, value in wanted.items() if value.tobytes() != found[leaf].tobytes()] == []
        assert progress == whole
        assert rows_of(run, view) == rows_of(in_turn[0], view)
    for step in ("4", "5"):
        (where / "last" / step / "rest" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(UserError, match="checkpoint of step 4 .*none is left to go on from"):
        run_in(folder, "damaged", side_by_side=False)


@pytest.mark.slow
def test_views_of_infinet_end_as_they_would_alone(folder):
    """On the whole: what is zero but for rounding falls to either side of a ReLU, and is normalized after it."""
    names = {"infinet_together": True, "infinet_in_turn": False}
    together, in_turn = (run_in(folder, n, side_by_side=side, pixelwise=False)[0] for n, side in names.items())
    for view in VIEWS:
        start = leaves(in_turn.phase(view).initial_state())
        found, wanted = (last_state(run, view)[0] for run in (together, in_turn))
        assert distance(found, wanted) < 0.03 * distance(wanted, start)


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Between the parameters of two states."""
    return float(np.sqrt(sum(np.sum((one[name] - other[name]) ** 2) for name in one if name.startswith(".params"))))
