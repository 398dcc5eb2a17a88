"""Single lesions on the page of an evaluation: worst first, as many as a browser sorts at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfuse.metrics.protocols import DICE, HD95, HD95_SURFELS
from jaxfuse.report.parts import Part, TextTable

MOST = 1000

Row = Mapping[str, Any]


def lesions_part(methods: Mapping[str, Sequence[Row]], *, most: int = MOST) -> list[Part]:
    """Returns the part of a page on lesions by method, from the rows of lesions.csv; none without lesions.

    Args:
        most: how many are shown; the worst, where there are more.
    """
    found = [(name, row) for name, rows in methods.items() for row in rows]
    if not found:
        return []
    # A miss and a false alarm have Dice 0: of these the largest lead.
    found.sort(key=lambda one: (one[1]["dice"], -one[1]["volume_mm3"]))
    several = len(methods) > 1
    rows = [_texts(name if several else "", row) for name, row in found[:most]]
    notes = [
        "Lesions of the truth that count, each with all that was found of it, and false alarms, the worst first. "
        "Centers are in mm of the reference's world."
    ]
    if len(found) > most:
        notes.append(f"Shown are {most} of {len(found)}; lesions.csv has all.")
    return [Part("Lesions", [TextTable(rows, 4 + several)], notes)]


def _texts(method: str, row: Row) -> dict[str, str]:
    return {
        "Case": row["case"],
        "Region": row["region"],
        **({"Method": method} if method else {}),
        "Lesion": str(row["lesion"]),
        "Outcome": row["outcome"],
        "Volume (mm³)": f"{row['volume_mm3']:.0f}",
        "Found (mm³)": f"{row['found_mm3']:.0f}",
        DICE.title: DICE.text(row["dice"]),
        HD95_SURFELS.title: HD95_SURFELS.text(row[HD95.name]),
        **{f"{name} (mm)": f"{row[f'{name}_mm']:.1f}" for name in "xyz"},
    }
