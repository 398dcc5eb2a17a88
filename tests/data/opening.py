"""Settings of small data sets, for tests that open them."""

from pathlib import Path
from typing import Any

from jaxfuse.data.settings import Data, Phantom


def quiet(what: str, done: int, total: int, worked: int | None = None) -> None:
    """Takes a report of progress and says nothing."""


def settings(folder: Path, **changes: Any) -> Data:
    """Settings whose cache lies in `folder`; what a test does not name is what most recipes have."""
    given = {"source": "brats", "root": "", "layout": "", "labels": "", "modalities": ("t1", "flair")}
    given |= {"normalize": "brain", "val_fraction": 0.34, "split_seed": 0, "split": "", "cache": str(folder / "cache")}
    given["phantom"] = Phantom(cases=2, seed=0, shape=(36, 40, 30), spacing_mm=4.6)
    return Data(**(given | changes))
