"""Datalists: a JSON or CSV file that lists the files of each case, wherever they lie.

    {"modalities": ["t1", "flair"], "labels": {"tumor": 1},
     "training": [{"case": "a", "image": ["a/t1.nii.gz", "a/flair.nii.gz"], "label": "a/seg.nii.gz", "fold": 0}],
     "testing": [{"case": "c", "image": "c.nii.gz"}]}

A case has `case`, its name, and `image`: a file for each modality in their order, an object of files by modality, or
one file, whose fourth axis is that of the modalities where there are several. It may have `label`, `subject`, `group`
and `fold` (from 0). Cases of `validation` validate and those of `testing` are held out. `labels` is a label scheme by
name, or an object of names and file values. The same as a table, with a column for each modality:

    case,image_t1,image_flair,label,side,subject,group,fold
    a,a/t1.nii.gz,a/flair.nii.gz,a/seg.nii.gz,,p1,HGG,0

`side` is empty, `train`, `val` or `test`. `FILE#2` is the third image of a file of four axes. Paths are relative to the
list, and stay in its folder; others are absolute. Any other key or column is refused.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.data.cases import Image
from jaxfuse.data.sources.case_folders import HELD_OUT, Described, Finding, check_modalities, described_source
from jaxfuse.data.sources.dataset_json import NAME
from jaxfuse.data.sources.modality_names import canonical_names
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json
from jaxfuse.labels import label_scheme, written_scheme

LAYOUT = "datalist"
EXAMPLE = "a datalist, LIST.json or LIST.csv"
_LISTS = {"training": "", "validation": "val", "testing": HELD_OUT}
_SIDES = ("", "train", "val", HELD_OUT)
_TOLD = ("subject", "group", "fold")
_KEYS = ("case", "image", "label", *_TOLD)
_COLUMN = "image_"
_NAME = re.compile(r"\w[\w.+-]*")
_CHANNEL = re.compile(r"(.+)#(\d+)")


@dataclass(frozen=True)
class Listed:
    """One case of a list: images as they are written, by modality, and the rest of what is said of it."""

    case: str
    images: Mapping[str, str]
    label: str
    side: str
    told: Mapping[str, str]


@dataclass(frozen=True)
class Datalist:
    """The content of a list."""

    path: Path
    modalities: tuple[str, ...]
    scheme: str
    cases: tuple[Listed, ...]


def survey(root: str | Path, modalities: Sequence[str], layout: str | None = None) -> tuple[Finding, ...]:
    """The cases of a list by name, those held out behind the others, with what each lacks.

    Raises:
        UserError: the list cannot be read or means nothing, or has other modalities.
    """
    del layout  # there is one
    listed = read_datalist(Path(os.path.abspath(root)))
    check_modalities(modalities, listed.modalities, layout=LAYOUT)
    findings = [_find(one, modalities, listed.path) for one in listed.cases]
    return tuple(sorted(findings, key=lambda one: (one.side == HELD_OUT, one.id)))


def layout_of(folder: Path) -> str:
    """`datalist` for a JSON or CSV file, empty for anything else."""
    is_list = folder.suffix.lower() in (".json", ".csv") and folder.name != NAME
    return LAYOUT if is_list and folder.is_file() else ""


def describe(root: Path) -> Described:
    """Reads what a list says of all of its cases."""
    listed = read_datalist(Path(os.path.abspath(root)))
    # Without labels there is nothing to be told.
    return Described(listed.modalities, listed.scheme or ("" if any(one.label for one in listed.cases) else "lesion"))


def read_datalist(path: Path) -> Datalist:
    """Reads and checks a list; `UserError` for what it cannot mean."""
    if not path.is_file():
        raise UserError(f"{path} is no file; the layout {LAYOUT} needs {EXAMPLE}")
    listed = _of_table(path) if path.suffix.lower() == ".csv" else _of_json(path)
    if not listed.cases:
        raise UserError(f"{path} lists no case; list at least one")
    seen = set[str]()
    for one in listed.cases:
        if not _NAME.fullmatch(one.case):
            raise UserError(
                f"{path}: a case is called {one.case!r}; a name of letters, digits, dots and hyphens is expected, "
                "which files can bear"
            )
        if one.case in seen:
            raise UserError(f"{path} lists case {one.case} twice; list each once")
        if one.side not in _SIDES:
            raise UserError(
                f"{path}: case {one.case} has the side {one.side!r}; choose train, val or test, or leave it empty"
            )
        seen.add(one.case)
    return listed


def _of_json(path: Path) -> Datalist:
    content = read_json(path)
    if not isinstance(content, dict) or not set(content) & set(_LISTS):
        raise UserError(f"{path} is no datalist; an object with modalities and a list called training is expected")
    _refuse_others(path, "it", content, ("modalities", "labels", *_LISTS))
    named = content.get("modalities")
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise UserError(f"{path}: modalities is {named!r}; the names of the images are expected, in their order")
    modalities = canonical_names(named, said_by=path)
    cases = [
        _entry(path, f"entry {number} of {key}", entry, modalities, side)
        for key, side in _LISTS.items()
        for number, entry in enumerate(_list(path, key, content.get(key, [])))
    ]
    return Datalist(path, modalities, _scheme(path, content.get("labels", "")), tuple(cases))


def _entry(path: Path, what: str, entry: Any, modalities: Sequence[str], side: str) -> Listed:
    if not isinstance(entry, dict) or not {"case", "image"} <= set(entry):
        raise UserError(f'{path}: {what} is {_told(entry)}; an object with "case" and "image" is expected')
    _refuse_others(path, what, entry, _KEYS)
    plain = {key: entry.get(key, "") for key in ("case", "label", *_TOLD)}
    if odd := [key for key, value in plain.items() if type(value) not in (str, int)]:
        raise UserError(f"{path}: {odd[0]} of {what} is {_told(plain[odd[0]])}; a text is expected")
    told = {key: str(plain[key]) for key in _TOLD if plain[key] != ""}
    return Listed(str(plain["case"]), _images(path, what, entry["image"], modalities), str(plain["label"]), side, told)


def _images(path: Path, what: str, value: Any, modalities: Sequence[str]) -> Mapping[str, str]:
    """Modality -> file as written, of any of the three forms."""
    if isinstance(value, str):
        several = len(modalities) > 1
        return {modality: f"{value}#{number}" if several else value for number, modality in enumerate(modalities)}
    if isinstance(value, list) and len(value) == len(modalities):
        value = dict(zip(modalities, value, strict=True))
    if isinstance(value, dict):
        named = dict(zip(canonical_names(value, said_by=f"{what} of {path}"), value.values(), strict=True))
        if set(named) <= set(modalities) and all(isinstance(file, str) for file in named.values()):
            return named
    raise UserError(
        f"{path}: image of {what} is {_told(value)}; a file is expected for each of {', '.join(modalities)}, or one "
        "file of all of them"
    )


def _of_table(path: Path) -> Datalist:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); a table with commas between its columns is expected"
        ) from error
    named = [column for column in columns if column.startswith(_COLUMN)]
    if "case" not in columns or not named or len(set(columns)) < len(columns):
        raise UserError(
            f"{path} has the columns {', '.join(columns) or 'none'}; case and a column for each modality are expected, "
            f"such as {_COLUMN}t1, each once"
        )
    _refuse_others(path, "it", columns, ("case", "label", "side", *_TOLD, *named))
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} has rows with more or fewer values than columns; put one comma between two values")
    modalities = canonical_names((column.removeprefix(_COLUMN) for column in named), said_by=path)
    return Datalist(path, modalities, "", tuple(_row(row, dict(zip(modalities, named, strict=True))) for row in rows))


def _row(row: Mapping[str, str], columns: Mapping[str, str]) -> Listed:
    images = {modality: row[column].strip() for modality, column in columns.items() if row[column].strip()}
    told = {key: row[key].strip() for key in _TOLD if row.get(key, "").strip()}
    return Listed(row["case"].strip(), images, row.get("label", "").strip(), row.get("side", "").strip(), told)


def _find(one: Listed, modalities: Sequence[str], path: Path) -> Finding:
    images, missing = {}, {}
    for modality in modalities:
        text = one.images.get(modality, "")
        match = _CHANNEL.fullmatch(text)
        file = _path(path, one.case, match.group(1) if match else text) if text else None
        if file and file.is_file():
            images[modality] = Image(file, int(match.group(2)) if match else None)
        else:
            missing[modality] = str(file) if file else "a file in its entry"
    label = _path(path, one.case, one.label) if one.label else None
    if label and not label.is_file():
        raise UserError(
            f"{path}: the label of case {one.case}, {label}, is not there; correct the path, or leave it out"
        )
    side = "" if one.side == "train" else one.side
    return Finding(one.case, path.parent, one.told.get("group", ""), images, missing, label, side=side, told=one.told)


def _path(listed_in: Path, case: str, text: str) -> Path:
    """The path that is written; a relative one stays in the folder of the list."""
    if ".." in Path(text).parts and not Path(text).is_absolute():
        raise UserError(
            f"{listed_in}: case {case} names {text!r}, which leads out of {listed_in.parent}; write the absolute path "
            "if that is meant"
        )
    return listed_in.parent / text


def _scheme(path: Path, labels: Any) -> str:
    """The label scheme of a list, by its name."""
    if isinstance(labels, str):
        return label_scheme(labels).name if labels else ""
    whole = isinstance(labels, dict) and all(
        type(value) is int or (isinstance(value, list) and value and all(type(one) is int for one in value))
        for value in labels.values()
    )
    if not whole:
        raise UserError(
            f'{path}: labels is {_told(labels)}; a label scheme or names and values are expected, as {{"tumor": 1}}'
        )
    try:
        return written_scheme({name: v if isinstance(v, list) else [v] for name, v in labels.items()}).name
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _list(path: Path, key: str, value: Any) -> Iterator[Any]:
    if not isinstance(value, list):
        raise UserError(f"{path}: {key} is {_told(value)}; a list of cases is expected")
    return iter(value)


def _refuse_others(path: Path, what: str, found: Iterable[str], known: Sequence[str]) -> None:
    if strange := [name for name in found if name not in known]:
        raise UserError(f"{path}: {what} has {strange[0]!r}, which is not known; choose from {', '.join(known)}")


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


SOURCE = described_source(LAYOUT, example=EXAMPLE, layout_of=layout_of, survey=survey, describe=describe)
