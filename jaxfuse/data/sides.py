"""Sides of a data set: which cases train, validate and test by its settings, and that no head is on two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.digests import Digests
from jaxfuse.data.paper_splits import paper_split
from jaxfuse.data.settings import Data
from jaxfuse.data.sources.case_folders import HELD_OUT
from jaxfuse.data.splits import Split, bootstrap_split, check_sides, leave_one_out, read_split, split_cases
from jaxfuse.data.subject_names import SubjectOf, cases_by_subject, told_subjects
from jaxfuse.errors import UserError
from jaxfuse.io.png import read_png

PAPER = "paper"


def sides_of(data: Data, files: Sequence[CaseFiles], cache: Path) -> Split:
    """Returns the split that the settings ask for; the digests of files are kept in `cache`.

    Raises:
        UserError: the cases cannot be split so, a name has no subject, or cases of two subjects on two sides hold the
            same image, byte for byte.
    """
    subject = subject_of_files(data, files)
    split = _split(data, files, subject)
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


def _split(data: Data, files: Sequence[CaseFiles], subject: SubjectOf) -> Split:
    if data.split and data.split != PAPER:
        return read_split(data.split, [one.id for one in files], subject=subject)
    held_out = tuple(one.id for one in files if one.side == HELD_OUT)
    if data.split == PAPER or not held_out:
        return _drawn(data, files, subject)
    split = {**_drawn(data, [one for one in files if one.side != HELD_OUT], subject), HELD_OUT: held_out}
    check_sides(split, subject, said_by=f"the data set, which holds {len(held_out)} cases out")
    return split


def _drawn(data: Data, files: Sequence[CaseFiles], subject: SubjectOf) -> Split:
    """The split of the paper, a fold, a bootstrap sample, or a draw of a fraction."""
    ids, named = [one.id for one in files], [(one.id, one.group) for one in files]
    if data.split == PAPER:
        return paper_split(data.paper_split).of(named, seed=data.split_seed, subject=subject)
    if data.fold:
        return leave_one_out(ids, data.fold, subject=subject)
    if data.bootstrap:
        return bootstrap_split(ids, seed=data.split_seed, number=data.bootstrap, subject=subject)
    return split_cases(named, seed=data.split_seed, val_fraction=data.val_fraction, subject=subject)


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
