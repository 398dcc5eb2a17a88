"""Rows in programs of others: by made ones that hold what they are told, and by their packages where installed."""

import json
import sys
from contextlib import closing
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.tracking import tracker
from jaxfuse.engine.tracking.tracker import FOLDER, open_trackers
from jaxfuse.errors import OutputError

CONFIG = {"name": "cmff", "seed": 1}


class Told:
    """A tracker that holds its rows."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, step, phase, split, values):
        self.rows.append((step, phase, split, dict(values)))

    def close(self):
        self.closed += 1


def test_a_row_goes_to_the_files_and_then_to_every_tracker(tmp_path):
    first, second = Told(), Told()
    with closing(MetricWriter(tmp_path, [first, second])) as writer:
        writer.write(3, "fusion", "train", {"loss": 0.5})
    assert first.rows == second.rows == [(3, "fusion", "train", {"loss": 0.5})]
    assert (first.closed, second.closed) == (1, 1)
    assert len(read_metrics(tmp_path)) == 1


class Failing(Told):
    """A tracker that cannot be closed."""

    def close(self):
        super().close()
        raise OutputError("wandb takes no more numbers")


def test_a_tracker_that_fails_in_the_end_leaves_no_other_open_and_hides_nothing(tmp_path):
    first, second = Failing(), Told()
    with pytest.raises(OutputError, match="no more numbers"), closing(MetricWriter(tmp_path, [first, second])):
        pass
    assert (first.closed, second.closed) == (1, 1)
    failing, other = Failing(), Told()
    with pytest.raises(KeyError, match="what stopped the run"), closing(MetricWriter(tmp_path, [failing, other])):
        raise KeyError("what stopped the run")
    assert (failing.closed, other.closed) == (1, 1)


def _module(monkeypatch, name, **content):
    made = ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)
    own = f"jaxfuse.engine.tracking.{name.partition('.')[0]}_rows"
    monkeypatch.delitem(sys.modules, own, raising=False)


class MadeClient:
    """MLflow's client as far as it is called."""

    made: ClassVar[list] = []

    def __init__(self, uri):
        self.uri, self.runs, self.batches, self.ended, self.documents = uri, [], [], [], {}
        self.made.append(self)

    def get_experiment_by_name(self, name):
        return None

    def update_run(self, run, status):
        self.ended.append((run, status))

    def create_experiment(self, name, artifact_location):
        self.files = artifact_location
        return f"id of {name}"

    def create_run(self, experiment, run_name):
        self.runs.append((experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_dict(self, run, document, name):
        self.documents[name] = json.loads(json.dumps(document))

    def log_batch(self, run, metrics):
        self.batches.append((run, [(one.key, one.value, one.step) for one in metrics]))

    def set_terminated(self, run):
        self.ended.append(run)


def test_mlflow_has_a_run_below_the_workdir_and_goes_on_with_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def metric(key, value, timestamp, step):
        return SimpleNamespace(key=key, value=value, step=step)

    MadeClient.made.clear()
    _module(monkeypatch, "mlflow.entities", Metric=metric)
    _module(monkeypatch, "mlflow", MlflowClient=MadeClient)
    for step in (1, 2):
        (rows,) = open_trackers(["mlflow"], tmp_path / "run", CONFIG)
        rows.write(step, "fusion", "val", {"dice": 0.5, "hd95_mm": float("nan")})
        rows.close()
    first, second = MadeClient.made
    folder = tmp_path / "run" / FOLDER
    assert (first.uri, first.files) == (f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlflow").as_uri())
    assert (first.runs, second.runs) == ([("id of cmff", "run")], [])
    assert first.documents == {"config.json": CONFIG}
    assert second.batches == [("r1", [("fusion/val/dice", 0.5, 2)])]
    assert second.ended == [("r1", "RUNNING"), "r1"]


def test_wandb_is_offline_and_counts_the_steps_of_each_phase(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    calls, logged, axes = [], [], []
    run = SimpleNamespace(
        log=logged.append, finish=lambda: calls.append("end"), define_metric=lambda *a, **k: axes.append((a, k))
    )
    _module(monkeypatch, "wandb", init=lambda **given: calls.append(given) or run, Settings=SimpleNamespace)
    for _ in range(2):
        (rows,) = open_trackers(["wandb"], tmp_path / "run", CONFIG)
        rows.write(4, "fusion", "train", {"loss": 0.25})
        rows.close()
    first, end, second, _ = calls
    told = {name: first[name] for name in ("mode", "project", "name", "config")}
    assert (told, end) == ({"mode": "offline", "project": "cmff", "name": "run", "config": CONFIG}, "end")
    assert first["id"] == second["id"]
    assert logged[0] == {"fusion/step": 4, "fusion/train/loss": 0.25}
    assert (("fusion/*",), {"step_metric": "fusion/step"}) in axes


@pytest.mark.parametrize("name", sorted(tracker.TRACKERS))
def test_the_package_itself_takes_rows_without_a_network(monkeypatch, tmp_path, name):
    for needed in {"mlflow": ("mlflow", "sqlalchemy"), "wandb": ("wandb",)}[name]:
        pytest.importorskip(needed, reason=f"{needed} comes with the extra {name}")
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    for step in (1, 2):
        (rows,) = open_trackers([name], tmp_path / "run", CONFIG)
        rows.write(step, "fusion", "train", {"loss": 0.5})
        rows.close()
    assert [path for path in (tmp_path / "run" / FOLDER).rglob("*") if path.is_file()]
