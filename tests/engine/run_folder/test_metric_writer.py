import csv
import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from experiments.failures.ends import event_rows
from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.errors import UserError


def _write_two_phases(workdir: Path) -> None:
    rows = [(step, "transition", "train", {"loss": 1.0 / step, "cycle": 0.5}) for step in (1, 2, 3)]
    rows += [(3, "transition", "val", {"mae": 0.25})]
    _written(workdir, *rows, *((step, "fusion", "train", {"loss": 0.1 * step}) for step in (1, 2)))


def _written(workdir: Path, *rows: tuple) -> None:
    """Writes these rows by a writer of their own."""
    with closing(MetricWriter(workdir)) as writer:
        for row in rows:
            writer.write(*row)


def _csv_rows(workdir: Path) -> list[tuple[int, str, str, str, float]]:
    with open(workdir / "metrics.csv", newline="") as file:
        return [(int(r["step"]), r["phase"], r["split"], r["name"], float(r["value"])) for r in csv.DictReader(file)]


def _long(rows: list[dict]) -> list[tuple[int, str, str, str, float]]:
    keys = ("step", "phase", "split")
    return [(*(row[k] for k in keys), name, value) for row in rows for name, value in row.items() if name not in keys]


def _scalars(workdir: Path) -> list[tuple[str, int, float]]:
    """The numbers that TensorBoard shows."""
    return [(tag, step, round(float.fromhex(value), 6)) for tag, step, value in event_rows(workdir)]


def test_a_row_comes_back_from_all_three_files(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(10, "fusion", "train", {"loss": np.float32(0.5), "dice/ET": 0.75})
    # Not closed: what a killed process has written must already be there.
    assert read_metrics(tmp_path) == [{"step": 10, "phase": "fusion", "split": "train", "loss": 0.5, "dice/ET": 0.75}]
    assert _csv_rows(tmp_path) == [(10, "fusion", "train", "loss", 0.5), (10, "fusion", "train", "dice/ET", 0.75)]
    assert _scalars(tmp_path) == [("fusion/train/loss", 10, 0.5), ("fusion/train/dice/ET", 10, 0.75)]
    writer.close()


def test_truncate_drops_later_steps_of_the_phase_and_all_later_phases(tmp_path):
    _write_two_phases(tmp_path)
    (path,) = tmp_path.glob("tensorboard/fusion/events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[:-5])  # the last event, half written
    with closing(MetricWriter(tmp_path)) as writer:
        writer.truncate("fusion", 1)
        assert [(tag, step) for tag, step, _ in _scalars(tmp_path) if "fusion" in tag] == [("fusion/train/loss", 1)]
        writer.truncate("fusion", 0)
        left = [(row["phase"], row["step"], row["split"]) for row in read_metrics(tmp_path)]
        assert left == [*(("transition", step, "train") for step in (1, 2, 3)), ("transition", 3, "val")]
        assert {tag.split("/")[0] for tag, _, _ in _scalars(tmp_path)} == {"transition"}
    _written(tmp_path, (1, "fusion", "train", {"loss": 0.1}))
    with closing(MetricWriter(tmp_path)) as writer:
        writer.truncate("transition", 2, later_phases=("fusion",))
        writer.write(3, "transition", "train", {"loss": 9.0})
    rows, left = read_metrics(tmp_path), [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert [(r["phase"], r["step"], r["loss"]) for r in rows] == [("transition", *one) for one in left]
    assert _csv_rows(tmp_path) == _long(rows)
    losses = [one for one in _scalars(tmp_path) if one[0].endswith("loss")]
    assert losses == [("transition/train/loss", *one) for one in left]


def test_a_half_written_last_line_is_repaired_and_a_broken_one_in_the_middle_refused(tmp_path):
    assert read_metrics(tmp_path) == []
    _write_two_phases(tmp_path)
    whole = read_metrics(tmp_path)
    assert _csv_rows(tmp_path) == _long(whole)
    assert len(_csv_rows(tmp_path)) == 9
    for name, half in (("metrics.jsonl", '{"step": 3, "phase": "fus'), ("metrics.csv", "3,fusion,tr")):
        (tmp_path / name).write_text((tmp_path / name).read_text() + half)
    assert read_metrics(tmp_path) == whole
    _written(tmp_path, (3, "fusion", "train", {"loss": 0.3}))
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 3, 1, 2, 3]
    assert _csv_rows(tmp_path) == _long(read_metrics(tmp_path))
    # Two writers within one second keep both event files.
    assert [step for tag, step, _ in _scalars(tmp_path) if tag == "fusion/train/loss"] == [1, 2, 3]
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("\n", "\n{broken\n", 1))
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2"):
        read_metrics(tmp_path)


def test_numbers_that_are_not_finite_survive_in_strict_json(tmp_path):
    _written(tmp_path, (1, "fusion", "val", {"hd95_mm": math.nan, "worst_mm": math.inf, "gain": -math.inf}))
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["hd95_mm"])
    assert (row["worst_mm"], row["gain"]) == (math.inf, -math.inf)
    MetricWriter(tmp_path).close()  # the repair at opening keeps them too
    assert math.isnan(read_metrics(tmp_path)[0]["hd95_mm"])
    assert math.isnan(_csv_rows(tmp_path)[0][-1])


@pytest.mark.parametrize(("split", "name"), [("test", "loss"), ("train", "step")])
def test_a_wrong_split_or_name_is_refused_before_anything_is_written(tmp_path, split, name):
    with pytest.raises((ValueError, TypeError), match="split|column"):
        _written(tmp_path, (1, "fusion", split, {name: 1.0}))
    assert read_metrics(tmp_path) == []
    assert _csv_rows(tmp_path) == []


def test_writers_start_without_jax():
    code = "import sys, jaxfuse.engine.run_folder.metric_writer; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
