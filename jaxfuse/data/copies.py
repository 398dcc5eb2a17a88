"""Copies among the files of a data set: one image under two names, and labels that are images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxfuse.data.cases import Image
from jaxfuse.data.looks import CaseLook
from jaxfuse.data.problems import Problem, Severity


@dataclass(frozen=True)
class Held:
    """One file of a case, by its place and its fingerprint."""

    case: str
    image: Image
    is_label: bool
    fingerprint: str

    @property
    def name(self) -> str:
        channel = self.image.channel
        return self.image.path.name if channel is None else f"channel {channel} of {self.image.path.name}"


def held_by(case: CaseLook) -> list[Held]:
    """Lists the files of a case that can be told from others; not those whose voxels are all alike."""
    looks = [*((one, False) for one in case.images.values()), *([(case.label, True)] if case.label else [])]
    return [
        Held(case.found.id, Image(one.volume.path, one.volume.channel), is_label, one.fingerprint)
        for one, is_label in looks
        if one.volume is not None and one.fingerprint
    ]


def copy_problems(held: Iterable[Held], subjects: Mapping[str, tuple[str, ...]]) -> list[Problem]:
    """Returns one problem for each pair of cases that share files, and for each case that holds a file twice.

    `subjects`: subject -> its cases.
    """
    subject_of = {case: subject for subject, cases in subjects.items() for case in cases}
    first: dict[str, list[Held]] = {}
    shared: dict[tuple[str, str, bool, bool], list[tuple[str, str]]] = {}
    # Images first: a label that equals one is the copy.
    for one in sorted(held, key=lambda one: one.is_label):
        alike = first.setdefault(one.fingerprint, [])
        other = next((other for other in alike if _are_equal(one, other)), None)
        if other is None:
            alike.append(one)
        else:
            key = one.case, other.case, one.is_label, other.is_label
            shared.setdefault(key, []).append((one.name, other.name))
    return [_problem(*key, pairs, subject_of) for key, pairs in shared.items()]


def _are_equal(one: Held, other: Held) -> bool:
    """Compares every voxel: a fingerprint says that it is worth while."""
    return np.array_equal(one.image.read().array, other.image.read().array)


def _problem(
    case: str,
    other: str,
    is_label: bool,
    other_is_label: bool,
    pairs: list[tuple[str, str]],
    subject_of: Mapping[str, str],
) -> Problem:
    names, others = (", ".join(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    whose = "" if case == other else f" of case {other}"
    text = f"{names}: equal in every voxel to {others}{whose}"
    severity: Severity = "warning"
    if is_label and not other_is_label:
        severity, text = "fatal", f"{text}: the label is an image, or the image a label"
    elif is_label:
        text = f"{text}, which shows another head" if subject_of[case] != subject_of[other] else text
    elif case == other:
        text = f"{text}: one modality is a copy of another"
    elif subject_of[case] == subject_of[other]:
        text = f"{text}, another examination of subject {subject_of[case]}"
    else:
        severity = "fatal"
        text = f"{text}: one head under two names; leave one out, or say by data.subject that they are one subject"
    return Problem(case, severity, text)
