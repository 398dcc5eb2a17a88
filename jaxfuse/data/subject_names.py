"""Subjects by the names of their cases: examinations of one head never stand on two sides of a split.

Names of published data sets are known, and endings that tell an examination (a session, a visit, a date). For others
`data.subject` says it. A name that nothing fits is a subject of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from jaxfuse.errors import UserError

SubjectOf = Callable[[str], str]

_EXAMINATION = "ses|session|visit|week|month|tp|timepoint|fu|follow-?up|baseline"
_DATE = r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\2(?:0[1-9]|[12]\d|3[01])"
# The first that fits a whole name decides; its first group is the subject.
_KNOWN = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(brats(?:1[789]|20|2021)_.+)",  # up to 2021 a name is a subject, whatever numbers it ends in
        r"(brats-[a-z]+(?:-rt)?-\d+)-\d+",  # from 2023 on the number of the examination stands behind
        r"(sub-[a-z0-9]+)(?:_.+)?",  # BIDS
        r"(upenn-gbm-\d+)_\d+",
        r"(ucsf-pdgm-\d+)_.+",
        r"(tcga[-_][a-z0-9]{2}[-_][a-z0-9]{4})(?:[-_.].+)?",
        r"((?:adni_)?\d{3}_s_\d{4,5})(?:_.+)?",
        r"(oas[12]_\d{4})_mr\d+(?:_.+)?",  # OASIS 1 and 2
        r"(oas3\d{4})_.+",  # OASIS 3
        # A name without a number before its ending tells a place or a study, not a subject.
        rf"(.*\d.*?)[-_.](?:{_EXAMINATION})[-_]?\d*(?:[-_.].*)?",
        rf"(.*\d.*?)[-_.]{_DATE}(?:[-_.].*)?",
    )
)


def subject_of(case_id: str) -> str:
    """Returns the subject of a case by its name: BraTS-GLI-00001 of BraTS-GLI-00001-000 and of BraTS-GLI-00001-001."""
    matches = (pattern.fullmatch(case_id) for pattern in _KNOWN)
    return next((match.group(1) for match in matches if match), case_id)


def check_pattern(option: str, pattern: str) -> None:
    """Refuses a pattern that is no regular expression with exactly one group; `option` is what a user calls it."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(
            f"{option} is {pattern!r}, which is no regular expression ({error}); write one with one group, which is "
            "the subject, such as '(P[0-9]+)_.*'"
        ) from error
    if groups != 1:
        raise UserError(
            f"{option} is {pattern!r}, which has {groups} groups; exactly one is expected, the part of a case's name "
            "that is the subject, such as '(P[0-9]+)_.*'"
        )


def subject_rule(pattern: str = "", *, option: str = "data.subject") -> SubjectOf:
    """Returns a function from a case's name to its subject: by the group of `pattern`, or by known names without one.

    The pattern is looked for from the beginning of a name. The function raises `UserError` for a name that it does not
    fit.
    """
    if not pattern:
        return subject_of
    check_pattern(option, pattern)
    compiled = re.compile(pattern)

    def subject(case_id: str) -> str:
        match = compiled.match(case_id)
        if match is None or not match.group(1):
            raise UserError(
                f"case {case_id} has no subject by {option} {pattern!r}; write a pattern that fits all names"
            )
        return match.group(1)

    return subject


def told_subjects(
    told: Mapping[str, Mapping[str, str]], pattern: str = "", *, option: str = "data.subject"
) -> SubjectOf:
    """Returns `subject_rule`; without a pattern a case whose data set tells its `subject` belongs to that one.

    `told`: case -> what its data set tells of it.
    """
    rule = subject_rule(pattern, option=option)
    if pattern:
        return rule
    return lambda case: told.get(case, {}).get("subject") or rule(case)


def likely_subject(case_id: str, pattern: str) -> str:
    """Returns the subject of a case that `pattern` need not fit, as of other data; then known names tell it."""
    match = re.match(pattern, case_id) if pattern else None
    return match.group(1) if match and match.group(1) else subject_of(case_id)


def cases_by_subject(ids: Iterable[str], subject: SubjectOf = subject_of) -> dict[str, tuple[str, ...]]:
    """Returns subject -> its cases, both in the order of `ids`; a case that stands there twice counts once."""
    found: dict[str, tuple[str, ...]] = {}
    for case in dict.fromkeys(ids):
        found[subject(case)] = (*found.get(subject(case), ()), case)
    return found
