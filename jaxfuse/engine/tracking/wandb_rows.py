"""Rows of metrics in Weights & Biases: files below the workdir for `wandb sync`, unless WANDB_MODE is online."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, SupportsFloat


class WandbRows:
    """One run of Weights & Biases, with a metric `<phase>/<split>/<name>` over `<phase>/step` for each number.

    Attributes:
        run: the run that is being written.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self._phases: set[str] = set()

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        """Writes the numbers of a row. Every phase counts its own steps."""
        if phase not in self._phases:
            self._phases.add(phase)
            self.run.define_metric(f"{phase}/step")
            self.run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
        numbers = {f"{phase}/{split}/{name}": float(value) for name, value in values.items()}
        self.run.log({f"{phase}/step": step, **numbers})

    def close(self) -> None:
        """Ends the run."""
        self.run.finish()


def open_rows(folder: Path, config: Mapping[str, Any]) -> WandbRows:
    """Goes on with the run whose id stands in the folder, or begins one, named as the workdir, with the config."""
    # An extra: imported where it is asked for.
    import wandb  # pyright: ignore[reportMissingImports]

    noted = folder / "wandb_run"
    if not noted.is_file():
        noted.write_text(secrets.token_hex(4), encoding="utf-8")
    run = wandb.init(
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        project=os.environ.get("WANDB_PROJECT") or str(config.get("name") or "jaxfuse"),
        name=folder.parent.name,
        id=noted.read_text(encoding="utf-8"),
        resume="allow",
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
    return WandbRows(run)
