"""Data sets in the Brain Imaging Data Structure (BIDS), raw or derivatives.

    dataset_description.json  participants.tsv
    sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz                      t1; T2w is t2, FLAIR is flair
    sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz        t1ce; other suffixes are written in small letters
    derivatives/NAME/sub-01/ses-1/anat/sub-01_ses-1_dseg.nii.gz    labels, whose values a dseg.tsv names
    derivatives/NAME/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz      or a mask of lesions

A case is a session, or a subject without sessions; where its images have several runs, each run is one, and an image
without a run serves all. Of several images of one kind, such as two acquisitions, none is taken unless entities of its
name are chosen. Masks of the brain are no labels, and neither is what jaxfuse made. Images must lie on one grid per
case, which raw data seldom do: point at the derivatives of a preprocessing then. Columns of `participants.tsv` can be
split by.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.cases import Image
from jaxfuse.data.sources.case_folders import EXTENSIONS, Described, Finding, check_modalities, described_source
from jaxfuse.data.sources.modality_names import canonical_name
from jaxfuse.errors import UserError
from jaxfuse.labels import written_scheme

LAYOUT = "bids"
EXAMPLE = "sub-01/anat/sub-01_T1w.nii.gz"
PARTICIPANTS, DESCRIPTION = "participants.tsv", "dataset_description.json"
MAKER = "jaxfuse"
# Endings of the names of images, by which a missing one is named.
ENDINGS: Mapping[str, str] = {
    "t1": "_T1w.nii.gz",
    "t1ce": "_ce-gadolinium_T1w.nii.gz",
    "t2": "_T2w.nii.gz",
    "flair": "_FLAIR.nii.gz",
}
_SUBJECT, _SESSION = re.compile(r"sub-[A-Za-z0-9]+"), re.compile(r"ses-[A-Za-z0-9]+")
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9]+)")
_CHOICE = re.compile(r"([a-z]+)-([A-Za-z0-9]*)")
_SEGMENTATIONS = ("dseg", "mask")
_NO_IMAGES = (*_SEGMENTATIONS, "probseg", "defacemask")
_BRAIN, _DERIVATIVES = "brain", "derivatives"
# Names of ISLES 2022, which is a layout of its own.
_OTHERS = re.compile(r"sub-strokecase\d+")


# Entity -> the values of which a file bears one; "" for none.
Entities = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class BidsFile:
    """A volume by its name: entities such as `ses`, `run` and `ce`, and the suffix behind them."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def modality(self) -> str:
        """Canonical name of the image; a contrast agent makes another one."""
        name = canonical_name(self.suffix)
        if "ce" not in self.entities:
            return name
        return "t1ce" if name == "t1" else f"{name}_ce"

    @property
    def is_label(self) -> bool:
        """Whether it holds labels, and not the mask of the brain."""
        of = {self.entities.get("desc", ""), self.entities.get("label", "")}
        return self.suffix in _SEGMENTATIONS and _BRAIN not in {one.lower() for one in of}


def survey(
    root: str | Path, modalities: Sequence[str], layout: str | None = None, *, chosen: Entities | None = None
) -> tuple[Finding, ...]:
    """The cases under `root` by subject, session and run, with what each lacks; without modalities labels alone count.

    Where several files claim to be one image or label, that which bears the entities `chosen` is taken.

    Raises:
        UserError: for no case, modalities of which no case has an image, and two files for one image or label.
    """
    del layout  # there is one
    root = Path(os.path.abspath(root))
    cases = list(_cases(root))
    known = _modalities(cases)
    check_modalities(modalities, known, layout=LAYOUT)
    told = _participants(root)
    findings = [_find(*case, modalities, told, chosen or {}) for case in cases]
    if not findings:
        raise UserError(f"no case lies under {root}; files such as {EXAMPLE} are expected")
    return tuple(findings)


def layout_of(folder: Path) -> str:
    """`bids` for a folder of subjects and for that of one; empty for any other folder."""
    if _SUBJECT.fullmatch(folder.name):
        return LAYOUT if not _OTHERS.fullmatch(folder.name) and any(_sessions(folder)) else ""
    return LAYOUT if any(layout_of(subject) for subject in _children(folder, _SUBJECT)) else ""


def describe(root: Path) -> Described:
    """Reads which images there are, and the table of label values where there is one."""
    root = Path(os.path.abspath(root))
    cases = list(_cases(root))
    labels = [one for _, _, files in cases for one in files if one.is_label]
    return Described(_modalities(cases), _scheme(root, labels), ENDINGS, _remarks(root, cases))


def chosen_entities(text: str) -> Entities:
    """Reads `acq-fast,desc-preproc`: of one entity several values may stand there, and `acq-` is a name without it."""
    found: dict[str, frozenset[str]] = {}
    for part in text.split(","):
        match = _CHOICE.fullmatch(part.strip())
        if match is None:
            raise UserError(
                f"{part.strip()!r} is no entity of BIDS; write entities with their values, such as acq-fast, or acq- "
                "for names without it, and commas between them"
            )
        found[match.group(1)] = found.get(match.group(1), frozenset()) | {match.group(2)}
    return found


