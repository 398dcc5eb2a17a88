"""Contact sheets of a data set, drawn from its files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from jaxfuse.brats_fuse.contact_sheet import contact_sheet
from jaxfuse.brats_fuse.layout import Layout, Row
from jaxfuse.data.slices import AXIAL, CORONAL, SAGITTAL
from jaxfuse.io.png import read_png
from jaxfuse.labels import LabelScheme

PANELS = "panels"
# Left side of a picture, by the array axis that is cut.
_LEFT = {AXIAL: "the patient's right", CORONAL: "the patient's right", SAGITTAL: "the front"}


def draw_panels(
    out: Path, layout: Layout, rows: Sequence[Row], scheme: LabelScheme, *, count: int, maker: str
) -> list[Path]:
    """Draws at most `count` slices into the folder `panels`; `maker` names the run in the titles."""
    paths = []
    for row in chosen_rows(rows, count):
        paths.append(out / PANELS / f"{layout.name(row)}.png")
        contact_sheet(
            paths[-1],
            sources={modality: read_png(out / layout.source(row, modality)) for modality in layout.modalities},
            mask=read_png(out / layout.mask(row)) if row["has_label"] else None,
            fused={combo: read_png(out / layout.fused(row, combo)) for combo in layout.combos},
            classes=scheme.classes,
            title=f"{layout.name(row)} (split {row['split']}), fused by {maker}",
            note=f"gray levels 0 to 255; brain {row['brain_px']} pixels, marked {row['tumor_px']}; "
            f"{_LEFT[layout.axis]} is on the left",
        )
    return paths


def chosen_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """Chooses the slice with most tumor (then brain) of evenly spread cases, then the next slices of each case."""
    cases = [list(group) for _, group in groupby(rows, key=lambda row: row["case"])]
    ranked = [sorted(case, key=lambda row: (-row["tumor_px"], -row["brain_px"])) for case in cases]
    if count <= len(ranked):
        return [ranked[(2 * i + 1) * len(ranked) // (2 * count)][0] for i in range(count)]
    turns = (case[turn] for turn in range(max(map(len, ranked))) for case in ranked if turn < len(case))
    return [row for row, _ in zip(turns, range(count), strict=False)]
