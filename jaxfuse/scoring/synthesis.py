"""The protocol synthesis: synthesized volumes against the real ones (`jaxfuse.metrics.synthesis`).

Both volumes of a case are scaled by the range of the real one, as it is stored: from its background (without one, its
least value) at 0 to its greatest value at 1. Nothing is clipped: values beyond that range are errors like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxfuse.data.brain import find_brain, within
from jaxfuse.data.cases import Image, intensity_problem
from jaxfuse.data.intensities import whole_range
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, geometry_mismatch, read_volume
from jaxfuse.metrics.synthesis import (
    DEFINITIONS,
    METRICS,
    OFFICIAL,
    OFFICIAL_OF_VOLUMES,
    official_scores,
    score_synthesized,
    summarize_synthesized,
)
from jaxfuse.scoring.groups import group_scores
from jaxfuse.scoring.pairing import find_images, pair
from jaxfuse.scoring.protocol import Call, Option, Protocol, open_scores, score_each, write_scores

OUTPUT = "synthesized"
OFFICIAL_CODE = "official"
# Along x and along y: first voxel and one past the last.
Window = tuple[tuple[int, int], ...]
_WINDOW = re.compile(r"(\d+):(\d+),(\d+):(\d+)")
_SCALING = (
    "both volumes by the range of the real one, from its background, or without one its least value, at 0 to its "
    "greatest at 1; nothing is clipped"
)


def score_synthesis(
    pred: Path,
    ref: Path,
    out: Path,
    call: Call,
    *,
    target: str | None,
    emulate: str | None,
    window: str | None,
) -> dict[str, Any]:
    """Scores the volumes of `pred` against those of `ref`, writes cases.csv and summary.json to `out`.

    Args:
        pred: one volume per case, CASE.nii.gz or, with the target "flair", CASE_flair.nii.gz.
        ref: holds files named as in `pred`; with `target` a data set of any layout, with this modality.
        emulate: "official" adds what the public code of Hi-Net computes.
        window: "x0:x1,y0:y1", voxels of the canonical axes that are scored; None: the whole volume.

    Returns:
        The summary.

    Raises:
        UserError: folders or files are missing; or of a single case a file is damaged, grids differ, a volume holds
            nothing to scale by, or the window leaves it.
        CasesLeftOut: this is so of all cases; where it is of some, they stand in the summary.
    """
    cut = _window(window)
    # `predict` gives this ending to volumes that it synthesizes.
    predictions = find_images(pred, ending=f"_{target}" if target else "")
    references = _references(ref, target)
    paired = pair(predictions, references, allow_missing=call.allow_missing)
    call.groups.check(paired.cases)
    reals = (image.path for image in references.values())
    outputs = open_scores(out, (pred, predictions.values()), (ref, reals), overwrite=call.overwrite)
    jobs = {
        case: partial(_score_files, case, references[case], predictions[case], cut, emulate) for case in paired.cases
    }
    found, refused = score_each(jobs, call.processes)
    rows, below = [row for row, _ in found.values()], sum(below for _, below in found.values())
    official = OFFICIAL_OF_VOLUMES if emulate else {}
    summary = {
        "kind": "synthesis",
        "primary": OUTPUT,
        "protocol": "synthesis",
        "cases": len(rows),
        "target": target or "",
        "definitions": {**DEFINITIONS, **official, "Scaling": _SCALING, **_extent(cut), **_told_below(below)},
        "outputs": summarize_synthesized(rows),
        "groups": group_scores(rows, call.groups),
        **paired.left_out(),
    }
    return write_scores(outputs, rows, summary, refused)


def _score_files(
    case: str, reference: Image, prediction: Path, window: Window, emulate: str | None
) -> tuple[dict[str, Any], bool]:
    """Returns the row of a case, and whether the volume was made with values below the real dark end."""
    real, made = _scaled(case, reference, prediction, window)
    return _row(case, real, made, emulate), bool(made.min() < 0)


def _row(
    case: str, real: Float64[np.ndarray, "d h w"], made: Float64[np.ndarray, "d h w"], emulate: str | None
) -> dict[str, Any]:
    try:
        official = official_scores(real, made) if emulate else {}
        return {"case": case, "output": OUTPUT, **score_synthesized(real, made), **official}
    except UserError as error:
        raise UserError(f"case {case}: {error}") from error


def _scaled(
    case: str, reference: Image, prediction: Path, window: Window
) -> tuple[Float64[np.ndarray, "d h w"], Float64[np.ndarray, "d h w"]]:
    """The real and the made volume, scaled by the range of all of the former, within the window."""
    real, made = reference.read(), read_volume(prediction)
    problem = intensity_problem(real) or intensity_problem(made)
    if problem:
        raise UserError(f"case {case}: {problem}")
    mismatch = geometry_mismatch(made, real)
    if mismatch:
        raise UserError(f"prediction and reference of case {case} do not fit: {mismatch}")
    if (value := float(real.array.min())) == real.array.max():
        raise UserError(
            f"case {case}: {reference.path} is {value:g} everywhere, so that there is no range to scale by; leave the "
            "case out"
        )
    brain = find_brain(real.array[..., None])
    (background,) = brain.backgrounds
    (low, _), (high, _) = whole_range(real.array, background)
    box = _box(case, real, window)
    first, second = ((volume.array[box].astype(np.float64) - low) / (high - low) for volume in (real, made))
    # Noise around the head is background: slices of it alone are blank.
    return (within(first, brain.mask[box]) if background and background.noisy else first), second


def _references(ref: Path, target: str | None) -> dict[str, Image]:
    """Case id -> real volume: the files of a folder, or the target of those cases of a data set that have one."""
    if target is None:
        try:
            return {case: Image(path) for case, path in find_images(ref).items()}
        except UserError as error:
            raise UserError(f"{error}; of a data set, name the modality with --target") from error
    found = volume_root(ref).survey((target,))
    return {case.id: case.images[target] for case in found if target in case.images}


def _window(text: str | None) -> Window:
    if text is None:
        return ()
    numbers = _WINDOW.fullmatch(text)
    if numbers is None:
        raise UserError(f"--window is {text!r}; give the voxels along x and y, such as 40:200,20:200")
    x0, x1, y0, y1 = map(int, numbers.groups())
    if x0 >= x1 or y0 >= y1:
        raise UserError(f"--window is {text!r}, which holds no voxel; give first:end, the end beyond the first")
    return (x0, x1), (y0, y1)


def _box(case: str, volume: Volume, window: Window) -> tuple[slice, ...]:
    for (first, end), side, axis in zip(window, volume.array.shape, "xy", strict=False):
        if end > side:
            raise UserError(
                f"--window has {first}:{end} along {axis}, but case {case} only {side} voxels; make it smaller"
            )
    return tuple(slice(*one) for one in window)


def _extent(window: Window) -> dict[str, str]:
    if not window:
        return {}
    along: Sequence[str] = [f"{axis} {first}:{end}" for axis, (first, end) in zip("xy", window, strict=True)]
    return {"Window": f"voxels {' and '.join(along)} of the canonical axes; the scaling is that of the whole volume"}


def _told_below(cases: int) -> Mapping[str, str]:
    """Warns of values below 0: PSNR takes the greatest value for its range, and they lie outside of it."""
    return {"Below the range": f"{cases} cases were made with values below the real dark end"} if cases else {}


_OPTIONS = (
    Option("target", "synthesis: the modality that was synthesized, such as flair, where --ref holds a data set."),
    Option("emulate", "synthesis: adds the metrics as Hi-Net's public code has them.", choices=(OFFICIAL_CODE,)),
    Option("window", "synthesis: the voxels to score along x and y, such as 40:200,20:200; default: all."),
)
PROTOCOLS = (
    Protocol(
        "synthesis",
        "synthesis",
        score_synthesis,
        _OPTIONS,
        f"synthesized volumes; {', '.join(metric.title for metric in METRICS)}",
        OUTPUT,
        (*METRICS, *OFFICIAL),
        METRICS,
    ),
)
