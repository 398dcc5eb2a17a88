"""BraTS folders of the years 2017 to 2021 and 2023, and other data stored in the same form.

A case is a folder whose files carry the folder's name and a suffix per modality. The year is told from the
names of folders and files, and it decides the label scheme, because the label values alone cannot.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.cases import CaseFiles
from jaxfuse.errors import UserError

MODALITIES = ("t1", "t1ce", "t2", "flair")
_EXTENSIONS = (".nii.gz", ".nii")
_GRADES = ("HGG", "LGG")
# Outer folder / training folder / grade / case.
_DEPTH = 4


@dataclass(frozen=True)
class Layout:
    """One naming of folders and files.

    Attributes:
        scheme: name of the label scheme that this layout uses unless the user names another.
        folder: what the name of a case's folder looks like.
        suffixes: canonical modality name -> what follows the case's name, separator included.
        label: the same for the label file.
        stray_labels: names under which a label file was once published instead.
        grade_column: column of `name_mapping.csv` that holds this layout's case names, or empty.
    """

    name: str
    scheme: str
    folder: re.Pattern[str]
    suffixes: Mapping[str, str]
    label: str = "_seg"
    stray_labels: tuple[str, ...] = ()
    grade_column: str = ""


@dataclass(frozen=True)
class Finding:
    """One case's folder as found: files by modality, and the names looked for in vain."""

    id: str
    folder: Path
    group: str
    images: Mapping[str, Path]
    missing: Mapping[str, str]
    label: Path | None


_UNDERSCORED = {m: f"_{m}" for m in MODALITIES}
_HYPHENED = {"t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "flair": "-t2f"}

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("brats2017", "brats", re.compile(r"Brats17_.+"), _UNDERSCORED),
        Layout("brats2018", "brats", re.compile(r"Brats18_.+"), _UNDERSCORED),
        Layout("brats2019", "brats", re.compile(r"BraTS19_.+"), _UNDERSCORED, grade_column="BraTS_2019_subject_ID"),
        Layout(
            "brats2020",
            "brats",
            re.compile(r"BraTS20_(Training|Validation|Testing)_\d+"),
            _UNDERSCORED,
            stray_labels=("W39_1998.09.19_Segm",),  # case 355 of a widely used mirror
            grade_column="BraTS_2020_subject_ID",
        ),
        Layout("brats2021", "brats", re.compile(r"BraTS2021_\d+"), _UNDERSCORED),
        Layout("brats2023", "brats2023", re.compile(r"BraTS-GLI-\d+-\d+"), _HYPHENED, label="-seg"),
        # Any case name; a folder counts as a case where it holds at least one file of that form.
        Layout("generic", "brats", re.compile(r".+"), _UNDERSCORED),
    )
}


def find_cases(
    root: str | Path, modalities: Sequence[str], *, labels_required: bool, layout: str | None = None
) -> tuple[CaseFiles, ...]:
    """The cases under `root`, sorted by id; `root` may be any level from the download's folder to a case.

    Args:
        modalities: canonical names (`t1`, `t1ce`, `t2`, `flair`) that every case must have.
        labels_required: refuse cases without a label file.
        layout: a name of `LAYOUTS`; told from the names on disk where None.

    Raises `UserError` for an empty root, an unknown name, and any case that lacks a required file.
    """
    if not modalities:
        raise UserError(f"no modality was asked for; name at least one of {', '.join(MODALITIES)}")
    files = []
    for found in survey(root, modalities, layout=layout):
        for modality, name in found.missing.items():
            raise UserError(
                f"case {found.id} has no {modality} image: {name} is not in {found.folder}; "
                "add the file, leave the case out, or ask for other modalities"
            )
        if labels_required and found.label is None:
            raise UserError(
                f"case {found.id} has no label file in {found.folder}; "
                "point at the folder of the training cases only, or add the file"
            )
        files.append(CaseFiles(found.id, found.images, found.label, found.group))
    return tuple(files)


