"""Problems of a data set, said case by case, without stopping at the first.

`fatal` is what training would refuse, or what makes its scores worthless; `warning` is what it would accept and a
person should look at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxfuse.data.brain import (
    AUTO,
    TOLD,
    BackgroundRule,
    Mask,
    background_problems,
    background_rule,
    find_brain,
    surely_shown,
)
from jaxfuse.data.cache import VolumePreparation
from jaxfuse.data.cases import intensity_problem, label_problem, whole_values
from jaxfuse.data.copies import Held, copy_problems, held_by
from jaxfuse.data.intensities import BRAIN
from jaxfuse.data.looks import CaseLook, Look, look_ahead
from jaxfuse.data.needs import Needs, needs_of
from jaxfuse.data.problems import ALL_CASES, Problem, Severity
from jaxfuse.data.sources.case_folders import HELD_OUT, files_of
from jaxfuse.data.sources.volumes import check_entities, volume_root
from jaxfuse.data.subject_names import cases_by_subject, told_subjects
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, geometry_mismatch
from jaxfuse.labels import LabelScheme, label_scheme, schemes_of_task

_SPACING_TOLERANCE_MM = 1e-3
# Ratio of sides beyond which `predict` refuses a case.
_OUTLIER = 1.1
# Looked at first, because most images are told by them.
_FEW_PLANES = 8


@dataclass(frozen=True)
class Verdict:
    """The cases looked at and their subjects, the names used, and every problem found, in the order of the cases.

    `needs`: what preparing those takes that lack no image; None where all do.
    """

    root: Path
    layout: str
    scheme: str
    modalities: tuple[str, ...]
    cases: tuple[str, ...]
    subjects: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
    needs: Needs | None = None

    def count(self, severity: Severity) -> int:
        return sum(p.severity == severity for p in self.problems)


@dataclass
class _Seen:
    """Notes on each case for the checks over all cases."""

    spacings: dict[str, tuple[float, ...]] = field(default_factory=dict)
    unoriented: int = 0
    labeled: int = 0
    classes: set[int] = field(default_factory=set)
    held: list[Held] = field(default_factory=list)
    background: BackgroundRule = TOLD


def verify(
    root: str | Path,
    *,
    layout: str | None = None,
    scheme: str | None = None,
    modalities: Sequence[str] | None = None,
    subject: str = "",
    background: str = AUTO,
    entities: str = "",
    on_case: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Reads every file of every case under `root`.

    `layout` and `scheme` are names; without them the layout is told from the names on disk and brings its
    scheme, and all `modalities` of the layout are looked for unless some are named. `subject` is the pattern of
    `data.subject`; `background` and `entities` are what `data.background` and `data.entities` say.
    `on_case(done, total)` is called after each case.

    Raises:
        UserError: only where there is nothing to look at: no folder, no case, an unknown name.
    """
    there = volume_root(root, layout=layout or "", entities=entities)
    check_entities(there, entities)
    labels = label_scheme(scheme or there.scheme)
    modalities = tuple(modalities or there.modalities)
    findings = there.survey(modalities)
    rule = told_subjects({found.id: found.told for found in findings}, subject, option="--subject")
    subjects = cases_by_subject((found.id for found in findings), rule)
    seen = _Seen(background=background_rule(background, modalities))
    problems = [Problem(ALL_CASES, "warning", remark) for remark in there.described.remarks]
    for done, case in enumerate(look_ahead(findings, seen.background), start=1):
        problems += [Problem(case.found.id, severity, text) for severity, text in _case_problems(case, labels, seen)]
        seen.held += held_by(case)
        if on_case:
            on_case(done, len(findings))
    problems += copy_problems(seen.held, subjects)
    problems += _orientation_problems(seen)
    problems += _spacing_problems(seen)
    problems += _absent_classes(seen, labels)
    ids = tuple(found.id for found in findings)
    place = {case: number for number, case in enumerate((*ids, ALL_CASES))}
    problems.sort(key=lambda problem: place[problem.case])
    whole = [files_of(found, labels_required=False) for found in findings if not found.missing]
    make = VolumePreparation(modalities, labels, BRAIN, None, seen.background, ())
    needs = needs_of(whole, make.forecast) if whole else None
    return Verdict(Path(root), there.layout, labels.name, modalities, ids, subjects, tuple(problems), needs)


def _case_problems(case: CaseLook, scheme: LabelScheme, seen: _Seen) -> list[tuple[Severity, str]]:
    found = case.found
    problems: list[tuple[Severity, str]] = [
        ("fatal", f"no {modality} image: {name} is missing") for modality, name in found.missing.items()
    ]
    first: Volume | None = None
    images: dict[str, Look] = {}
    for modality, one in case.images.items():
        problems += one.problems
        volume = one.volume
        if volume is None:
            continue
        first = first or volume
        mismatch = geometry_mismatch(volume, first)
        if mismatch:
            problems.append(("fatal", mismatch))
        found_here = _intensity_problems(modality, volume)
        problems += found_here
        if not mismatch and not any(severity == "fatal" for severity, _ in found_here):
            images[modality] = one
    if seen.background == TOLD:
        names = [one.volume.name for one in images.values() if one.volume]
        clauses = background_problems(names, [one.background for one in images.values()])
        problems.extend(("warning", text) for text in clauses)
    if first is not None:
        seen.spacings[found.id] = first.spacing_mm
        seen.unoriented += not first.oriented
    if case.label is None:
        if found.side != HELD_OUT:
            problems.append(("warning", "no label file: the case can be predicted, but not trained on or scored"))
        return problems
    problems += case.label.problems
    label = case.label.volume
    if label is not None:
        mismatch = geometry_mismatch(label, first) if first else ""
        if mismatch:
            problems.append(("fatal", mismatch))
        problems += _label_problems(label, scheme, {} if mismatch else images, seen)
    return problems


