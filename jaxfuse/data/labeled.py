"""Cases with and without a label among those that train, and labels that are held back as if there were few.

With `data.unlabeled="keep"` a data set may hold cases without a label. They train what learns from images, and never
validate. `data.labeled` leaves the labels of so many training subjects alone, for studies of few labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.splits import Split
from jaxfuse.data.subject_names import SubjectOf
from jaxfuse.errors import UserError
from jaxfuse.options import at_least

REFUSE, KEEP = "refuse", "keep"


def check_labels(where: str, group: Any, labeled_sources: Sequence[str]) -> None:
    """Refuses an unknown policy, a number that is none, and options that a source would ignore."""
    asked = {"unlabeled": REFUSE, "labeled": 0, "labeled_draw": 0, **dict(group.items())}
    at_least(f"{where}.", asked, labeled=0, labeled_draw=0)
    if asked["unlabeled"] not in (REFUSE, KEEP):
        raise UserError(f"{where}.unlabeled is {asked['unlabeled']!r}; choose {REFUSE} or {KEEP}")
    if asked["labeled_draw"] and not asked["labeled"]:
        raise UserError(
            f"{where}.labeled_draw is {asked['labeled_draw']}, and {where}.labeled 0, so that nothing is drawn; set "
            f"{where}.labeled to the number of subjects whose labels are known, or leave labeled_draw out"
        )
    if (asked["unlabeled"] == KEEP or asked["labeled"]) and group.source not in labeled_sources:
        option = "labeled" if asked["labeled"] else "unlabeled"
        raise UserError(
            f"{where}.{option} is given and {where}.source is {group.source!r}; only volumes and their slices have it: "
            "leave it out"
        )


def with_unlabeled(split: Mapping[str, Sequence[str]], files: Sequence[CaseFiles], subject: SubjectOf) -> Split:
    """Returns a split of the labeled cases with all others training, but those of subjects that are on another side."""
    elsewhere = {subject(case) for side, ids in split.items() if side != "train" for case in ids}
    further = [one.id for one in files if one.label is None and subject(one.id) not in elsewhere]
    return {**{side: tuple(ids) for side, ids in split.items()}, "train": (*split["train"], *further)}


def held_back(
    files: Sequence[CaseFiles], training: Sequence[str], subject: SubjectOf, *, labeled: int, draw: int, seed: int
) -> tuple[CaseFiles, ...]:
    """Returns the files of cases, of whose training subjects only `labeled` keep their labels; 0: all do.

    Fewer subjects are among more of the same draw. Which they are depends on the seed, the draw and the names.

    Raises:
        UserError: not so many training subjects have a label.
    """
    if not labeled:
        return tuple(files)
    train = set(training)
    owners = sorted({subject(one.id) for one in files if one.id in train and one.label is not None})
    if labeled > len(owners):
        raise UserError(
            f"data.labeled is {labeled}, and {len(owners)} training subjects have a label; ask for at most so many, or "
            "leave it at 0 for all"
        )
    order = np.random.default_rng([seed, draw]).permutation(len(owners))
    known = {owners[place] for place in order[:labeled]}
    return tuple(
        replace(one, label=None, label_twins=()) if one.id in train and subject(one.id) not in known else one
        for one in files
    )


def check_labeled(files: Sequence[CaseFiles], split: Mapping[str, Sequence[str]]) -> None:
    """Refuses a validation case without a label, and training cases of which none has one."""
    by_id = {one.id: one for one in files}
    if bare := [case for case in split["val"] if by_id[case].label is None]:
        raise UserError(f"case {bare[0]} has no label, and it is to validate; let it train, where it needs none")
    if all(by_id[case].label is None for case in split["train"]):
        raise UserError(
            f"none of the {len(split['train'])} training cases has a label, and a phase learns from labels; add some "
            "that have one"
        )