def survey(root: str | Path, modalities: Sequence[str], *, layout: str | None = None) -> tuple[Finding, ...]:
    """Like `find_cases`, but lists what is missing instead of refusing it; without modalities it seeks labels only."""
    root = Path(os.path.abspath(root))  # the name of "." matters
    unknown = [m for m in modalities if m not in MODALITIES]
    if unknown:
        raise UserError(f"modalities {list(modalities)} were asked for; choose from {', '.join(MODALITIES)}")
    chosen = layout_named(layout) if layout else LAYOUTS[detect_layout(root)]
    folders: dict[str, Path] = {}
    for folder in _folders(root):
        if not _is_case(folder, chosen):
            continue
        if folder.name in folders:
            raise UserError(f"case {folder.name} lies twice under {root}: in {folders[folder.name]} and in {folder}")
        folders[folder.name] = folder
    if not folders:
        raise UserError(f"no case of layout {chosen.name} lies under {root}; check the path or name another layout")
    grades = _grades(folders.values(), chosen)
    return tuple(_find(folders[id_], modalities, chosen, grades) for id_ in sorted(folders))


def detect_layout(root: str | Path) -> str:
    """The name of the one layout whose cases lie under `root`; `UserError` where there is none, or several."""
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the cases")
    names = {layout.name for folder in _folders(root) if (layout := _layout_of(folder))}
    if not names:
        raise UserError(
            f"no case lies under {root}; a folder per case is expected, with files such as CASE/CASE_t1ce.nii.gz "
            "or CASE/CASE-t1c.nii.gz"
        )
    if len(names) > 1:
        raise UserError(
            f"{root} holds cases of the layouts {', '.join(sorted(names))}; give one of the folders below it"
        )
    return names.pop()


def layout_named(name: str) -> Layout:
    """The layout called `name`; refuses an unknown name and lists the known ones."""
    if name not in LAYOUTS:
        raise UserError(f"layout {name!r} is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _layout_of(folder: Path) -> Layout | None:
    """The layout of one case's folder: a year's where its name says so, else generic, else None."""
    return next((layout for layout in LAYOUTS.values() if _is_case(folder, layout)), None)


def _is_case(folder: Path, layout: Layout) -> bool:
    if not layout.folder.fullmatch(folder.name):
        return False
    # A folder named like a case of a year is one even where all its files are missing: that has to be said.
    if layout.name != "generic":
        return True
    # The label counts too: references may be published without images.
    return any(_file(folder, folder.name + suffix) for suffix in (*layout.suffixes.values(), layout.label))


def _folders(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """`folder` and those below it, in sorted order, not deeper than a case can lie."""
    yield folder
    if depth == 0 or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        below = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__")))
    for name in below:
        yield from _folders(folder / name, depth - 1)


def _file(folder: Path, stem: str) -> Path | None:
    """The NIfTI file called `stem`; the compressed one where both exist."""
    return next((p for extension in _EXTENSIONS if (p := folder / (stem + extension)).is_file()), None)


def _find(folder: Path, modalities: Sequence[str], layout: Layout, grades: Mapping[str, str]) -> Finding:
    images, missing = {}, {}
    for modality in modalities:
        stem = folder.name + layout.suffixes[modality]
        path = _file(folder, stem)
        if path is None:
            missing[modality] = f"{stem}.nii.gz"
        else:
            images[modality] = path
    stems = (folder.name + layout.label, *layout.stray_labels)
    label = next((path for stem in stems if (path := _file(folder, stem))), None)
    parent = folder.parent.name
    group = parent if parent in _GRADES else grades.get(folder.name, "")
    return Finding(folder.name, folder, group, images, missing, label)


def _grades(folders: Iterable[Path], layout: Layout) -> Mapping[str, str]:
    """Case name -> grade, from the `name_mapping.csv` beside the cases or one level above, where there is one."""
    if not layout.grade_column:
        return {}
    grades: dict[str, str] = {}
    places = sorted({p for folder in folders for p in (folder.parent, folder.parent.parent)})
    for path in (place / "name_mapping.csv" for place in places):
        if not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if rows and not {"Grade", layout.grade_column} <= set(rows[0]):
            raise UserError(
                f"{path} has the columns {', '.join(rows[0])}; Grade and {layout.grade_column} are expected: "
                "restore the file as published, or remove it to go without grades"
            )
        grades |= {row[layout.grade_column]: row["Grade"] for row in rows if row["Grade"] in _GRADES}
    return grades
