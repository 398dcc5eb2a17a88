"""Streams of a training with a held-out half: the subjects that the follower learns from, and those it never sees.

Slices of one head are nearly copies of each other, so that a held-out example is one of another subject. Each subject
belongs to one stream for the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.subject_names import SubjectOf, subject_of
from jaxfuse.errors import UserError


@dataclass(frozen=True)
class Stream:
    """Some of the subjects, by name, and the places of their cases among all training cases."""

    subjects: tuple[str, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Streams:
    """Two streams without a subject in common.

    Attributes:
        lower: what the follower learns from.
        upper: what the leader is judged on, held out from the follower.
    """

    lower: Stream
    upper: Stream

    @property
    def told(self) -> str:
        """How many subjects each has, for a person."""
        return f"{len(self.upper.subjects)} subjects held out from the follower, which learns from the others"


def held_out_streams(cases: Sequence[PreparedCase], *, seed: int, subject: SubjectOf = subject_of) -> Streams:
    """Draws half of the subjects for each stream; of an odd number the lower stream has one more.

    Which subject falls where depends on the seed and the names, not on the order of the cases.

    Raises:
        UserError: the cases are of fewer than two subjects.
    """
    owners = [subject(case.of_case) for case in cases]
    names = sorted(set(owners))
    if len(names) < 2:
        raise UserError(
            f"the scheme holds out half of the subjects, and the {len(cases)} training cases are of one subject, "
            f"{', '.join(names)}; train on cases of at least two subjects, or by a scheme that holds none out, such as "
            "joint"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[place] for place in order[: (len(names) + 1) // 2]}

    def stream(of_lower: bool) -> Stream:
        subjects = tuple(name for name in names if (name in chosen) == of_lower)
        return Stream(subjects, tuple(place for place, owner in enumerate(owners) if owner in subjects))

    return Streams(stream(True), stream(False))


def check_halves(batch: int) -> None:
    """Refuses a batch that has no two halves."""
    if batch < 2:
        raise UserError(f"the scheme holds out half of each batch, and batch is {batch}; set it to at least 2")
