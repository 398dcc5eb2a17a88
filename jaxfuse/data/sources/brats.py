"""BraTS folders of the years 2017 to 2021, of all tasks from 2023 on, and other data stored in the same forms.

A case is a folder whose files carry the folder's name and a suffix per modality. The year and the task are told from
the names of folders and files, and they decide the label scheme, because the label values alone cannot.

From 2023 on names begin with the task: BraTS-GLI (gliomas, from examination 100 on after treatment, the data of 2024),
SSA (Africa), MEN (meningiomas), MET (metastases), GoAT (all of them), PED (children) and MEN-RT (meningiomas before
radiotherapy, T1c alone, with the skull). Cases of PED bear the same names in 2023, when they were coded as the others,
and later: they are read as coded since, unless `data.labels` says brats2023.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.sources.case_folders import (
    Cut,
    Finding,
    Layout,
    VolumeSource,
    check_modalities,
    find_case,
    find_folders,
    is_case,
)
from jaxfuse.errors import UserError

MODALITIES = ("t1", "t1ce", "t2", "flair")
EXAMPLE = "a folder per case is expected, whose files bear its name, as CASE/CASE_t1ce.nii.gz or CASE/CASE-t1c.nii.gz"
_GRADES = ("HGG", "LGG")

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
        Layout(
            "brats2023",
            "brats2023",
            re.compile(r"BraTS-(?:GLI|SSA|MEN|MET|GoAT)-\d+(?:-\d+)?"),
            _HYPHENED,
            label="-seg",
            told_by=re.compile(r"BraTS-(?:GLI-\d+-0\d\d|(?:SSA|MEN|MET|GoAT)-\d+(?:-\d+)?)"),
        ),
        Layout(
            "brats2024",
            "brats2024",
            re.compile(r"BraTS-(?:GLI|MET)-\d+-\d+"),
            _HYPHENED,
            label="-seg",
            told_by=re.compile(r"BraTS-GLI-\d+-[1-9]\d\d"),
        ),
        Layout("brats2024_ped", "brats2024_ped", re.compile(r"BraTS-PED-\d+(?:-\d+)?"), _HYPHENED, label="-seg"),
        Layout(
            "brats2024_men_rt",
            "brats2024_men_rt",
            re.compile(r"BraTS-MEN-RT-\d+-\d+"),
            {"t1ce": "_t1c"},
            label="_gtv",
            marks=("_t1c", "_gtv"),
        ),
        # Any case name; a folder counts as a case where it holds at least one file of that form. The label counts
        # too: references may be published without images.
        Layout("generic", "brats", re.compile(r".+"), _UNDERSCORED, marks=(*_UNDERSCORED.values(), "_seg")),
        Layout(
            "generic2023", "brats2023", re.compile(r".+"), _HYPHENED, label="-seg", marks=(*_HYPHENED.values(), "-seg")
        ),
    )
}


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """Lists the cases under `root`, sorted by id, with what each lacks; without modalities it seeks labels only.

    Raises:
        UserError: for a root without cases, an unknown layout or modality, and a name that lies twice.
    """
    root = Path(os.path.abspath(root))  # the name of "." matters
    check_modalities(modalities, MODALITIES)
    chosen = LAYOUTS[layout or SOURCE.detect(root)]
    check_modalities(modalities, tuple(chosen.suffixes), layout=chosen.name)
    folders = find_folders(root, chosen)
    grades = _grades(folders, chosen)
    return tuple(find_case(folder, modalities, chosen, group=_group(folder, grades)) for folder in folders)


def layout_of(folder: Path) -> str:
    """The layout of one case's folder: a year's where its name says so, else generic; empty for any other folder."""
    told = (one for one in LAYOUTS.values() if (one.told_by or one.folder).fullmatch(folder.name))
    return next((layout.name for layout in told if is_case(folder, layout)), "")


def place(case: str, modality: str, layout: str) -> Path:
    """Path of an image within the folder of its case."""
    return LAYOUTS[layout].place(case, modality)


def _group(folder: Path, grades: Mapping[str, str]) -> str:
    """The grade of a case, by the folder around it or by the table of names."""
    parent = folder.parent.name
    return parent if parent in _GRADES else grades.get(folder.name, "")


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


SOURCE = VolumeSource(
    name="brats",
    modalities=MODALITIES,
    layouts={name: layout.scheme for name, layout in LAYOUTS.items()},
    example=EXAMPLE,
    layout_of=layout_of,
    survey=survey,
    place=place,
    write_phantoms=write_brats_phantoms,
    label_suffixes=("_seg", "-seg", "_gtv"),
    modalities_by_layout={name: tuple(layout.suffixes) for name, layout in LAYOUTS.items()},
    cuts={"slices": Cut(), "one_slice": Cut(one_per_case=True)},
)
