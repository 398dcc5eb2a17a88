"""Scores predicted label volumes against references, without any training configuration.

    python -m jaxfuse.evaluate --pred DIR --ref DIR --protocol brats --out DIR

DIR of --pred holds one file per case, CASE.nii.gz. DIR of --ref holds CASE.nii.gz, CASE_seg.nii.gz or CASE-seg.nii.gz,
or the case folders of a BraTS download, with or without their images. Writes cases.csv (one row per case and region)
and summary.json to --out and prints the table. Distances are in mm, by the voxel size of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import Progress

from jaxfuse import cli
from jaxfuse.data.cases import encode_label, label_problem, whole_values
from jaxfuse.data.sources.brats import LAYOUTS, detect_layout, survey
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, geometry_mismatch, read_volume
from jaxfuse.io.tables import render_segmentation, write_json, write_rows
from jaxfuse.labels import SCHEMES, LabelScheme, label_scheme
from jaxfuse.metrics.brats import one_empty_mm, score_case, summary_document

OUTPUT = "prediction"
_EXTENSIONS = (".nii.gz", ".nii")
_LABEL_SUFFIXES = ("_seg", "-seg")


@dataclass(frozen=True)
class Pairs:
    """Case id -> (prediction, reference), and the case ids that have only one of the two."""

    files: Mapping[str, tuple[Path, Path]]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]


def define_flags() -> None:
    """The options of the command; not defined on import, so that commands can be imported side by side."""
    flags.DEFINE_string("pred", None, "Folder of predictions, one CASE.nii.gz each.")
    flags.DEFINE_string("ref", None, "Folder of reference labels: flat, or case folders as in a BraTS download.")
    flags.DEFINE_enum("protocol", None, ["brats"], "The metrics, regions and rules for empty masks.")
    flags.DEFINE_string("out", None, "Folder for cases.csv and summary.json.")
    flags.DEFINE_string(
        "labels",
        None,
        f"What the label values of both folders mean: {', '.join(SCHEMES)}. "
        "Case folders imply it by their naming (brats unless of 2023).",
    )
    flags.DEFINE_string(
        "one_empty",
        "penalty",
        "HD95 where exactly one of prediction and reference is empty: penalty (373.13 mm, from 2023 on 374), "
        "nan (left out of the mean, and counted) or a number of mm.",
    )
    flags.DEFINE_bool("allow_missing", False, "Score the cases that have both files even where others lack one.")


def main(argv: Sequence[str]) -> int:
    """Runs the command on the parsed flags and returns its exit code."""
    if len(argv) > 1:
        raise UserError(f"{' '.join(argv[1:])!r} is not an option; give folders as --pred DIR --ref DIR --out DIR")
    options = flags.FLAGS
    for name in ("pred", "ref", "protocol", "out"):
        if getattr(options, name) is None:
            raise UserError(f"--{name} is missing; give --pred DIR --ref DIR --protocol brats --out DIR")
    summary = evaluate(
        Path(options.pred),
        Path(options.ref),
        Path(options.out),
        labels=options.labels,
        one_empty=options.one_empty,
        allow_missing=options.allow_missing,
    )
    print(render_segmentation(summary))
    print(f"Label scheme: {summary['labels']}.")
    for key, lacks in (("without_prediction", "prediction"), ("without_reference", "reference")):
        if summary[key]:
            print(f"Left out, for they have no {lacks}: {_listing(summary[key])}.")
    print(f"Written: {Path(options.out) / 'cases.csv'} and {Path(options.out) / 'summary.json'}")
    return 0


def evaluate(
    pred: Path, ref: Path, out: Path, *, labels: str | None, one_empty: str, allow_missing: bool
) -> dict[str, Any]:
    """Scores the folder `pred` against `ref` by the BraTS protocol, writes both files and returns the summary.

    Args:
        labels: name of the label scheme of both folders; None takes the one that the references' layout implies.
        one_empty: "penalty", "nan" or a number of mm; see `metrics.brats.one_empty_mm`.
        allow_missing: leave out, and list in the summary, cases that lack a prediction or a reference.
    """
    predictions = _flat_files(pred)
    references, implied = find_references(ref)
    name = labels or implied
    if name is None:
        raise UserError(
            f"the label files in {ref} do not tell what their values mean; name it with --labels ({', '.join(SCHEMES)})"
        )
    scheme = label_scheme(name)
    penalty_mm = one_empty_mm(one_empty, scheme)
    pairs = pair(predictions, references, allow_missing=allow_missing)
    _make_folder(out)
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for case, (prediction, reference) in progress.track(pairs.files.items(), description="Scoring cases"):
            rows += _score_files(case, prediction, reference, scheme, penalty_mm)
    summary = summary_document(rows, primary=OUTPUT, one_empty=penalty_mm) | {
        "protocol": "brats",
        "labels": scheme.name,
        "without_prediction": list(pairs.without_prediction),
        "without_reference": list(pairs.without_reference),
    }
    write_rows(out / "cases.csv", rows)
    write_json(out / "summary.json", summary)
    return summary


def find_references(folder: Path) -> tuple[dict[str, Path], str | None]:
    """Case id -> label file, and the label scheme that the layout implies (None for a flat folder).

    In a flat folder where some names end in `_seg` or `-seg` only those are labels: the images lie beside them.
    """
    if folder.is_dir() and not _volumes(folder):
        layout = detect_layout(folder)
        found = {case.id: case.label for case in survey(folder, (), layout=layout)}
        return {case: label for case, label in found.items() if label is not None}, LAYOUTS[layout].scheme
    return _flat_files(folder, only_marked=any(_stem(p).endswith(_LABEL_SUFFIXES) for p in _volumes(folder))), None


def pair(predictions: Mapping[str, Path], references: Mapping[str, Path], *, allow_missing: bool) -> Pairs:
    """Pairs by case id, in sorted order; cases without a partner are refused unless `allow_missing`."""
    both = sorted(predictions.keys() & references.keys())
    without_reference = tuple(sorted(predictions.keys() - references.keys()))
    without_prediction = tuple(sorted(references.keys() - predictions.keys()))
    faults = []
    if without_reference:
        faults.append(f"no reference for the prediction of {_listing(without_reference)}")
    if without_prediction:
        faults.append(f"no prediction for the reference of {_listing(without_prediction)}")
    if not both:
        raise UserError(f"there is {' and '.join(faults)}; name the files of one case alike in both folders")
    if faults and not allow_missing:
        raise UserError(
            f"there is {' and '.join(faults)}; add the files, or pass --allow_missing to leave these cases out"
        )
    return Pairs({case: (predictions[case], references[case]) for case in both}, without_reference, without_prediction)


def _score_files(
    case: str, prediction: Path, reference: Path, scheme: LabelScheme, penalty_mm: float
) -> list[dict[str, Any]]:
    pred, truth = read_volume(prediction), read_volume(reference)
    mismatch = geometry_mismatch(pred, truth)
    if mismatch:
        raise UserError(
            f"prediction and reference of case {case} lie on different grids: {mismatch}; resample the prediction"
        )
    return score_case(
        _class_indices("prediction", pred, scheme),
        _class_indices("reference", truth, scheme),
        scheme,
        spacing_mm=truth.spacing_mm,
        one_empty=penalty_mm,
        case=case,
        output=OUTPUT,
    )


def _class_indices(role: str, volume: Volume, scheme: LabelScheme) -> UInt8[np.ndarray, "d h w"]:
    values = whole_values(volume)
    problem = label_problem(volume.path, np.unique(values), scheme)
    if problem:
        raise UserError(f"{role} {problem}")
    return encode_label(values, scheme)


def _flat_files(folder: Path, *, only_marked: bool = False) -> dict[str, Path]:
    """Case id -> NIfTI file of a folder; the case id is the name without extension and without a label suffix."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the label volumes")
    files: dict[str, Path] = {}
    for path in _volumes(folder):
        stem = _stem(path)
        if only_marked and not stem.endswith(_LABEL_SUFFIXES):
            continue
        case = stem[: -len(_LABEL_SUFFIXES[0])] if stem.endswith(_LABEL_SUFFIXES) else stem
        if case in files:
            raise UserError(f"case {case} has two files, {files[case]} and {path.name}; keep one of them")
        files[case] = path
    if not files:
        raise UserError(f"{folder} holds no .nii.gz or .nii file; give the folder that holds the label volumes")
    return files


def _volumes(folder: Path) -> list[Path]:
    """NIfTI files directly in the folder, sorted by name; hidden ones are left to their owners."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(_EXTENSIONS) and not p.name.startswith("."))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _listing(cases: Sequence[str]) -> str:
    shown = ", ".join(cases[:5])
    return f"{shown} and {len(cases) - 5} more" if len(cases) > 5 else shown


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}); choose another --out") from error


if __name__ == "__main__":
    define_flags()
    cli.run(main)
