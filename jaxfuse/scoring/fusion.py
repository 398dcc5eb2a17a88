"""The protocol fusion: fused PNG images against the images that they were made of (`jaxfuse.metrics.fusion`).

Beside every fused image stand the mean and the maximum of its sources, which need no network. Each of the three is
scored as it is and with its levels stretched to the whole range, as some papers do before they score. Color images,
sources and fused ones alike, are judged by their luminance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxfuse.data.color import gray_content
from jaxfuse.errors import UserError
from jaxfuse.io.png import read_png
from jaxfuse.metrics.fusion import (
    FEWEST_SOURCES,
    METRICS,
    MOST_SOURCES,
    luminance,
    score_fused,
    stretch,
    summarize_fused,
)
from jaxfuse.scoring.groups import group_scores
from jaxfuse.scoring.pairing import find_pictures, listing, pair
from jaxfuse.scoring.protocol import Call, Option, Protocol, open_scores, score_each, write_scores

OUTPUT = "fused"


def score_fusion(
    pred: Path,
    ref: Path,
    out: Path,
    call: Call,
    *,
    sources: Sequence[str] | None,
) -> dict[str, Any]:
    """Scores the PNG files of `pred`, writes cases.csv and summary.json to `out` and returns the summary.

    Args:
        ref: holds one folder per source, with files named as in `pred`.
        sources: which of these folders, 2 to 4; None takes all.

    Raises:
        UserError: folders or files are missing; or of a single case they are damaged, of unequal size, or too small
            for a metric.
        CasesLeftOut: this is so of all cases; where it is of some, they stand in the summary.
    """
    predictions = find_pictures(pred)
    folders = _source_folders(ref, sources)
    files = {name: find_pictures(folder) for name, folder in folders.items()}
    whole = _with_every_source(files, folders, allow_missing=call.allow_missing)
    paired = pair(predictions, whole, allow_missing=call.allow_missing)
    call.groups.check(paired.cases)
    shown = (path for of_source in files.values() for path in of_source.values())
    outputs = open_scores(out, (pred, predictions.values()), (ref, shown), overwrite=call.overwrite)

    of_case = {case: [files[name][case] for name in folders] for case in paired.cases}
    jobs = {case: partial(_score_case, case, predictions[case], paths) for case, paths in of_case.items()}
    found, refused = score_each(jobs, call.processes)
    rows = [row for rows in found.values() for row in rows]
    summary = {
        "kind": "fusion",
        "primary": OUTPUT,
        "protocol": "fusion",
        "cases": len(paired.cases) - len(refused),
        "sources": list(folders),
        "outputs": summarize_fused(rows),
        "groups": group_scores([row for row in rows if row["output"] == OUTPUT], call.groups),
        **paired.left_out(),
    }
    return write_scores(outputs, rows, summary, refused)


def _source_folders(ref: Path, asked: Sequence[str] | None) -> dict[str, Path]:
    """The folder of each source by its name, in the order asked, or sorted."""
    if not ref.is_dir():
        raise UserError(f"{ref} is not a folder; give the folder that holds one folder of PNG images per source")
    there = {path.name: path for path in sorted(ref.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    bounds = f"{FEWEST_SOURCES} to {MOST_SOURCES}"
    if asked is None:
        if not FEWEST_SOURCES <= len(there) <= MOST_SOURCES:
            raise UserError(
                f"{ref} holds {len(there)} folders ({listing(tuple(there)) or 'none'}); name {bounds} of its folders, "
                "one per source, with --sources"
            )
        return there
    absent = [name for name in asked if name not in there]
    if absent:
        raise UserError(
            f"{ref} has no folder {', '.join(absent)}; --sources names some of {', '.join(there) or 'none'}"
        )
    if not FEWEST_SOURCES <= len(set(asked)) == len(asked) <= MOST_SOURCES:
        raise UserError(f"--sources names {', '.join(asked) or 'nothing'}; name {bounds} different folders")
    return {name: there[name] for name in asked}


def _with_every_source(
    files: Mapping[str, Mapping[str, Path]], folders: Mapping[str, Path], *, allow_missing: bool
) -> set[str]:
    """The ids that every source has; an id that only some have is refused unless `allow_missing`."""
    known = set().union(*files.values())
    whole = set(known).intersection(*files.values())
    if known != whole and not allow_missing:
        case = min(known - whole)
        lacking = next(name for name, found in files.items() if case not in found)
        raise UserError(
            f"case {case} has no image in {folders[lacking]}; add {case}.png, or pass --allow_missing to leave out the "
            "cases that lack a source"
        )
    return whole


def _score_case(case: str, fused: Path, sources: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per image: scores by the names of `metrics.fusion.METRICS`."""
    levels, grays = _levels(fused), [_levels(path) for path in sources]
    try:
        for path, gray in zip(sources, grays, strict=True):
            if gray.shape != levels.shape:
                told = " and ".join("{} x {}".format(*image.shape) for image in (levels, gray))
                raise UserError(f"{fused} and {path} are of {told} pixels; they must show one grid of pixels")
        images = {OUTPUT: levels, "mean": np.mean(grays, axis=0), "maximum": np.max(grays, axis=0)}
        rows = []
        for name, image in images.items():
            for output, shown in ((name, image), (f"{name}, stretched", stretch(image))):
                rows.append({"case": case, "output": output, **score_fused(shown, grays)})
    except UserError as error:
        raise UserError(f"case {case}: {error}") from error
    return rows


def _levels(path: Path) -> Float64[np.ndarray, "h w"]:
    pixels = read_png(path)
    gray = gray_content(pixels)
    return luminance(pixels) if gray is None else gray.astype(np.float64)


_SOURCES = Option(
    "sources", "fusion: the folders of --ref that were fused, such as t1ce,flair; default all.", several=True
)
PROTOCOLS = (
    Protocol(
        "fusion", "fusion", score_fusion, (_SOURCES,), "fused images, against their sources", OUTPUT, METRICS, METRICS
    ),
)
