"""Folds of a data set: drawn by subject, alike in what they hold, or listed, as in nnU-Net's `splits_final.json`.

Folds are numbered from 1; the first is fold 0 of nnU-Net and of datalists. Without strata, with the seed 12345 and
where each case is a subject of its own, they are those that nnU-Net draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxfuse.data.splits import Split, check_sides
from jaxfuse.data.subject_names import SubjectOf, cases_by_subject, subject_of
from jaxfuse.errors import UserError
from jaxfuse.io.tables import write_json


def drawn_folds(
    ids: Sequence[str],
    count: int,
    *,
    seed: int,
    strata: Mapping[str, str] | None = None,
    subject: SubjectOf = subject_of,
) -> tuple[Split, ...]:
    """Parts the subjects of cases into folds, of which each validates once; all lists are sorted.

    `strata`: case -> what folds are to hold alike many of; a subject counts by its first case. Without strata they
    are the parts of a shuffled list, as scikit-learn's `KFold` makes them.

    Raises:
        UserError: there are fewer subjects than folds, or fewer than two folds.
    """
    cases = cases_by_subject(sorted(ids), subject)
    subjects = sorted(cases)
    if not 2 <= count <= len(subjects):
        raise UserError(
            f"{count} folds were asked for; with {len(subjects)} subjects, 2 to {max(2, len(subjects))} can be made, "
            "of which each validates at least one"
        )
    rng = np.random.RandomState(seed)
    if strata and len({strata[case] for case in ids}) > 1:
        parts = _dealt(subjects, {one: strata[cases[one][0]] for one in subjects}, count, rng)
    else:
        order = np.arange(len(subjects))
        rng.shuffle(order)
        parts = [{subjects[place] for place in part} for part in np.array_split(order, count)]
    return tuple(_split(ids, part, subject) for part in parts)


def fold_numbered(folds: Sequence[Split], number: int, *, said_by: str) -> Split:
    """The fold of a number from 1; refuses one that is not there."""
    if not 1 <= number <= len(folds):
        raise UserError(f"{said_by} has {len(folds)} folds; choose one by data.fold, 1 to {len(folds)}")
    return folds[number - 1]


def listed_folds(fold_of: Mapping[str, str], *, said_by: str) -> tuple[Split, ...]:
    """Folds by the number, from 0, that a data set tells of each case; refuses cases without one."""
    numbers = {case: int(told) if told.isdecimal() else -1 for case, told in fold_of.items()}
    for case, number in numbers.items():
        if number < 0:
            raise UserError(
                f"{said_by} tells the fold {fold_of[case]!r} of case {case}; a number from 0 is expected for each case"
            )
    return tuple(
        {
            "train": tuple(case for case in numbers if numbers[case] != fold),
            "val": tuple(case for case in numbers if numbers[case] == fold),
        }
        for fold in range(max(numbers.values()) + 1)
    )


def read_folds(path: Path, content: Sequence[object], known: set[str], *, subject: SubjectOf) -> tuple[Split, ...]:
    """Reads the folds of a `splits_final.json`, a list of objects with `train` and `val`, over cases of `known`.

    Raises:
        UserError: it is no such list, names other cases or one twice, or parts a subject.
    """
    folds: list[Split] = []
    for number, fold in enumerate(content):
        where = f"fold {number} of {path}"
        if not isinstance(fold, dict) or set(fold) != {"train", "val"} or not all(map(_is_list, fold.values())):
            raise UserError(f"{where} is not an object with the lists train and val of case ids; write it so")
        strangers = [case for side in fold.values() for case in side if case not in known]
        if strangers:
            raise UserError(f"{where} names cases that are not in the data: {', '.join(strangers[:5])}")
        if not fold["train"] or any(len(set(side)) < len(side) for side in fold.values()):
            raise UserError(f"{where} has nobody to train on, or names a case twice; correct its lists")
        split: Split = {side: tuple(fold[side]) for side in ("train", "val")}
        check_sides(split, subject, said_by=where)
        folds.append(split)
    if not folds:
        raise UserError(f"{path} has no fold; a list of objects with train and val is expected")
    return tuple(folds)


def write_folds(path: Path, folds: Sequence[Split]) -> None:
    """Writes folds in nnU-Net's form; refuses a file that is there."""
    if path.exists():
        raise UserError(f"{path} is there already; name another file for the folds, or remove it")
    write_json(path, [{side: list(fold[side]) for side in ("train", "val")} for fold in folds])


def ranks(values: Mapping[str, float], size: int) -> dict[str, str]:
    """Strata of numbers: cases in ascending order, so many in each; ties go by name."""
    order = sorted(values, key=lambda case: (values[case], case))
    return {case: f"{place // size:06d}" for place, case in enumerate(order)}


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _dealt(
    subjects: Sequence[str], strata: Mapping[str, str], count: int, rng: np.random.RandomState
) -> list[set[str]]:
    """Deals the shuffled subjects of each stratum to the folds in turn; the next goes on where one ended."""
    order: list[str] = []
    for stratum in sorted(set(strata.values())):
        members = [one for one in subjects if strata[one] == stratum]
        order += [members[place] for place in rng.permutation(len(members))]
    return [set(order[first::count]) for first in range(count)]


def _split(ids: Sequence[str], validating: set[str], subject: SubjectOf) -> Split:
    return {
        "train": tuple(case for case in sorted(ids) if subject(case) not in validating),
        "val": tuple(case for case in sorted(ids) if subject(case) in validating),
    }
