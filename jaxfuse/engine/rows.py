"""The rows of a table side by side: this run's label maps beside those of other runs on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfuse.data.preprocess import PreparedCase
from jaxfuse.io.tables import read_json
from jaxfuse.labels import LabelScheme
from jaxfuse.report import figures
from jaxfuse.report.contours import overlay_of


def draw_rows(workdir: Path, related: Sequence[Path], cases: Sequence[PreparedCase], scheme: LabelScheme) -> None:
    """Draws `figures/rows/<case>.png` for the cases whose label maps every run kept; nothing for a run alone."""
    mine = read_json(workdir / "dataset.json")["fingerprint"]
    runs = [workdir, *(run for run in related if read_json(run / "dataset.json").get("fingerprint") == mine)]
    maps = {name: kept for run in runs for name, kept in _kept_maps(run)}
    if len(maps) < 2:
        return
    folder = workdir / "figures" / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        shown = {name: kept[case.id] for name, kept in maps.items() if case.id in kept}
        if len(shown) < 2 or case.label is None:
            continue
        figures.comparison(
            folder / f"{case.id}.png",
            image=np.asarray(case.image[..., -1]),
            modality=case.facts.modalities[-1],
            truth=np.asarray(case.label),
            predictions=shown,
            classes=scheme.classes,
            title=f"Rows trained so far: {case.id}",
            spacing_mm=case.facts.spacing_mm,
            overlay=overlay_of(scheme),
        )


def _kept_maps(run: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(row and folder, case -> label map) of a run's result, if it has one yet."""
    config = read_json(run / "config.json")
    result = config["result"]
    path = run / "results" / ("result" if len(result) > 1 else result[0]) / "labels.npz"
    if not path.is_file():
        return []
    with np.load(path) as archive:
        return [(f"{config['row']} ({run.name})", {case: archive[case] for case in archive.files})]
