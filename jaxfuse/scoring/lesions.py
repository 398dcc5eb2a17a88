"""The table of single lesions, beside the scores of regions: lesions.csv of protocols that tell lesions apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxfuse.metrics.lesions import LesionScores
from jaxfuse.metrics.protocols import DICE, HD95

Row = Mapping[str, Any]

LESIONS = "lesions.csv"
FOUND, MISSED, FALSE = "found", "missed", "false alarm"
COLUMNS = (
    *("case", "output", "region", "lesion", "outcome", "volume_mm3", "found_mm3", DICE.name, HD95.name),
    *("x_mm", "y_mm", "z_mm"),
)


def lesion_rows(
    case: str, output: str, regions: Mapping[str, LesionScores], affine: Float[np.ndarray, "4 4"]
) -> list[Row]:
    """Returns a row for each lesion of the truth that counts, and behind those of a region one for each false alarm.

    They are numbered within their region. The volume of a false alarm is that of the component; it was found with Dice
    0 and the distance of a miss. Centers are in the world of `affine`, which the center's indices go through.
    """
    rows = []
    for region, found in regions.items():
        listed = [
            (MISSED if one.missed else FOUND, one.volume_mm3, one.found_mm3, one.dice, one.hd95_mm, one.center)
            for one in found.lesions
        ]
        listed += [
            (FALSE, one.volume_mm3, one.volume_mm3, 0.0, found.miss_mm, one.center) for one in found.false_alarms
        ]
        for number, (*values, center) in enumerate(listed, start=1):
            world = (affine[:3, :3] @ center + affine[:3, 3]).tolist()
            rows.append(dict(zip(COLUMNS, (case, output, region, number, *values, *world), strict=True)))
    return rows