def files_in(folder: Path) -> tuple[BidsFile, ...]:
    """The volumes in a folder whose names are of BIDS, sorted; `.nii.gz` stands for a `.nii` beside it."""
    if not folder.is_dir():
        return ()
    found: dict[str, BidsFile] = {}
    for path in sorted(folder.iterdir()):
        stem, named = _stem(path), entities_of(path)
        first = stem not in found or path.name.endswith(".gz")
        if first and path.name.endswith(EXTENSIONS) and "sub" in named and path.is_file():
            found[stem] = BidsFile(path, named, stem.rpartition("_")[2])
    return tuple(found.values())


def entities_of(path: Path) -> Mapping[str, str]:
    """The entities in the name of a file, with their values; empty for a name that is not of BIDS."""
    pairs = [_ENTITY.fullmatch(pair) for pair in _stem(path).split("_")[:-1]]
    return {match.group(1): match.group(2) for match in pairs if match} if all(pairs) else {}


def label_maps(root: Path) -> Mapping[str, Path]:
    """Case -> the label map of derivatives, such as those that `jaxfuse.data.sources.bids_derivatives` names.

    Raises:
        UserError: two of them are of one case.
    """
    found: dict[str, Path] = {}
    sessions = [session for subject in subject_folders(root) for session in _sessions(subject)]
    for one in (one for session in sessions for kind in _kinds(session) for one in files_in(kind)):
        if one.suffix != _SEGMENTATIONS[0]:
            continue
        case = "_".join(f"{name}-{one.entities[name]}" for name in ("sub", "ses", "run") if name in one.entities)
        if case in found:
            raise UserError(f"case {case} has two label maps, {found[case]} and {one.path.name}; keep one of them")
        found[case] = one.path
    return found


def subject_folders(root: Path) -> tuple[Path, ...]:
    """The folders of subjects that a root stands for: itself, those in it, or those a level or two further down."""
    if _SUBJECT.fullmatch(root.name):
        return (root,)
    there = _children(root, _SUBJECT)
    if there or not root.is_dir():
        return there
    # Derivatives beside raw data are theirs.
    places = [child for child in _children(root) if child.name != _DERIVATIVES] or _children(root)
    around = [folder for child in places for folder in (child, *_children(child)) if _children(folder, _SUBJECT)]
    below = [folder for folder in around if not made_here(folder)] or around
    if len(below) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in below[:5])
        raise UserError(f"{root} holds {len(below)} data sets ({names}); give the folder of one")
    return _children(below[0], _SUBJECT) if below else ()


