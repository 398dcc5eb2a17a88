"""Splits of subjects into those that train, validate and test: drawn, by folds, by bootstrap, or from a file.

Test cases are held out: nothing is learned from them, and nothing is chosen by them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.subject_names import SubjectOf, cases_by_subject, subject_of
from jaxfuse.errors import UserError

SIDES = ("train", "val", "test")
Split = dict[str, tuple[str, ...]]


def split_cases(
    ids_and_groups: Iterable[tuple[str, str]],
    *,
    seed: int,
    val_fraction: float | None = None,
    val_count: int | None = None,
    subject: SubjectOf = subject_of,
) -> Split:
    """A seeded split by subject, stratified by group: `{"train": ids, "val": ids}`, each sorted.

    Exactly one of `val_fraction`, in [0, 1), and `val_count` says how many *subjects* validate. A fraction is
    rounded, and leaves at least one subject on each side; 0 is exact, and all cases train. Groups share the validation
    places in proportion to their size, by largest remainders. The order in which cases are listed does not matter.

    A single case is returned on both sides: training on it is an overfit check, and the caller has to say so.

    Raises:
        UserError: for no case, a repeated id, cases of one subject only, and a size that cannot be met.
    """
    pairs = sorted(ids_and_groups)
    ids = tuple(id_ for id_, _ in pairs)
    if not ids or len(set(ids)) < len(ids):
        raise UserError(f"{len(ids)} cases with {len(set(ids))} different ids were given; unique cases are expected")
    if val_fraction == 0 and val_count is None:
        return {"train": ids, "val": ()}
    if len(ids) == 1:
        return {"train": ids, "val": ids}
    group_of: dict[str, str] = {}
    for id_, group in pairs:
        group_of.setdefault(subject(id_), group)  # a subject counts in the group of its first case
    total = _places(len(group_of), val_fraction, val_count)
    groups = {g: sorted(s for s in group_of if group_of[s] == g) for g in sorted(set(group_of.values()))}
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for group, count in _shares({g: len(members) for g, members in groups.items()}, total).items():
        order = rng.permutation(len(groups[group]))
        chosen |= {groups[group][i] for i in order[:count]}
    return {
        "train": tuple(i for i in ids if subject(i) not in chosen),
        "val": tuple(i for i in ids if subject(i) in chosen),
    }


def leave_one_out(ids: Sequence[str], fold: int, *, subject: SubjectOf = subject_of) -> Split:
    """The split in which subject number `fold`, from 1 in the order of `ids`, validates and all others train.

    Networks of several folds together are the ensemble of InfiNet's public code.

    Raises:
        UserError: for a number that no subject has, and where there is one subject only.
    """
    subjects = _subjects(ids, subject)
    if not 1 <= fold <= len(subjects):
        raise UserError(f"fold {fold} was asked for; with {len(subjects)} subjects, choose 1 to {len(subjects)}")
    return _sides(ids, [one for one in subjects if one != subjects[fold - 1]], subject)


def bootstrap_split(ids: Sequence[str], *, seed: int, number: int, subject: SubjectOf = subject_of) -> Split:
    """Bootstrap sample `number`: as many subjects as there are, drawn with replacement, train; those left out validate.

    A subject that was drawn twice stands twice among the training cases. Networks of several numbers together are the
    bootstrapped ensemble of the InfiNet paper. A sample that leaves nobody out is drawn again.

    Raises:
        UserError: where there is one subject only.
    """
    subjects = _subjects(ids, subject)
    rng = np.random.default_rng([seed, number])
    while len(set(drawn := rng.integers(len(subjects), size=len(subjects)).tolist())) == len(subjects):
        pass  # each was drawn once: nobody would validate
    return _sides(ids, [subjects[place] for place in sorted(drawn)], subject)


def _subjects(ids: Sequence[str], subject: SubjectOf) -> list[str]:
    """The subjects in the order of their first cases; at least two."""
    subjects = list(cases_by_subject(ids, subject))
    if len(set(ids)) < len(ids) or len(subjects) < 2:
        raise UserError(
            f"{len(ids)} cases of {len(subjects)} subjects were given; some are to train and others to validate, which "
            f"takes different cases of at least two subjects{_advice(len(ids))}"
        )
    return subjects


def _sides(ids: Sequence[str], training: Sequence[str], subject: SubjectOf) -> Split:
    """Turns training subjects into both sides: their cases, as often as a subject is listed; the other cases once."""
    cases = cases_by_subject(ids, subject)
    return {
        "train": tuple(id_ for one in training for id_ in cases[one]),
        "val": tuple(id_ for id_ in ids if subject(id_) not in set(training)),
    }


def split_content(path: str | Path) -> Any:
    """The JSON of a split file; refuses a file that cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"split file {path} cannot be read ({error}); JSON with the lists train and val is expected"
        ) from error


