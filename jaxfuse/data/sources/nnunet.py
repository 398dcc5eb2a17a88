"""nnU-Net raw data sets, of both versions, as they are.

    Dataset001_Tumor/dataset.json                       see `jaxfuse.data.sources.dataset_json`
    Dataset001_Tumor/imagesTr/case_0000.nii.gz          the first image of a case, then case_0001.nii.gz, ...
    Dataset001_Tumor/labelsTr/case.nii.gz
    Dataset001_Tumor/imagesTs/other_0000.nii.gz         held out; labelsTs as well, where it is there

The root is the data set, the folder above it, or one of its folders of images. A `dataset.json` with an entry
`dataset` lists the files of each case itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.sources.case_folders import (
    EXTENSIONS,
    HELD_OUT,
    Described,
    Finding,
    check_modalities,
    described_source,
    volume_files,
)
from jaxfuse.data.sources.dataset_json import (
    LABELS,
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

LAYOUT = "nnunet"
EXAMPLE = f"{TRAINING}/CASE_0000.nii.gz below a {NAME}"
_FILE = re.compile(r"(.+)_(\d{4})\.nii(?:\.gz)?")


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The cases under `root`, by name, those of `imagesTs` behind the others; without modalities it seeks labels only.

    Raises:
        UserError: for no data set or no case, what `read_dataset_json` refuses, unknown modalities, a case that lies
            twice, and one with more images than `dataset.json` names.
    """
    del layout  # there is one
    root = Path(os.path.abspath(root))
    described = _described(root)
    check_modalities(modalities, described.channels, layout=LAYOUT)
    if "dataset" in described.content:
        return tuple(_listed(described, modalities))
    findings: dict[str, Finding] = {}
    for folder in _folders(root, described):
        for case, numbers in _cases(folder).items():
            if case in findings:
                raise UserError(
                    f"case {case} lies in {findings[case].folder.name} and in {folder.name} of {described.root}; keep "
                    "it in one"
                )
            _check_numbers(case, folder, numbers, described)
            findings[case] = _find(case, folder, modalities, described)
    if not findings:
        raise UserError(f"no case lies under {root}; files such as {EXAMPLE} are expected")
    return tuple(findings.values())


def layout_of(folder: Path) -> str:
    """`nnunet` for a data set and for a folder of numbered images; empty for any other folder."""
    if is_root(folder):
        content = glance(folder / NAME)
        told = "channel_names" in content or not content or "dataset" in content
        return LAYOUT if told or any(_cases(folder / name) for name in LABELS_OF) else ""
    return LAYOUT if _cases(folder) else ""


def describe(root: Path) -> Described:
    """Reads what the `dataset.json` of a root says."""
    told = _described(Path(os.path.abspath(root)))
    endings = {modality: f"_{number:04d}.nii.gz" for number, modality in enumerate(told.channels)}
    return Described(told.channels, told.scheme, endings, _remarks(told))


def _described(root: Path) -> DatasetJson:
    return dataset_of(root, advice="copy that of the data set into it")


def _remarks(told: DatasetJson) -> tuple[str, ...]:
    """Tells in what the folders do not agree with what is said of them, or with each other."""
    cases, labels = set(_cases(told.root / TRAINING)), set(_volumes(told.root / LABELS))
    stray = sorted(labels - cases)
    remarks = () if "dataset" in told.content else told.miscounted("numTraining", len(cases), "cases are there")
    if stray:
        remarks += (f"{LABELS} holds {len(stray)} labels without images, the first of them {stray[0]}",)
    return remarks


def _folders(root: Path, told: DatasetJson) -> Iterable[Path]:
    """The folders of images that a root stands for."""
    if root != told.root and _cases(root):
        return (root,)
    there = [told.root / name for name in (TRAINING, TESTING) if (told.root / name).is_dir()]
    return there or (told.root,)


def _cases(folder: Path) -> Mapping[str, list[int]]:
    """Case -> the numbers of its images, in the order of names."""
    found: dict[str, list[int]] = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        for match in filter(None, map(_FILE.fullmatch, names)):
            found.setdefault(match.group(1), []).append(int(match.group(2)))
    return found


def _volumes(folder: Path) -> Iterable[str]:
    """Names of the volumes in a folder, without their endings."""
    if not folder.is_dir():
        return ()
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return {name.removesuffix(".gz").removesuffix(".nii") for name in names if name.endswith(EXTENSIONS)}


def _check_numbers(case: str, folder: Path, numbers: Iterable[int], told: DatasetJson) -> None:
    if beyond := [number for number in numbers if number >= len(told.channels)]:
        raise UserError(
            f"case {case} has the image {case}_{beyond[0]:04d} in {folder}, and {told.path} names {len(told.channels)} "
            f"({', '.join(told.channels)}); name all of them, or remove the file"
        )


def _find(case: str, folder: Path, modalities: Sequence[str], told: DatasetJson) -> Finding:
    images, missing = {}, {}
    for modality in modalities:
        stem = f"{case}_{told.channels.index(modality):04d}"
        if paths := volume_files(folder, stem, _endings(told)):
            images[modality] = Image(paths[0], twins=paths[1:])
        else:
            missing[modality] = f"{stem}{told.ending or EXTENSIONS[0]}"
    labels = volume_files(folder.parent / LABELS_OF.get(folder.name, LABELS), case, _endings(told))
    side = HELD_OUT if folder.name == TESTING else ""
    return Finding(case, folder, "", images, missing, next(iter(labels), None), labels[1:], side)


def _endings(told: DatasetJson) -> tuple[str, ...]:
    """Endings to look for, that of the data set first."""
    return tuple(dict.fromkeys(filter(None, (told.ending, *EXTENSIONS))))


def _listed(told: DatasetJson, modalities: Sequence[str]) -> Iterable[Finding]:
    """The cases whose files `dataset.json` lists, which may lie anywhere."""
    for case, entry in sorted(told.entry("dataset", dict, "an object of cases").items()):
        files = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        paths = [*files, label] if isinstance(files, list) else []
        if not (len(paths) == len(told.channels) + 1 and all(isinstance(path, str) for path in paths)):
            raise UserError(
                f'{told.path}: case {case} of dataset is not an object with "images", a list of {len(told.channels)} '
                'paths, and "label", one path; write it so'
            )
        named = {modality: told.root / paths[told.channels.index(modality)] for modality in modalities}
        images = {modality: Image(path) for modality, path in named.items() if path.is_file()}
        missing = {modality: str(path) for modality, path in named.items() if modality not in images}
        marked = told.root / paths[-1]
        yield Finding(case, told.root, "", images, missing, marked if marked.is_file() else None)


SOURCE = described_source(LAYOUT, example=EXAMPLE, layout_of=layout_of, survey=survey, describe=describe)
