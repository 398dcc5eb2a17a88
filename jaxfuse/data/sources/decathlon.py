"""Data sets of the Medical Segmentation Decathlon as published: all images of a case in one file of four axes.

    Task01/dataset.json                     see `jaxfuse.data.sources.dataset_json`
    Task01/imagesTr/BRATS_001.nii.gz        the fourth axis is that of the images
    Task01/labelsTr/BRATS_001.nii.gz
    Task01/imagesTs/BRATS_485.nii.gz        held out, without labels

Of a task with one image the files have three axes. The root is the data set, the folder above it, or one of its folders
of images. The cases of a data set are those that its `dataset.json` lists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.sources import nnunet
from jaxfuse.data.sources.case_folders import (
    EXTENSIONS,
    HELD_OUT,
    Described,
    Finding,
    check_modalities,
    described_source,
)
from jaxfuse.data.sources.dataset_json import (
    LABELS_OF,
    NAME,
    TESTING,
    TRAINING,
    DatasetJson,
    dataset_of,
    glance,
    is_root,
)
from jaxfuse.errors import UserError

LAYOUT = "decathlon"
EXAMPLE = f"{TRAINING}/BRATS_001.nii.gz of four axes below a {NAME}"


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The cases under `root` by name, those held out behind the others; without modalities it seeks labels only.

    Raises:
        UserError: for no data set or no case, what `read_dataset_json` refuses, unknown modalities, and a list of files
            that cannot be meant.
    """
    del layout  # there is one
    root = Path(os.path.abspath(root))
    told = _described(root)
    check_modalities(modalities, told.channels, layout=LAYOUT)
    findings: dict[str, Finding] = {}
    for path, label, side in _files(root, told):
        case = path.name.removesuffix(".gz").removesuffix(".nii")
        if case in findings:
            raise UserError(f"{told.path} lists case {case} twice; list each once")
        findings[case] = _find(case, path, label, side, modalities, told)
    if not findings:
        raise UserError(f"no case lies under {root}; files such as {EXAMPLE} are expected")
    return tuple(sorted(findings.values(), key=lambda one: (one.side, one.id)))


def layout_of(folder: Path) -> str:
    """`decathlon` for a data set and for a folder of its images; empty for any other folder."""
    root = folder.parent if folder.name in LABELS_OF else folder
    if not is_root(root) or nnunet.layout_of(root):
        return ""
    return LAYOUT if "modality" in glance(root / NAME) else ""


def describe(root: Path) -> Described:
    """Reads what the `dataset.json` of a root says."""
    told = _described(Path(os.path.abspath(root)))
    listed = {path for path, _, _ in _listed(told)}
    remarks = told.miscounted("numTraining", len(told.entry("training", list, "a list")), "are listed")
    if stray := sorted(
        path for name in (TRAINING, TESTING) for path in _volumes(told.root / name) if path not in listed
    ):
        remarks += (f"{len(stray)} images are not listed in {NAME}, the first of them {stray[0].name}",)
    return Described(told.channels, told.scheme, remarks=remarks)


def _described(root: Path) -> DatasetJson:
    return dataset_of(root, advice="give the folder of the data set")


def _files(root: Path, told: DatasetJson) -> Iterator[tuple[Path, Path | None, str]]:
    """Image, label and side of each case that a root stands for."""
    if root.name not in LABELS_OF:
        yield from _listed(told)
        return
    for path in _volumes(root):
        yield path, root.parent / LABELS_OF[root.name] / path.name, HELD_OUT if root.name == TESTING else ""


def _listed(told: DatasetJson) -> Iterator[tuple[Path, Path | None, str]]:
    for number, entry in enumerate(told.entry("training", list, "a list of images with their labels")):
        what = f"entry {number} of training"
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise UserError(f'{told.path}: {what} is {entry!r}; an object with "image" and "label" is expected')
        yield (
            told.within(entry["image"], f"the image of {what}"),
            told.within(entry["label"], f"the label of {what}"),
            "",
        )
    for number, entry in enumerate(told.entry("test", list, "a list of images")):
        image = entry.get("image") if isinstance(entry, dict) else entry
        yield told.within(image, f"entry {number} of test"), None, HELD_OUT


def _volumes(folder: Path) -> list[Path]:
    """The volumes in a folder by name; names that begin with a dot are left to their owners."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(EXTENSIONS) and not p.name.startswith("."))


def _find(
    case: str, path: Path, label: Path | None, side: str, modalities: Sequence[str], told: DatasetJson
) -> Finding:
    several = len(told.channels) > 1
    images, missing = {}, {}
    for modality in modalities:
        if path.is_file():
            images[modality] = Image(path, told.channels.index(modality) if several else None)
        else:
            missing[modality] = path.name
    return Finding(case, path.parent, "", images, missing, label if label and label.is_file() else None, side=side)


SOURCE = described_source(LAYOUT, example=EXAMPLE, layout_of=layout_of, survey=survey, describe=describe)
