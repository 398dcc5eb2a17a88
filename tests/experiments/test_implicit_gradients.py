"""The experiment on implicit gradients: its truths are true, its clock is fair, its tutorial says what it should."""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.implicit_gradients import cleaning, failures, figures, measure, methods, peers, run, tables, tasks

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "implicit_gradients"


@pytest.fixture
def restored():
    """The settings that the scripts change."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def _ridge():
    return tasks.ridge(6, 20)


@pytest.mark.parametrize("make", [_ridge, lambda: cleaning.cleaning(24, 20, side=3, classes=3)])
def test_the_exact_hypergradient_is_the_slope_of_the_outer_objective(make):
    task = make()
    direction = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=np.shape(leaf)), task.x)
    start = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)), task.y)

    def objective(step):
        x = jax.tree.map(lambda leaf, way: np.asarray(leaf, np.float64) + step * way, task.x, direction)
        y, _ = tasks.newton(task.losses, x, start)
        with jax.enable_x64(True):
            return float(task.losses(tasks.jax_library(np.float64))[0](x, y))

    slope = (objective(1e-4) - objective(-1e-4)) / 2e-4
    along = task.exact @ np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(direction)])
    assert slope == pytest.approx(along, rel=2e-5)


def test_rows_of_a_task_hold_what_was_measured(monkeypatch):
    chosen = [m for m in (*methods.solvers(), *methods.approximations()) if m.name in ("cg", "dense", "direct")]
    monkeypatch.setattr(run, "method_list", lambda hand: chosen)
    task = tasks.quadratic(12, 10)
    found = run.measure_task(task, drawn=True, rounds=3, seconds_each=math.inf, progress=run.Progress(1))
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["hand-written CG", "cg", "dense", "direct"]
    assert max(rows["hand-written CG"]["error"], rows["cg"]["error"]) < 1e-9
    assert max(rows["dense"]["error"], rows["dense"]["residual"]) < 1e-13
    assert rows["cg"]["products"] == rows["cg"]["steps"] + 1
    direct = 0.1 * task.x
    assert rows["direct"]["error"] == pytest.approx(np.linalg.norm(direct - task.exact) / np.linalg.norm(task.exact))
    assert rows["direct"]["residual"] == pytest.approx(1, rel=1e-14)
    assert [row["rounds"] for row in rows.values()] == [3, 3, 3, 3]
    assert rows["hand-written CG"]["ratio"] == 1
    shown = tables.render(*tables._rows([tables._method(row) for row in found["rows"]]))
    assert "ours: dense" in shown
    assert "not converged" not in shown


def test_ratios_are_taken_within_a_round_and_slow_methods_drop_out(monkeypatch):
    pace, calls = {"now": 1.0}, []
    monkeypatch.setattr(measure, "_seconds", lambda call: call())

    def runner(name, factor, run_s=0.0):
        def call():
            calls.append(name)
            if name == "reference":
                pace["now"] *= 3  # the machine slows down from round to round
            return factor * pace["now"]

        return measure.Runner(name, "ours", call, run_s=run_s)

    reference, twice, slow = runner("reference", 1.0), runner("twice", 2.0), runner("slow", 100.0, run_s=1e9)
    measure.race([reference, twice, slow], 4, 1e3, lambda said: None)
    assert calls == ["reference", "twice"] * 4
    assert measure.ratios(twice, reference) == {
        "median_ms": pytest.approx(2e3 * (9 + 27) / 2), "ratio": 2, "ratio_q25": 2, "ratio_q75": 2, "rounds": 4,
    }  # fmt: skip
    assert measure.ratios(slow, reference)["rounds"] == 1

    pace["now"] = 1.0
    brief = runner("brief", 1.0)
    measure.race([runner("reference", 1.0), runner("twice", 2.0), brief], 4, 20.0, lambda said: None)
    assert len(brief.times_s) == 3  # 3 + 9 + 27 s


def test_error_and_cosine_by_hand():
    assert measure.error_and_cosine(np.array([0.0, 2.0]), np.array([2.0, 0.0])) == (pytest.approx(2**0.5), 0)
    assert measure.error_and_cosine(np.array([3.0, 4.0]), np.array([6.0, 8.0])) == (0.5, pytest.approx(1))
    assert measure.error_and_cosine(np.zeros(2), np.ones(2)) == (1, 0)


def test_every_installed_peer_is_right_on_a_small_ridge_regression():
    task = _ridge()
    expected = {"jaxopt custom_root, default": 1e-4, "Betty neumann, 200 terms": 1e-2}
    wrong_by_release = "Betty cg, steps of the hand CG"
    with jax.enable_x64(True):
        *_, x, y = task.in_jax()
        hand = measure.ready(peers.hand_method(), task, x, y)
        assert measure.error_and_cosine(hand.gradient, task.exact)[0] < 1e-9
        assert hand.evidence["steps"] <= 7
        for method in peers.peer_methods(lambda: hand.evidence["steps"]):
            runner = measure.ready(method, task, x, y)
            assert runner.failure is None, method.name
            if method.name != wrong_by_release:
                error, _ = measure.error_and_cosine(runner.gradient, task.exact)
                assert error < expected.get(method.name, 1e-8), method.name


def test_cleaning_tells_wrong_labels_from_right_ones():
    digits = cleaning.make_digits(120, 120, 50)
    assert digits.wrong.sum() == 60
    found = cleaning.learn_weights(digits, outer_steps=15)
    assert found["weight_of_wrong_labels"] < 0.45 < 0.55 < found["weight_of_right_labels"]
    assert found["validation_loss_last"] < found["validation_loss_first"]


def test_figures_show_every_method(tmp_path):
    row = {"group": "ours", "median_ms": 2.0, "error": 0.0, "rounds": 3}
    rows = [row | {"method": f"way {n}", "error": 1e14 * n, "group": ("peer", "ours")[n % 2]} for n in range(9)]
    task = {"title": "a task", "drawn": True, "rows": [*rows, row | {"method": "raised", "rounds": 0}]}
    scores = {
        "tasks": [task, task | {"drawn": False}],
        "memory": {"inner_steps": [1, 10], "megabytes": {"way": [1.0, 2.0]}},
        "inexact": {"inner_steps": [1, 10], "scores": {"way": {"error": [1.0, 0.1], "cosine": [0.5, 1.0]}}},
    }
    paths = figures.draw(scores, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)
    drawn = figures.error_against_time([task]).axes[0]
    assert [note.get_text() for note in drawn.texts] == [str(n + 1) for n in range(9)]
    places = figures._apart(np.zeros((12, 2)))
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 100 * np.eye(12)
    assert gaps.min() > 8  # labels of coinciding points can be told apart


@pytest.mark.usefixtures("restored")
def test_the_tutorial_is_right_and_short(capsys):
    names = runpy.run_path(str(FOLDER / "tutorial.py"))
    said = capsys.readouterr().out
    ours, difference = (float(part.split()[-1]) for part in said.splitlines()[2].split(", by finite differences"))
    assert ours == pytest.approx(difference, rel=1e-6)
    assert (bool(names["info"].converged), bool(names["careless"].converged)) == (True, False)
    values = np.asarray(names["values"])
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.5 * values[0]
    assert bool(jnp.all(names["converged"]))
    assert names["steps"][-1] < names["steps"][0]
    assert names["x"][:5].mean() < names["x"][5:].mean()
    assert len((FOLDER / "tutorial.py").read_text().splitlines()) <= 60


@pytest.mark.slow
def test_twelve_ways_to_go_wrong_are_told_and_ten_healthy_problems_are_not(monkeypatch):
    ours = {name: route for name, route in failures.routes().items() if name.startswith("ours")}
    monkeypatch.setattr(failures, "routes", lambda: ours)
    found = failures.judge(lambda said: None)
    names = {kind: {row["case"] for row in rows} for kind, rows in found.items()}
    assert {kind: len(cases) for kind, cases in names.items()} == {"failing": 12, "healthy": 10}
    assert [row for row in found["failing"] if not row["detected"]] == []
    assert [row for row in found["healthy"] if row["detected"]] == []
    assert all(math.isnan(row["error"]) or row["error"] < 1e-5 for row in found["healthy"])
