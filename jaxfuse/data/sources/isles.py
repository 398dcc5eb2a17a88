"""ISLES 2015, sub-acute ischemic stroke (SISS): T1, T2, DWI and FLAIR on the grid of FLAIR, skull-stripped, 1 mm.

    training/1/VSD.Brain.XX.O.MR_T1.70615/VSD.Brain.XX.O.MR_T1.70615.nii       and so MR_T2, MR_DWI and MR_Flair
    training/1/VSD.Brain.XX.O.OT.70618/VSD.Brain.XX.O.OT.70618.nii             0 elsewhere, 1 in the lesion

The number behind a file's name is that of an upload and tells nothing. Cases are numbered from 1 in the folder of the
28 training cases as in that of the 17 test cases, which have no lesion; so a case is named after both folders, such as
`training_1`. Some 230 x 230 x 154 voxels; `.nii.gz` as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.phantom.isles import write_isles_phantoms
from jaxfuse.data.sources.case_folders import (
    Cut,
    Finding,
    VolumeSource,
    check_modalities,
    folders_below,
    volume_files,
)
from jaxfuse.errors import UserError

LAYOUT = "isles2015"
EXAMPLE = "1/VSD.Brain.XX.O.MR_T1.70615/VSD.Brain.XX.O.MR_T1.70615.nii"
# Modality -> what the names of its folder and file say.
SEQUENCES: Mapping[str, str] = {"t1": "MR_T1", "t2": "MR_T2", "dwi": "MR_DWI", "flair": "MR_Flair"}
MODALITIES = tuple(SEQUENCES)
LESION = "OT"
_PREFIX = "VSD.Brain.XX.O."
_NAME = re.compile(re.escape(_PREFIX) + r"(\w+)\.\d+")


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The cases under `root`, folder by folder and by their numbers, with what each lacks.

    Raises:
        UserError: for no case, for other modalities, for two files of one sequence, and where two cases would have one
            name.
    """
    del layout  # there is one
    check_modalities(modalities, MODALITIES)
    root = Path(os.path.abspath(root))  # the name of the folder above "." matters
    findings: dict[str, Finding] = {}
    for folder in sorted(folders_below(root), key=_in_order):
        if not layout_of(folder):
            continue
        found = _case(folder, modalities)
        if found.id in findings:
            raise UserError(
                f"case {found.id} lies twice under {root}: in {findings[found.id].folder} and in {folder}; give one of "
                "the folders above them"
            )
        findings[found.id] = found
    if not findings:
        raise UserError(f"no case of layout {LAYOUT} lies under {root}; files such as {EXAMPLE} are expected")
    return tuple(findings.values())


def place(case: str, modality: str, layout: str) -> Path:
    """Path of an image that was never uploaded within the folder of its case; its number is 0."""
    del case, layout  # names tell nothing of the case, and there is one layout
    name = f"{_PREFIX}{SEQUENCES[modality]}.0"
    return Path(name) / f"{name}.nii.gz"


def layout_of(folder: Path) -> str:
    """`isles2015` for the folder of a case, one of whose files lies there at least; empty for any other."""
    return LAYOUT if folder.is_dir() and any(_files(folder).values()) else ""


def _case(folder: Path, modalities: Sequence[str]) -> Finding:
    name, there = f"{folder.parent.name}_{folder.name}", _files(folder)
    images, missing = {}, {}
    for modality in modalities:
        if paths := _only_one(name, modality, there.get(SEQUENCES[modality], [])):
            images[modality] = Image(paths[0], twins=paths[1:])
        else:
            missing[modality] = f"{_PREFIX}{SEQUENCES[modality]}.NUMBER.nii"
    labels = _only_one(name, "the lesion", there.get(LESION, []))
    return Finding(name, folder, "", images, missing, next(iter(labels), None), labels[1:])


def _files(folder: Path) -> Mapping[str, list[tuple[Path, ...]]]:
    """Every volume below a case's folder with its twins, by what its name says."""
    files: dict[str, list[tuple[Path, ...]]] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    for match in filter(None, map(_NAME.fullmatch, names)):
        paths = volume_files(folder / match.group(), match.group())
        files.setdefault(match.group(1), []).extend([paths] if paths else [])
    return files


def _only_one(case_id: str, what: str, volumes: Sequence[tuple[Path, ...]]) -> tuple[Path, ...]:
    if len(volumes) > 1:
        listed = " and ".join(paths[0].name for paths in volumes)
        raise UserError(f"case {case_id} has {len(volumes)} files for {what}: {listed}; keep the one that is meant")
    return volumes[0] if volumes else ()


def _in_order(folder: Path) -> tuple[str, int, str]:
    """Cases 1, 2, ... 10 in this order."""
    name = folder.name
    return str(folder.parent), int(name) if name.isdecimal() else 0, name


SOURCE = VolumeSource(
    name="isles",
    modalities=MODALITIES,
    layouts={LAYOUT: "stroke"},
    example=EXAMPLE,
    layout_of=layout_of,
    survey=survey,
    place=place,
    write_phantoms=write_isles_phantoms,
    cuts={"isles_slices": Cut()},
)