def read_split(path: str | Path, ids: Iterable[str], *, subject: SubjectOf = subject_of) -> Split:
    """An explicit split: a JSON file `{"train": [ids], "val": [ids], "test": [ids]}` over cases that exist in `ids`.

    `test` may be left out; `val` and `test` may be empty lists. Cases in no list are left out. No subject may be on
    two sides, except that one single case may be both lists `train` and `val` (an overfit check).

    Raises:
        UserError: for anything else.
    """
    content = split_content(path)
    if not isinstance(content, dict) or not {"train", "val"} <= set(content) <= set(SIDES):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"split file {path} holds {found or 'nothing'}; the lists train and val are expected, and test where some "
            "cases are held out"
        )
    known = set(ids)
    split: Split = {}
    for side, listed in content.items():
        if not isinstance(listed, list) or len({str(i) for i in listed}) < len(listed):
            raise UserError(f"split file {path}: {side} must be a list of case ids, each once")
        if side == "train" and not listed:
            raise UserError(f"split file {path}: train is empty; name at least one case to train on")
        strangers = [str(i) for i in listed if i not in known]
        if strangers:
            raise UserError(
                f"split file {path}: {side} names cases that are not in the data: {', '.join(strangers[:5])}"
            )
        split[side] = tuple(listed)
    check_sides(split, subject, said_by=f"split file {path}")
    return split


def check_sides(split: Mapping[str, Sequence[str]], subject: SubjectOf, *, said_by: str) -> None:
    """Refuses a split that has cases of one subject on two sides; names the subject and both cases.

    One single case that trains and validates passes: it is an overfit check.
    """
    if split["train"] == split["val"] and len(split["train"]) == 1 and not split.get("test"):
        return
    first: dict[str, tuple[str, str]] = {}
    for side, listed in split.items():
        for case in listed:
            where, other = first.setdefault(subject(case), (side, case))
            if where != side:
                both = f"{other} and {case} are" if other != case else f"{case} is"
                raise UserError(
                    f"{said_by}: subject {subject(case)} is in both {where} and {side} ({both} listed); keep it on one "
                    f"side, or say by data.subject what tells subjects apart"
                )


def _advice(cases: int) -> str:
    return "; where each case is a subject of its own, set data.subject to '(.+)'" if cases > 1 else ""


def _places(subjects: int, fraction: float | None, count: int | None) -> int:
    if (fraction is None) == (count is None):
        raise UserError("a split needs either a validation fraction or a validation count, not both and not neither")
    if subjects == 1:
        raise UserError(
            "all cases belong to one subject; a split needs two, because a subject is never on both sides: set "
            "data.subject to what tells subjects apart, such as '(.+)' where each case is one"
        )
    if count is not None:
        if not 1 <= count < subjects:
            raise UserError(
                f"{count} validation subjects were asked for; with {subjects} subjects, 1 to {subjects - 1} can be"
            )
        return count
    assert fraction is not None
    if not 0 <= fraction < 1:
        raise UserError(f"the validation fraction is {fraction}; a number from 0 to below 1 is expected")
    return min(max(round(fraction * subjects), 1), subjects - 1)


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` places in proportion to `sizes`, by largest remainders; ties go by name."""
    whole = sum(sizes.values())
    shares = {g: total * size // whole for g, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda g: (-(total * sizes[g] % whole), g))
    for group in by_remainder[: total - sum(shares.values())]:
        shares[group] += 1
    return shares
