"""iSeg-2017 and 2019: infant brains at six months, all subjects in one folder.

    subject-1-T1.hdr  subject-1-T1.img
    subject-1-T2.hdr  subject-1-T2.img
    subject-1-label.hdr  subject-1-label.img      only where the subject is labeled

Analyze pairs as published, or NIfTI (`.nii.gz`, `.nii`) of the same names. An Analyze header tells no orientation:
`jaxfuse.io.analyze` takes the axes as stored for the canonical ones, so that slices across axis 2 are axial, as in
InfiNet's code. Subjects may differ in shape; the files of one must not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.phantom.infant import write_infant_phantoms
from jaxfuse.data.sources.case_folders import (
    EXTENSIONS,
    Cut,
    Finding,
    VolumeSource,
    check_modalities,
    folders_below,
    volume_files,
)
from jaxfuse.errors import UserError

LAYOUT = "iseg"
EXAMPLE = "subject-1-T1.hdr"
_SUFFIXES = {"t1": "-T1", "t2": "-T2"}
MODALITIES = tuple(_SUFFIXES)
_LABEL = "-label"
_FILE = re.compile(r"(subject-(\d+))-(?:T1|T2|label)\.(?:nii\.gz|nii|hdr|img)")
_EXTENSIONS = (*EXTENSIONS, ".hdr")


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The subjects under `root` by ascending number, with what each lacks.

    Raises:
        UserError: for none, for a number that lies twice and for other modalities.
    """
    del layout  # there is one
    check_modalities(modalities, MODALITIES)
    root = Path(os.path.abspath(root))
    places: dict[int, tuple[str, Path]] = {}
    for folder in folders_below(root):
        for number, name in _subjects(folder):
            if number in places:
                raise UserError(f"subject {number} lies twice under {root}: in {places[number][1]} and in {folder}")
            places[number] = name, folder
    if not places:
        raise UserError(f"no subject lies under {root}; files such as {EXAMPLE} are expected")
    return tuple(_find(*places[number], modalities) for number in sorted(places))


def place(subject: str, modality: str, layout: str) -> Path:
    """Path of an image within the folder of all subjects, as NIfTI."""
    del layout  # there is one
    return Path(f"{subject}{_SUFFIXES[modality]}.nii.gz")


def layout_of(folder: Path) -> str:
    """`iseg` for a folder that holds files of subjects, empty for any other."""
    return LAYOUT if _subjects(folder) else ""


def _subjects(folder: Path) -> list[tuple[int, str]]:
    """Number and name of the subjects whose files lie in a folder, each once."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        matches = [_FILE.fullmatch(entry.name) for entry in entries]
    return sorted({(int(match.group(2)), match.group(1)) for match in matches if match})


def _find(name: str, folder: Path, modalities: Sequence[str]) -> Finding:
    images, missing = {}, {}
    for modality in modalities:
        stem = name + _SUFFIXES[modality]
        if paths := volume_files(folder, stem, _EXTENSIONS):
            images[modality] = Image(paths[0], twins=paths[1:])
        else:
            missing[modality] = f"{stem}.hdr (or .nii.gz)"
    labels = volume_files(folder, name + _LABEL, _EXTENSIONS)
    return Finding(name, folder, "", images, missing, next(iter(labels), None), labels[1:])


SOURCE = VolumeSource(
    name="iseg",
    modalities=MODALITIES,
    layouts={LAYOUT: "iseg"},
    example=EXAMPLE,
    layout_of=layout_of,
    survey=survey,
    place=place,
    write_phantoms=write_infant_phantoms,
    label_suffixes=(_LABEL,),
    cuts={"iseg_slices": Cut(labeled=True)},
)
