"""Statistics of a metric over cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxfuse.metrics.names import Metric


def statistics(values: Float64[np.ndarray, " cases"]) -> dict[str, float]:
    """Mean, standard deviation (over n - 1), median and number of the finite values, and how many are not."""
    defined = values[np.isfinite(values)]
    n = defined.size
    return {
        "mean": float(defined.mean()) if n else math.nan,
        "std": float(defined.std(ddof=1)) if n > 1 else math.nan,
        "median": float(np.median(defined)) if n else math.nan,
        "n": n,
        "undefined": values.size - n,
    }


def statistics_by_output(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]
) -> dict[str, dict[str, dict[str, float]]]:
    """`statistics` over cases by image (the rows' "output") and metric, of those metrics that the rows have."""
    names = dict.fromkeys(row["output"] for row in rows)
    return {
        name: {
            metric.name: statistics(np.array([r[metric.name] for r in rows if r["output"] == name], np.float64))
            for metric in metrics
            if metric.name in rows[0]
        }
        for name in names
    }