def _intensity_problems(modality: str, volume: Volume) -> list[tuple[Severity, str]]:
    name = volume.name
    bad = intensity_problem(volume)
    if bad:
        return [("fatal", bad)]
    low, high = volume.array.min(), volume.array.max()
    if low == high == 0:
        return [("fatal", f"{name} is empty: every voxel is 0")]
    if low == high:
        return [("fatal", f"{name} is constant: every voxel of {modality} is {low:g}")]
    if 0 in (low, high) and _has_two_values(volume.array[::_FEW_PLANES]) and _has_two_values(volume.array):
        return [("warning", f"{name} has one value only besides 0: it looks like a mask, not like a {modality} image")]
    return []


def _has_two_values(array: Shaped[np.ndarray, "*space"]) -> bool:
    """Whether all voxels have the least or the greatest value."""
    low, high = array.min(), array.max()
    return bool(((array == low) | (array == high)).all())


def _outside(marked: Mask, images: Mapping[str, Look], rule: BackgroundRule) -> int:
    """Counts the marked voxels that are no brain."""
    arrays = [one.volume.array for one in images.values() if one.volume]
    if not arrays:
        return 0
    shown = surely_shown([array[marked] for array in arrays], [one.background for one in images.values()])
    if shown is not None and shown.all():
        return 0
    brain = find_brain(arrays, tuple(images), rule).mask
    return int(np.count_nonzero(marked & ~brain))


def _label_problems(
    label: Volume, scheme: LabelScheme, images: Mapping[str, Look], seen: _Seen
) -> list[tuple[Severity, str]]:
    try:
        values = whole_values(label)
    except UserError as error:
        return [("fatal", str(error))]
    marked = values != 0
    present = sorted({int(value) for value in np.unique(values[marked])} | (set() if marked.all() else {0}))
    unknown = label_problem(label.path, present, scheme)
    seen.labeled += 1
    if unknown:
        seen.classes |= {scheme.encode[v] for v in present if v in scheme.encode}
        return [("fatal", unknown)]
    seen.classes |= {scheme.encode[value] for value in present}
    if not marked.any():
        return [("warning", f"{label.path.name} marks nothing: every voxel is background")]
    problems: list[tuple[Severity, str]] = []
    if set(present) <= {0, 1} and len(scheme.classes) > 2:
        meaning = scheme.classes[scheme.encode[1]]
        text = f"{label.path.name} holds only 0 and 1, which scheme {scheme.name} reads as {meaning}"
        problems.append(("warning", f"{text}; if it marks whole lesions, name the scheme lesion"))
    if outside := _outside(marked, images, seen.background):
        text = f"{label.path.name} marks {outside} voxels where every image shows background"
        problems.append(("warning", f"{text}; those beyond the brain's bounding box are not trained on"))
    return problems


def _orientation_problems(seen: _Seen) -> list[Problem]:
    if not seen.unoriented:
        return []
    text = f"headers tell no orientation (cases: {seen.unoriented}): array axis 0 is taken to run"
    others = len(seen.spacings) - seen.unoriented
    beside = (
        f" (cases whose headers tell one: {others}; left and right may differ between both kinds)" if others else ""
    )
    told = f"{text} to the right, axis 1 to the front, axis 2 up; see that it does{beside}"
    return [Problem(ALL_CASES, "warning", told)]


def _spacing_problems(seen: _Seen) -> list[Problem]:
    if not seen.spacings:
        return []
    rounded = {case: tuple(round(v / _SPACING_TOLERANCE_MM) for v in s) for case, s in seen.spacings.items()}
    usual, count = Counter(rounded.values()).most_common(1)[0]
    usual_mm = next(s for case, s in seen.spacings.items() if rounded[case] == usual)
    rule = f"while {count} of {len(rounded)} cases have {_sides(usual_mm)} mm"
    advice = f"; data.resample_mm=({', '.join(f'{v:g}' for v in usual_mm)}) brings all to these"
    return [
        Problem(case, "warning", f"voxels of {_sides(spacing)} mm, {rule}{advice * _differ(spacing, usual_mm)}")
        for case, spacing in seen.spacings.items()
        if not np.allclose(spacing, usual_mm, rtol=0, atol=_SPACING_TOLERANCE_MM)
    ]


def _differ(spacing: Sequence[float], usual_mm: Sequence[float]) -> bool:
    """Whether a side differs by more than a run takes cases of other sides for."""
    ratio = np.array(spacing) / np.array(usual_mm)
    return bool((np.maximum(ratio, 1 / ratio) > _OUTLIER).any())


def _absent_classes(seen: _Seen, scheme: LabelScheme) -> list[Problem]:
    """Classes that no labeled case holds: the sign of a wrong scheme, and a score that would be undefined."""
    if not seen.labeled:
        return []
    absent = [name for index, name in enumerate(scheme.classes) if index and index not in seen.classes]
    advice = "is it the right scheme?"
    if seen.held and (task := schemes_of_task(seen.held[0].case))[0]:
        advice = f"cases of {task[0]} are coded by {' or '.join(task[1])}: {advice}"
    return [
        Problem(ALL_CASES, "warning", f"no label holds the class {name} of scheme {scheme.name}; {advice}")
        for name in absent
    ]


def _sides(spacing_mm: Sequence[float]) -> str:
    return " × ".join(f"{v:g}" for v in spacing_mm)
