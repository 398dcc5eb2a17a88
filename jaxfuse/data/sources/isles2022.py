"""ISLES 2022, acute ischemic stroke: DWI and ADC on one grid, FLAIR on its own, in names like those of BIDS.

    sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz      and _adc, and anat/..._FLAIR
    derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz      0 elsewhere, 1 in the infarct

Files may also lie in the folder of the session itself, and the subjects in a folder `rawdata` beside `derivatives`, as
in the first release. FLAIR is to be resampled onto the grid of DWI before it is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.sources.bids import files_in, subject_folders
from jaxfuse.data.sources.case_folders import Described, Finding, VolumeSource, check_modalities, volume_files
from jaxfuse.errors import UserError

LAYOUT = "isles2022"
EXAMPLE = "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz"
_ENDINGS = {"dwi": "_dwi.nii.gz", "adc": "_adc.nii.gz", "flair": "_FLAIR.nii.gz"}
MODALITIES = tuple(_ENDINGS)
_SUBJECT = re.compile(r"sub-strokecase\d+")


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The sessions under `root`, by name, with what each lacks; `UserError` for none and for other modalities."""
    del layout  # there is one
    check_modalities(modalities, MODALITIES)
    root = Path(os.path.abspath(root))
    findings = [
        _find(subject, session, modalities)
        for subject in subject_folders(root)
        if _SUBJECT.fullmatch(subject.name)
        for session in sorted(subject.glob("ses-*"))
        if session.is_dir()
    ]
    if not findings:
        raise UserError(f"no case lies under {root}; files such as {EXAMPLE} are expected")
    return tuple(findings)


def layout_of(folder: Path) -> str:
    """`isles2022` for the folder of a subject, empty for any other."""
    if not _SUBJECT.fullmatch(folder.name) or "derivatives" in folder.parts[-2:]:
        return ""
    return LAYOUT if any(folder.glob("ses-*/")) else ""


def describe(root: Path) -> Described:
    """Returns what all of these data are alike in."""
    del root
    return Described(MODALITIES, "stroke", _ENDINGS)


def _find(subject: Path, session: Path, modalities: Sequence[str]) -> Finding:
    name = f"{subject.name}_{session.name}"
    files = [one for folder in (session, *sorted(session.iterdir())) for one in files_in(folder)]
    there = {one.suffix.lower(): one.path for one in files}
    images = {modality: Image(there[modality]) for modality in modalities if modality in there}
    missing = {modality: f"{name}{_ENDINGS[modality]}" for modality in modalities if modality not in there}
    beside = (subject.parent / "derivatives", subject.parent.parent / "derivatives")
    labels = [p for place in beside for p in volume_files(place / subject.name / session.name, f"{name}_msk")]
    return Finding(name, session, "", images, missing, next(iter(labels), None), tuple(labels[1:]))


SOURCE = VolumeSource(
    name=LAYOUT,
    modalities=MODALITIES,
    layouts={LAYOUT: "stroke"},
    example=EXAMPLE,
    layout_of=layout_of,
    survey=survey,
    describe=describe,
)
