"""The validation score by step, of a run and of others beside it."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.io.tables import write_json, write_rows
from jaxfuse.report.curves import LINES
from jaxfuse.report.html import write_report
from jaxfuse.report.learning_curve import learning_curves, scores_of
from tests.report.pictures import near, pixels_of


def run(folder: Path, row: str = "full", fingerprint: str = "1", **scores: list[tuple[int, float]]) -> Path:
    """A run with these scores of each of its phases."""
    config = {"name": "net", "preset": "", "row": row, "variant": "", "schedule": list(scores)}
    write_json(folder / "config.json", config)
    write_json(folder / "dataset.json", {"fingerprint": fingerprint})
    for phase, points in scores.items():
        rows = [{"step": step, "net/mae": 1.0, "score": score} for step, score in points]
        write_rows(folder / "results" / phase / "learning_curve.csv", rows)
    return folder


def colored(path: Path) -> list[int]:
    """Pixels of the first two colors of lines."""
    pixels = pixels_of(path, "RGBA")
    solid = pixels[pixels[..., 3] == 255][:, :3]
    return [int(near(solid, line, 3).sum()) for line in LINES[:2]]


def test_scores_are_read_phase_by_phase_in_the_order_of_the_schedule(tmp_path):
    folder = run(tmp_path, b=[(10, 0.5), (20, np.nan), (30, 0.75)], a=[(5, 0.1)])
    write_rows(tmp_path / "results" / "stray" / "learning_curve.csv", [{"step": 1, "score": 0.5}])
    found = {phase: (steps.tolist(), values.tolist()) for phase, (steps, values) in scores_of(folder).items()}
    assert list(found.items()) == [("b", ([10, 30], [0.5, 0.75])), ("a", ([5], [0.1]))]


def test_one_validation_or_none_with_a_score_is_no_curve(tmp_path):
    folder = run(tmp_path, a=[(5, 0.1)])
    assert not learning_curves(folder, [], tmp_path / "curve.png")
    write_rows(tmp_path / "results" / "a" / "learning_curve.csv", [{"step": 5, "net/loss": 0.5}])
    assert scores_of(folder) == {}
    assert not learning_curves(folder, [], tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_other_runs_are_drawn_where_they_have_the_phase(tmp_path):
    mine = run(tmp_path / "mine", a=[(10, 0.5), (20, 0.6)], b=[(10, 0.1), (20, 0.2)])
    alone, beside = tmp_path / "alone.png", tmp_path / "beside.png"
    assert learning_curves(mine, [run(tmp_path / "stranger", c=[(10, 0.5), (20, 0.9)])], alone)
    assert learning_curves(mine, [run(tmp_path / "other", "dice", a=[(10, 0.2), (20, 0.3)])], beside)
    assert pixels_of(alone).shape[:2] == (int(3.6 * 150), int(2 * 4.4 * 150))
    first, second = colored(alone)
    assert (first > 1000, second, colored(beside)[1] > 200) == (True, 0, True)


@pytest.mark.parametrize("validations", [1, 3])
def test_the_report_shows_the_curve_beside_those_of_runs_on_the_same_data(tmp_path, validations):
    mine = run(tmp_path / "mine", a=[(1, 0.0)])
    row = '{{"step": {}, "phase": "a", "split": "val", "score": {}}}\n'
    (mine / "metrics.jsonl").write_text("".join(row.format(10 * n, 0.1 * n) for n in range(1, validations + 1)))
    same = run(tmp_path / "same", "dice", a=[(10, 0.3), (30, 0.4)])
    different = run(tmp_path / "different", "focal", "2", a=[(10, 0.9), (30, 0.95)])
    page = write_report(mine, related=[same, different]).read_text()
    assert ('alt="validation score by step"' in page) == (validations > 1)
    figures = {path.name: path for path in (mine / "figures").glob("learning*")}
    assert set(figures) == ({"learning_curve.png", "learning_curve_dark.png"} if validations > 1 else set())
    if figures:
        learning_curves(mine, [same], tmp_path / "expected.png")
        assert figures["learning_curve.png"].read_bytes() == (tmp_path / "expected.png").read_bytes()
