"""Rows of metrics in MLflow: below the workdir, or on the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, SupportsFloat

import mlflow  # pyright: ignore[reportMissingImports]  (an extra)
from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]


class MlflowRows:
    """One run of MLflow, with a metric `<phase>/<split>/<name>` for each number.

    Attributes:
        client: the client, which holds no state of the process.
        run: id of the run.
    """

    def __init__(self, client: Any, run: str) -> None:
        self.client, self.run = client, run

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Writes the numbers of a row; those that are not finite are left out, which servers refuse."""
        now = int(1000 * time.time())
        numbers = {f"{phase}/{split}/{name}": float(value) for name, value in values.items()}
        metrics = [Metric(name, value, now, step) for name, value in numbers.items() if math.isfinite(value)]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        """Ends the run."""
        self.client.set_terminated(self.run)


def open_rows(folder: Path, config: Mapping[str, Any]) -> MlflowRows:
    """Goes on with the run whose id stands in the folder, or begins one, named as the workdir, with the config."""
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").as_uri())
    noted = folder / "mlflow_run"
    if noted.is_file():
        return MlflowRows(client, noted.read_text(encoding="utf-8"))
    name = str(config.get("name") or "jaxfuse")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    run = client.create_run(experiment, run_name=folder.parent.name).info.run_id
    client.log_dict(run, dict(config), "config.json")
    noted.write_text(run, encoding="utf-8")
    return MlflowRows(client, run)
