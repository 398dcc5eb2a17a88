"""Stroke: T2 and diffusion-weighted images of one case in one folder, thick axial slices.

    <case>/<case>_t2.nii.gz            T2
    <case>/<case>_dwi_b1000.nii.gz     diffusion-weighted, b = 1000 s/mm2
    <case>/<case>_dwi_b0.nii.gz        the same sequence without diffusion weighting
    <case>/<case>_lesion.nii.gz        0 elsewhere, 1 in the infarct; only where the case is labeled

`.nii` as well. All files of a case lie on one grid, skull-stripped, in HyperFusionNet's data of 256 x 256 x 32 voxels.
A folder is a case where it holds a diffusion-weighted image or a lesion of its own name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jaxfuse.data.phantom.stroke import write_stroke_phantoms
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

LAYOUT = Layout(
    "stroke",
    "stroke",
    re.compile(r".+"),
    {"t2": "_t2", "dwi_b1000": "_dwi_b1000", "dwi_b0": "_dwi_b0"},
    label="_lesion",
    # Not T2, which folders of other data hold as well.
    marks=("_dwi_b1000", "_dwi_b0", "_lesion"),
)
MODALITIES = tuple(LAYOUT.suffixes)


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The cases under `root`, sorted by id, with what each lacks; `UserError` for none and for other modalities."""
    del layout  # there is one
    check_modalities(modalities, MODALITIES)
    folders = find_folders(Path(os.path.abspath(root)), LAYOUT)
    return tuple(find_case(folder, modalities, LAYOUT) for folder in folders)


def layout_of(folder: Path) -> str:
    """`stroke` for the folder of a case, empty for any other."""
    return LAYOUT.name if is_case(folder, LAYOUT) else ""


def place(case: str, modality: str, layout: str) -> Path:
    """Path of an image within the folder of its case."""
    del layout  # there is one
    return LAYOUT.place(case, modality)


SOURCE = VolumeSource(
    name="stroke",
    modalities=MODALITIES,
    layouts={LAYOUT.name: LAYOUT.scheme},
    example="CASE/CASE_dwi_b1000.nii.gz",
    layout_of=layout_of,
    survey=survey,
    place=place,
    write_phantoms=write_stroke_phantoms,
    label_suffixes=(LAYOUT.label,),
    cuts={"stroke_slices": Cut(labeled=True)},
)
