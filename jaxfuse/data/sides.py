"""Sides of a data set: which cases train, validate and test by its settings, and that no head is on two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.digests import Digests
from jaxfuse.data.folds import drawn_folds, fold_numbered, listed_folds, read_folds
from jaxfuse.data.labeled import with_unlabeled
from jaxfuse.data.paper_splits import paper_split
from jaxfuse.data.settings import Data
from jaxfuse.data.sources.case_folders import HELD_OUT
from jaxfuse.data.splits import (
    Split,
    bootstrap_split,
    check_sides,
    leave_one_out,
    read_split,
    split_cases,
    split_content,
)
from jaxfuse.data.strata import strata_of
from jaxfuse.data.subject_names import SubjectOf, cases_by_subject, told_subjects
from jaxfuse.errors import UserError
from jaxfuse.io.png import read_png

PAPER, FOLD = "paper", "fold"
_TWO = (TRAINING, VALIDATING) = ("train", "val")


def sides_of(data: Data, files: Sequence[CaseFiles], cache: Path) -> Split:
    """Returns the split that the settings ask for; the digests of files are kept in `cache`.

    Raises:
        UserError: the cases cannot be split so, a name has no subject, or cases of two subjects on two sides hold the
            same image, byte for byte.
    """
    subject = subject_of_files(data, files)
    split = _split(data, files, subject, cache)
    digests = Digests(cache / "digests.json")
    try:
        _refuse_shared_images(files, split, subject, digests)
    finally:
        digests.save()
    return split


def subject_of_files(data: Data, files: Sequence[CaseFiles]) -> SubjectOf:
    """Returns the rule of `data.subject`; without one, the data set's own subjects count before those of names."""
    return told_subjects({one.id: one.told for one in files}, data.subject)


def subject_counts(split: Mapping[str, Sequence[str]], subject: SubjectOf) -> dict[str, int]:
    """Returns side -> the number of its subjects."""
    return {side: len(cases_by_subject(ids, subject)) for side, ids in split.items()}


def folds_of(
    files: Sequence[CaseFiles], count: int, *, seed: int, stratify: str, subject: SubjectOf, cache: Path | None = None
) -> tuple[Split, ...]:
    """Draws folds of the cases that are not held out; arguments as of `drawn_folds` and `strata_of`."""
    rest = [one for one in files if one.side != HELD_OUT]
    strata = strata_of(rest, stratify, size=count, cache=cache)
    return drawn_folds([one.id for one in rest], count, seed=seed, strata=strata, subject=subject)


def _split(data: Data, files: Sequence[CaseFiles], subject: SubjectOf, cache: Path) -> Split:
    if data.split == PAPER:
        return _paper_split(data, files, subject)
    content = split_content(data.split) if data.split else None
    if content is not None and not isinstance(content, list):
        if data.fold:
            raise UserError(f"split file {data.split} holds one split, and data.fold is {data.fold}; leave data.fold 0")
        return read_split(data.split, [one.id for one in files], subject=subject)
    held_out = tuple(one.id for one in files if one.side == HELD_OUT)
    rest = [one for one in files if one.side != HELD_OUT]
    if content is None:
        split = _drawn_of_labeled(data, rest, subject, cache)
    else:
        folds = read_folds(Path(data.split), content, {one.id for one in rest}, subject=subject)
        split = fold_numbered(folds, data.fold, said_by=f"split file {data.split}")
    if held_out:
        split = {**split, HELD_OUT: held_out}
        check_sides(split, subject, said_by=f"the data set, which holds {len(held_out)} cases out")
    return split


def _drawn_of_labeled(data: Data, files: Sequence[CaseFiles], subject: SubjectOf, cache: Path) -> Split:
    """Draws among the cases that have a label, where others are kept to train."""
    labeled = [one for one in files if one.label is not None]
    if not data.keeps_unlabeled or len(labeled) in (0, len(files)):
        return _drawn(data, files, subject, cache)
    return with_unlabeled(_drawn(data, labeled, subject, cache), files, subject)


def _paper_split(data: Data, files: Sequence[CaseFiles], subject: SubjectOf) -> Split:
    named = [(one.id, one.group) for one in files]
    return paper_split(data.paper_split).of(named, seed=data.split_seed, subject=subject)


def _drawn(data: Data, files: Sequence[CaseFiles], subject: SubjectOf, cache: Path) -> Split:
    """A fold, a bootstrap sample, the sides that the data set tells, or a draw of a fraction."""
    ids = [one.id for one in files]
    if data.folds:
        drawn = {"seed": data.split_seed, "stratify": data.stratify, "subject": subject, "cache": cache}
        return fold_numbered(folds_of(files, data.folds, **drawn), data.fold, said_by="data.folds")
    if data.fold and any(FOLD in one.told for one in files):
        split = fold_numbered(_listed_folds(files), data.fold, said_by="the data set")
        check_sides(split, subject, said_by="the data set")
        return split
    if data.fold:
        return leave_one_out(ids, data.fold, subject=subject)
    if data.bootstrap:
        return bootstrap_split(ids, seed=data.split_seed, number=data.bootstrap, subject=subject)
    if data.val_fraction and any(one.side == VALIDATING for one in files):
        split = {
            side: tuple(one.id for one in files if (one.side == VALIDATING) == (side == VALIDATING)) for side in _TWO
        }
        check_sides(split, subject, said_by="the data set")
        return split
    size = round(1 / data.val_fraction) if data.val_fraction else 1
    strata = strata_of(files, data.stratify, size=size, cache=cache)
    pairs = [(one.id, strata[one.id]) for one in files]
    return split_cases(pairs, seed=data.split_seed, val_fraction=data.val_fraction, subject=subject)


def _listed_folds(files: Sequence[CaseFiles]) -> tuple[Split, ...]:
    return listed_folds({one.id: one.told.get(FOLD, "") for one in files}, said_by="the data set")


def _refuse_shared_images(files: Sequence[CaseFiles], split: Split, subject: SubjectOf, digests: Digests) -> None:
    """Refuses one image under the names of two subjects of which one trains and the other does not."""
    side_of = {case: side for side, ids in split.items() for case in ids}
    first: dict[str, tuple[CaseFiles, Image]] = {}
    for one in files:
        for image in one.images.values() if one.id in side_of else ():
            other, twin = first.setdefault(digests.of_image(image), (one, image))
            if side_of[other.id] == side_of[one.id] or subject(other.id) == subject(one.id) or _shows_nothing(image):
                continue
            raise UserError(
                f"{twin.path.name} of case {other.id} ({side_of[other.id]}) and {image.path.name} of case {one.id} "
                f"({side_of[one.id]}) are the same image byte for byte: one head under two names; leave one of the two "
                "out, or say by data.subject that they are one subject"
            )


def _shows_nothing(image: Image) -> bool:
    """Tells whether all voxels are equal: a placeholder is alike in every case that lacks a modality."""
    array = read_png(image.path) if image.path.suffix == ".png" else image.read().array
    return bool(np.all(array == array.flat[0]))
