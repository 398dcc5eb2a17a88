"""Splits of subjects into those that train and those that validate: drawn, by folds, by bootstrap, or from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxfuse.errors import UserError

# BraTS 2023: subject, then the number of the examination.
_EXAMINATION = re.compile(r"(BraTS-[A-Z]+-\d+)-\d+")


def subject_of(case_id: str) -> str:
    """The subject of a case: BraTS-GLI-00001-000 and BraTS-GLI-00001-001 are two examinations of one."""
    match = _EXAMINATION.fullmatch(case_id)
    return match.group(1) if match else case_id


def split_cases(
    ids_and_groups: Iterable[tuple[str, str]],
    *,
    seed: int,
    val_fraction: float | None = None,
    val_count: int | None = None,
) -> dict[str, tuple[str, ...]]:
    """A seeded split by subject, stratified by group: `{"train": ids, "val": ids}`, each sorted.

    Exactly one of `val_fraction`, in (0, 1), and `val_count` says how many *subjects* validate; a fraction is
    rounded, and leaves at least one subject on each side. Groups share the validation places in proportion
    to their size, by largest remainders. The order in which cases are listed does not matter.

    A single case is returned on both sides: training on it is an overfit check, and the caller has to say so.

    Raises:
        UserError: for no case, a repeated id, cases of one subject only, and a size that cannot be met.
    """
    pairs = sorted(ids_and_groups)
    ids = tuple(id_ for id_, _ in pairs)
    if not ids or len(set(ids)) < len(ids):
        raise UserError(f"{len(ids)} cases with {len(set(ids))} different ids were given; unique cases are expected")
    if len(ids) == 1:
        return {"train": ids, "val": ids}
    group_of: dict[str, str] = {}
    for id_, group in pairs:
        group_of.setdefault(subject_of(id_), group)  # a subject counts in the group of its first case
    total = _places(len(group_of), val_fraction, val_count)
    groups = {g: sorted(s for s in group_of if group_of[s] == g) for g in sorted(set(group_of.values()))}
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for group, count in _shares({g: len(members) for g, members in groups.items()}, total).items():
        order = rng.permutation(len(groups[group]))
        chosen |= {groups[group][i] for i in order[:count]}
    return {
        "train": tuple(i for i in ids if subject_of(i) not in chosen),
        "val": tuple(i for i in ids if subject_of(i) in chosen),
    }


def leave_one_out(ids: Sequence[str], fold: int) -> dict[str, tuple[str, ...]]:
    """The split in which subject number `fold`, from 1 in the order of `ids`, validates and all others train.

    Networks of several folds together are the ensemble of InfiNet's public code.

    Raises:
        UserError: for a number that no subject has, and where there is one subject only.
    """
    subjects = _subjects(ids)
    if not 1 <= fold <= len(subjects):
        raise UserError(f"fold {fold} was asked for; with {len(subjects)} subjects, choose 1 to {len(subjects)}")
    return _sides(ids, [subject for subject in subjects if subject != subjects[fold - 1]])


def bootstrap_split(ids: Sequence[str], *, seed: int, number: int) -> dict[str, tuple[str, ...]]:
    """Bootstrap sample `number`: as many subjects as there are, drawn with replacement, train; those left out validate.

    A subject that was drawn twice stands twice among the training cases. Networks of several numbers together are the
    bootstrapped ensemble of the InfiNet paper. A sample that leaves nobody out is drawn again.

    Raises:
        UserError: where there is one subject only.
    """
    subjects = _subjects(ids)
    rng = np.random.default_rng([seed, number])
    while len(set(drawn := rng.integers(len(subjects), size=len(subjects)).tolist())) == len(subjects):
        pass  # each was drawn once: nobody would validate
    return _sides(ids, [subjects[place] for place in sorted(drawn)])


def _subjects(ids: Sequence[str]) -> list[str]:
    """The subjects in the order of their first cases; at least two."""
    subjects = list(dict.fromkeys(subject_of(id_) for id_ in ids))
    if len(set(ids)) < len(ids) or len(subjects) < 2:
        raise UserError(
            f"{len(ids)} cases of {len(subjects)} subjects were given; some are to train and others to validate, which "
            "takes different cases of at least two subjects"
        )
    return subjects


def _sides(ids: Sequence[str], training: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Turns training subjects into both sides: their cases, as often as a subject is listed; the other cases once."""
    cases = {subject: [id_ for id_ in ids if subject_of(id_) == subject] for subject in map(subject_of, ids)}
    return {
        "train": tuple(id_ for subject in training for id_ in cases[subject]),
        "val": tuple(id_ for id_ in ids if subject_of(id_) not in set(training)),
    }


def read_split(path: str | Path, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """An explicit split: a JSON file `{"train": [ids], "val": [ids]}` over cases that exist in `ids`.

    Cases in neither list are left out. No subject may be on both sides, except that one single case may be
    both lists (an overfit check).

    Raises:
        UserError: for anything else.
    """
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"split file {path} cannot be read ({error}); JSON with the lists train and val is expected"
        ) from error
    if not isinstance(content, dict) or set(content) != {"train", "val"}:
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"split file {path} holds {found or 'nothing'}; exactly the two lists train and val are expected"
        )
    known = set(ids)
    split: dict[str, tuple[str, ...]] = {}
    for side, listed in content.items():
        if not isinstance(listed, list) or not listed or len({str(i) for i in listed}) < len(listed):
            raise UserError(f"split file {path}: {side} must be a list of at least one case id, each once")
        strangers = [str(i) for i in listed if i not in known]
        if strangers:
            raise UserError(
                f"split file {path}: {side} names cases that are not in the data: {', '.join(strangers[:5])}"
            )
        split[side] = tuple(listed)
    shared = {subject_of(i) for i in split["train"]} & {subject_of(i) for i in split["val"]}
    if shared and not (split["train"] == split["val"] and len(split["train"]) == 1):
        raise UserError(f"split file {path}: subject {min(shared)} is in both train and val; keep it on one side")
    return split


def _places(subjects: int, fraction: float | None, count: int | None) -> int:
    if (fraction is None) == (count is None):
        raise UserError("a split needs either a validation fraction or a validation count, not both and not neither")
    if subjects == 1:
        raise UserError("all cases belong to one subject; a split needs two, because a subject is never on both sides")
    if count is not None:
        if not 1 <= count < subjects:
            raise UserError(
                f"{count} validation subjects were asked for; with {subjects} subjects, 1 to {subjects - 1} can be"
            )
        return count
    assert fraction is not None
    if not 0 < fraction < 1:
        raise UserError(f"the validation fraction is {fraction}; a number between 0 and 1 is expected")
    return min(max(round(fraction * subjects), 1), subjects - 1)


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` places in proportion to `sizes`, by largest remainders; ties go by name."""
    whole = sum(sizes.values())
    shares = {g: total * size // whole for g, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda g: (-(total * sizes[g] % whole), g))
    for group in by_remainder[: total - sum(shares.values())]:
        shares[group] += 1
    return shares
