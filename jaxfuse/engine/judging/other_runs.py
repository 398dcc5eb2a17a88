"""Pictures of the rows of a table side by side: the results of this run beside those of others on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.io.tables import read_json
from jaxfuse.labels import IGNORED, LabelScheme
from jaxfuse.report import figures
from jaxfuse.report.contours import overlay_of
from jaxfuse.report.reported_run import on_same_data
from jaxfuse.report.synthesis import synthesis_panel

# Below a result's folder, by case: label maps, or a synthesized modality in [0, 1].
LABELS_FILE, SYNTHESIZED_FILE = "labels.npz", "synthesized.npz"
KEPT = 2  # cases whose maps or volumes stay


def draw_rows(workdir: Path, related: Sequence[Path], cases: Sequence[PreparedCase], scheme: LabelScheme) -> None:
    """Draws `figures/rows/<case>.png` for the cases whose label maps every run kept; nothing for a run alone."""
    runs = [workdir, *on_same_data(workdir, related)]
    maps = {name: kept for run in runs for name, kept in _kept(run, LABELS_FILE)}
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
            truth=np.where(np.asarray(case.label) == IGNORED, 0, case.label),
            predictions=shown,
            classes=scheme.classes,
            title=f"Rows trained so far: {case.id}",
            spacing_mm=case.facts.spacing_mm,
            overlay=overlay_of(scheme),
        )


def draw_synthesized(workdir: Path, related: Sequence[Path], cases: Sequence[PreparedCase]) -> None:
    """Draws `figures/rows/<case>.png` for runs that make the same modality as this one; nothing for a run alone.

    Shown are this run's sources, the images of all runs with their errors, and the truth.
    """
    pairs = _pairs(workdir)
    alike = [workdir, *(run for run in on_same_data(workdir, related) if _pairs(run)[-1:] == pairs[-1:])]
    volumes = {name: kept for run in alike for name, kept in _kept(run, SYNTHESIZED_FILE)}
    if len(volumes) < 2:
        return
    sources, target = pairs
    for case in cases:
        shown = {name: kept[case.id].astype(np.float32) for name, kept in volumes.items() if case.id in kept}
        if len(shown) < 2:
            continue
        image, modalities = np.asarray(case.image), case.facts.modalities
        synthesis_panel(
            workdir / "figures" / "rows" / f"{case.id}.png",
            sources={name: image[..., modalities.index(name)] for name in sources.split("+")},
            made=shown,
            truth=image[..., modalities.index(target)],
            target=target,
            title=f"Rows trained so far: {case.id}",
            spacing_mm=case.facts.spacing_mm,
            label=None if case.label is None else np.asarray(case.label),
        )


def _pairs(run: Path) -> list[str]:
    return read_json(run / "config.json").get("pairs", [])


def _kept(run: Path, name: str) -> list[tuple[str, dict[str, np.ndarray]]]:
    """(row and folder, case -> array) of a run's result, if it has one yet."""
    config = read_json(run / "config.json")
    result = config["result"]
    path = run / "results" / ("result" if len(result) > 1 else result[0]) / name
    if not path.is_file():
        return []
    with np.load(path) as archive:
        return [(f"{config['row']} ({run.name})", {case: archive[case] for case in archive.files})]