def made_here(folder: Path) -> bool:
    """Whether a folder of derivatives says that jaxfuse made it: its label maps are predictions."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return any(one["Name"] == MAKER for one in content["GeneratedBy"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # none, or not ours


def _cases(root: Path) -> Iterator[tuple[str, Path, tuple[BidsFile, ...]]]:
    """Name, folder and files of each case, labels of derivatives among them."""
    for subject in subject_folders(root):
        if _OTHERS.fullmatch(subject.name):
            continue
        for session in _sessions(subject):
            files = _all_files(session)
            images = [one for one in files if one.suffix not in _NO_IMAGES]
            runs = sorted({one.entities["run"] for one in images if "run" in one.entities})
            name = subject.name if session == subject else f"{subject.name}_{session.name}"
            for run in runs if len(runs) > 1 else [""]:
                of_run = tuple(one for one in files if not run or one.entities.get("run", run) == run)
                yield (f"{name}_run-{run}" if run else name), session, of_run


def _sessions(subject: Path) -> tuple[Path, ...]:
    """The folders of a subject that hold kinds of images: its sessions, or itself."""
    places = (*_children(subject, _SESSION), subject)
    return tuple(place for place in places if any(files_in(kind) for kind in _kinds(place)))


def _kinds(place: Path) -> tuple[Path, ...]:
    """The folders of kinds of images, such as anat."""
    return tuple(child for child in _children(place) if not _SESSION.fullmatch(child.name))


def _all_files(session: Path) -> tuple[BidsFile, ...]:
    """The volumes of a session, and the labels of derivatives that belong to it."""
    own = [one for kind in _kinds(session) for one in files_in(kind)]
    subject = session if _SUBJECT.fullmatch(session.name) else session.parent
    around = subject.parent
    relative = session.relative_to(around)
    # Derivatives lie below raw data, and beside each other.
    beside = _children(around.parent) if around.parent.name == _DERIVATIVES else ()
    derived = [
        one
        for place in (*_children(around / _DERIVATIVES), *(other for other in beside if other != around))
        if not made_here(place)
        for kind in _kinds(place / relative)
        for one in files_in(kind)
        if one.is_label
    ]
    return (*own, *derived)


def _find(
    name: str,
    folder: Path,
    files: Sequence[BidsFile],
    modalities: Sequence[str],
    told: Mapping[str, Mapping[str, str]],
    chosen: Entities,
) -> Finding:
    images, missing = {}, {}
    for modality in modalities:
        there = [one for one in files if one.modality == modality and one.suffix not in _NO_IMAGES]
        if there:
            images[modality] = Image(_only_one(name, modality, there, chosen))
        else:
            missing[modality] = f"{name}{ENDINGS.get(modality, f'_{modality}.nii.gz')}"
    labels = [one for one in files if one.is_label]
    segmented = [one for one in labels if one.suffix == _SEGMENTATIONS[0]] or labels
    label = _only_one(name, "the label", segmented, chosen) if segmented else None
    return Finding(name, folder, "", images, missing, label, told=told.get(name.partition("_")[0], {}))


def _only_one(case: str, what: str, files: Sequence[BidsFile], chosen: Entities) -> Path:
    """The one file, or of several that which is chosen."""
    if len(files) == 1:
        return files[0].path
    kept = [one for one in files if all(one.entities.get(name, "") in values for name, values in chosen.items())]
    if len(kept) == 1:
        return kept[0].path
    names = " and ".join(one.path.name for one in (kept or files)[:3])
    of = ", ".join(f"{name}-{value}" for name, values in chosen.items() for value in sorted(values))
    among = f", {len(kept) or 'none'} of them with {of}" if chosen else ""
    raise UserError(
        f"case {case} has {len(files)} files for {what}{among}: {names}; choose by an entity of the name, as "
        "data.entities=acq-fast (verify: --entities), acq- for the one without it, or keep the one that is meant"
    )


def _modalities(cases: Iterable[tuple[str, Path, Sequence[BidsFile]]]) -> tuple[str, ...]:
    """All modalities, usual ones first."""
    found = {one.modality for _, _, files in cases for one in files if one.suffix not in _NO_IMAGES}
    return (*(name for name in ENDINGS if name in found), *sorted(found - set(ENDINGS)))


def _scheme(root: Path, labels: Sequence[BidsFile]) -> str:
    """The scheme of a table of label values; that of lesions for masks; empty where values are not told."""
    segmented = [one for one in labels if one.suffix == _SEGMENTATIONS[0]]
    if not segmented:
        return "lesion"
    first = segmented[0].path
    places = [first.with_name(f"{_stem(first)}.tsv")]
    for folder in first.parents:
        places += [*sorted(folder.glob("*dseg.tsv"))] if folder.is_relative_to(root) else []
    table = next((path for path in places if path.is_file()), None)
    return _scheme_of_table(table) if table else ""


def _scheme_of_table(path: Path) -> str:
    rows = _rows(path)
    if any(not {"index", "name"} <= set(row) or not row["index"].strip().isdecimal() for row in rows):
        raise UserError(
            f"{path} is no table of label values; the columns index, of whole numbers, and name are expected"
        )
    classes: dict[str, tuple[int, ...]] = {}
    for row in rows:
        value = int(row["index"])
        name = "background" if value == 0 else row["name"]
        classes[name] = (*classes.get(name, ()), value)
    try:
        return written_scheme(classes).name
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _participants(root: Path) -> Mapping[str, Mapping[str, str]]:
    """Subject -> what `participants.tsv` says of it; empty without that file."""
    subjects = subject_folders(root)
    path = subjects[0].parent / PARTICIPANTS if subjects else root / PARTICIPANTS
    if not path.is_file():
        return {}
    rows = _rows(path)
    if any("participant_id" not in row for row in rows):
        raise UserError(f"{path} has no column participant_id; restore it, or remove the file to go without it")
    return {row.pop("participant_id"): row for row in rows}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); a table with tabs between its columns is expected"
        ) from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} has rows with more or fewer values than columns; put one tab between two values")
    return rows


def _remarks(root: Path, cases: Sequence[tuple[str, Path, Sequence[BidsFile]]]) -> tuple[str, ...]:
    """Counts the images that no JSON file describes."""
    images = [one for _, _, files in cases for one in files if one.suffix not in _NO_IMAGES]
    bare = [one for one in images if not _has_sidecar(one, root)]
    if not bare:
        return ()
    return (f"{len(bare)} of {len(images)} images have no JSON file that describes them, such as {bare[0].path.name}",)


def _has_sidecar(one: BidsFile, root: Path) -> bool:
    """Whether an image has a JSON file of its name, or its suffix one in a folder above it."""
    above = [folder for folder in one.path.parents if folder.is_relative_to(root)]
    return one.path.with_name(f"{_stem(one.path)}.json").is_file() or any(
        (f / f"{one.suffix}.json").is_file() for f in above
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _children(folder: Path, named: re.Pattern[str] | None = None) -> tuple[Path, ...]:
    """The folders in a folder, sorted, of those names; hidden ones are left to their owners."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    kept = [name for name in names if named is None or named.fullmatch(name)]
    return tuple(folder / name for name in kept if (folder / name).is_dir())


SOURCE = described_source(LAYOUT, example=EXAMPLE, layout_of=layout_of, survey=survey, describe=describe)
