"""The error of a translated image against the real one of the same subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxfuse.metrics.names import Metric
from jaxfuse.metrics.statistics import statistics_by_output

METRICS = (Metric("mae", "MAE", 4, False),)


def mean_absolute_error(real: Float[np.ndarray, "*space"], made: Float[np.ndarray, "*space"]) -> float:
    """Mean of the absolute differences, in the units of the images, at least 0."""
    return float(np.abs(made - real).mean(dtype=np.float64))


def summarize_translated(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Statistics over cases by image (the rows' "output") and metric."""
    return statistics_by_output(rows, METRICS)
