"""Rows of metrics in MLflow: below the workdir, or on the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, SupportsFloat


class MlflowRows:
    """One run of MLflow, with a metric `<phase>/<split>/<name>` for each number.

    Attributes:
        client: the client, which holds no state of the process.
        run: id of the run.
        metric: makes a number of a name, a value, a time in ms and a step.
    """

    def __init__(self, client: Any, run: str, metric: Callable[[str, float, int, int], Any]) -> None:
        self.client, self.run, self.metric = client, run, metric

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Writes the numbers of a row; those that are not finite are left out, which servers refuse."""
        now = int(1000 * time.time())
        numbers = {f"{phase}/{split}/{name}": float(value) for name, value in values.items()}
        metrics = [self.metric(name, value, now, step) for name, value in numbers.items() if math.isfinite(value)]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        """Ends the run."""
        self.client.set_terminated(self.run)


def open_rows(folder: Path, config: Mapping[str, Any]) -> MlflowRows:
    """Goes on with the run whose id stands in the folder, or begins one, named as the workdir, with the config."""
    # An extra: imported where it is asked for.
    import mlflow  # pyright: ignore[reportMissingImports]
    from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

    server = os.environ.get("MLFLOW_TRACKING_URI")
    client = mlflow.MlflowClient(server or f"sqlite:///{folder / 'mlflow.db'}")
    noted = folder / "mlflow_run"
    if noted.is_file():
        run = noted.read_text(encoding="utf-8")
        client.update_run(run, status="RUNNING")
        return MlflowRows(client, run, Metric)
    name = str(config.get("name") or "jaxfuse")
    found = client.get_experiment_by_name(name)
    files = None if server else (folder / "mlflow").as_uri()
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=files)
    run = client.create_run(experiment, run_name=folder.parent.name).info.run_id
    client.log_dict(run, dict(config), "config.json")
    noted.write_text(run, encoding="utf-8")
    return MlflowRows(client, run, Metric)
