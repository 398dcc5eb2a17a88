"""Pairs of files of two folders: predictions and references of the same case, by its id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.sources.bids import label_maps, subject_folders
from jaxfuse.data.sources.dataset_json import LABELS_OF, NAME, read_dataset_json
from jaxfuse.data.sources.volumes import LABEL_SUFFIXES, volume_root
from jaxfuse.errors import UserError

_VOLUMES = (".nii.gz", ".nii", ".hdr")  # of an Analyze pair the header stands for both files


@dataclass(frozen=True)
class Paired:
    """Sorted ids of the cases that have a prediction and a reference, and of the cases that have only one of them."""

    cases: tuple[str, ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]

    def left_out(self) -> dict[str, list[str]]:
        """The entries of a summary for the cases that have no partner."""
        return {
            "without_prediction": list(self.without_prediction),
            "without_reference": list(self.without_reference),
        }


def pair(predictions: Iterable[str], references: Iterable[str], *, allow_missing: bool) -> Paired:
    """Pairs case ids; those without a partner are refused unless `allow_missing`, and so is a pairing of none."""
    predicted, referenced = set(predictions), set(references)
    both = tuple(sorted(predicted & referenced))
    without_reference = tuple(sorted(predicted - referenced))
    without_prediction = tuple(sorted(referenced - predicted))
    faults = []
    if without_reference:
        faults.append(f"no reference for the prediction of {listing(without_reference)}")
    if without_prediction:
        faults.append(f"no prediction for the reference of {listing(without_prediction)}")
    if not both:
        raise UserError(f"there is {' and '.join(faults)}; name the files of one case alike in both folders")
    if faults and not allow_missing:
        raise UserError(
            f"there is {' and '.join(faults)}; add the files, or pass --allow_missing to leave these cases out"
        )
    return Paired(both, without_reference, without_prediction)


def find_references(folder: Path) -> tuple[dict[str, Path], str | None]:
    """Case id -> label volume, and the label scheme that is implied; None where data do not tell it, as a flat folder.

    In a flat folder where some names end as label files do (`_seg`, `-seg`, `-label`, `_lesion`) only those are
    labels: the images lie beside them.
    """
    if folder.is_file() or (folder.is_dir() and not _files(folder, _VOLUMES)):
        there = volume_root(folder)
        found: dict[str, Path] = {}
        for case in there.survey(()):
            if case.label is None:
                continue
            for twin in case.label_twins:
                raise _two_files(case.id, case.label, twin)
            found[case.id] = case.label
        return found, there.described.scheme or None
    if _is_labels_of_data_set(folder):
        return find_volumes(folder), read_dataset_json(folder.parent / NAME).scheme
    marked = any(_label_suffix(_stem(path)) for path in _files(folder, _VOLUMES))
    return find_volumes(folder, only_marked=marked), None


def find_predictions(folder: Path) -> dict[str, Path]:
    """Case id -> label map, of a flat folder or of derivatives of BIDS."""
    if folder.is_dir() and not _files(folder, _VOLUMES) and subject_folders(folder):
        return dict(label_maps(folder))
    return find_volumes(folder)


def find_beneath(folder: Path) -> dict[str, dict[str, Image]]:
    """Case id -> its images by modality, one at least, in the order of the data set.

    It is empty for label volumes that are no data set's.
    """
    try:
        there = volume_root(folder.parent if _is_labels_of_data_set(folder) else folder)
    except UserError:  # a folder of any label volumes has no layout
        return {}
    found = {
        case.id: {name: case.images[name] for name in there.modalities if name in case.images}
        for case in there.survey(there.modalities)
    }
    return {case: images for case, images in found.items() if images}


def find_volumes(folder: Path, *, only_marked: bool = False) -> dict[str, Path]:
    """Case id -> NIfTI file, or header of an Analyze pair; the id is the name without extension and label suffix.

    With `only_marked`, files without such a suffix are left out.
    """
    files: dict[str, Path] = {}
    for path in _present(folder, _VOLUMES, "the label volumes"):
        stem = _stem(path)
        suffix = _label_suffix(stem)
        if only_marked and not suffix:
            continue
        case = stem.removesuffix(suffix)
        if case in files:
            raise _two_files(case, files[case], path)
        files[case] = path
    return files


def find_images(folder: Path, *, ending: str = "") -> dict[str, Path]:
    """Case id -> NIfTI file, or header of an Analyze pair, of any image.

    The id is the name without its extension and without `ending`.
    """
    files: dict[str, Path] = {}
    for path in _present(folder, _VOLUMES, "the volumes"):
        case = _stem(path).removesuffix(ending)
        if case in files:
            raise _two_files(case, files[case], path)
        files[case] = path
    return files


def find_pictures(folder: Path) -> dict[str, Path]:
    """Case id -> PNG file of a folder; the id is the name without extension."""
    return {path.stem: path for path in _present(folder, (".png",), "the PNG images")}


def listing(cases: Sequence[str]) -> str:
    """The first five, and how many there are beside them."""
    shown = ", ".join(cases[:5])
    return f"{shown} and {len(cases) - 5} more" if len(cases) > 5 else shown


def _is_labels_of_data_set(folder: Path) -> bool:
    return folder.name in LABELS_OF.values() and (folder.parent / NAME).is_file()


def _present(folder: Path, endings: tuple[str, ...], what: str) -> list[Path]:
    """Files with these endings, of which there must be one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds {what}")
    files = _files(folder, endings)
    if not files:
        raise UserError(f"{folder} holds no {' or '.join(endings)} file; give the folder that holds {what}")
    return files


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files directly in the folder, sorted by name; hidden ones are left to their owners."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(endings) and not p.name.startswith("."))


def _two_files(case: str, first: Path, second: Path) -> UserError:
    return UserError(f"case {case} has two files, {first} and {second.name}; keep one of them")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".hdr")


def _label_suffix(stem: str) -> str:
    """The ending that marks a name as that of a label file; empty where it has none."""
    return next((suffix for suffix in LABEL_SUFFIXES if stem.endswith(suffix)), "")
