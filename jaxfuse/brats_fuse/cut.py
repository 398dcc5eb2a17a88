"""Stages I to III of a data set: from the volumes of a case to its slices in gray levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from jaxfuse.brats_fuse.layout import Layout, Row
from jaxfuse.brats_fuse.plan import Plan
from jaxfuse.data.brain import NONE, background_rule, find_brain
from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.intensities import NORMALIZATIONS, stored_range
from jaxfuse.data.preprocess import crop_case, uncrop
from jaxfuse.data.slices import as_stack, gray_levels, kept_slices, one_slice
from jaxfuse.errors import UserError
from jaxfuse.io.png import write_png

BrainOf = Callable[[CaseFiles], Bool[np.ndarray, "d h w"]]


@dataclass(frozen=True)
class Cut:
    """The slices of one case that are kept.

    Attributes:
        rows: one per slice, for the manifest.
        levels: whole pictures (n r c m), channels in the order of the layout's modalities.
        classes: class indices (n r c), or None for an unlabeled case.
        beyond: number of labeled voxels outside the brain.
        background: as in `CaseFacts`; None where it cannot be told.
    """

    rows: tuple[Row, ...]
    levels: UInt8[np.ndarray, "n r c m"]
    classes: UInt8[np.ndarray, "n r c"] | None
    beyond: int
    background: tuple[float | None, ...]


def cut_case(one: CaseFiles, plan: Plan, brain_of: BrainOf | None) -> Cut:
    """Reads, checks and cuts a case; without `brain_of` its brain is told from its images.

    Raises:
        UserError: the case cannot be read or prepared, has other voxel sides than the network's training, or no slice
            to keep.
    """
    layout = plan.layout
    case = load_case(one, layout.modalities, plan.scheme)
    plan.preparation.check_shown(f"case {case.id}", case.spacing_mm, case.shape, layout.axis)
    rule = background_rule(plan.preparation.background)
    found = find_brain(case.channels, layout.modalities, rule)
    # A mask of the brain, or the rule that all is shown, answers what images do not tell.
    asked = brain_of is None and rule.text != NONE
    brain, told = found.mask, tuple(one and one.value for one in found.backgrounds) if asked else ()
    if brain_of is not None:
        brain = brain & _fitting(case, brain_of(one))
    beyond = 0 if case.label is None else int(np.count_nonzero(case.label[~brain]))
    cropped = crop_case(
        case, normalize=NORMALIZATIONS["percentiles"], group=one.group, classes=len(plan.scheme.classes), brain=brain
    )
    stack = as_stack(cropped, layout.axis)
    kept = kept_slices(stack.facts)
    chosen = (one_slice(stack.facts, kept),) if plan.one_per_case else kept
    places = [stack.facts.crop_start[0] + index for index in chosen]
    classes = None if stack.label is None else uncrop(stack.label, stack, 0)[places]
    rows = tuple(_row(stack.facts, index, plan) for index in chosen)
    levels = uncrop(gray_levels(stack.image), stack, 0)[places]
    return Cut(rows, levels, classes, beyond, told)


def write_cut(out: Path, layout: Layout, cut: Cut) -> int:
    """Writes the sources and masks that are not there yet; returns how many."""
    written = 0
    for number, row in enumerate(cut.rows):
        pictures = {layout.source(row, m): cut.levels[number, ..., i] for i, m in enumerate(layout.modalities)}
        if cut.classes is not None:
            pictures[layout.mask(row)] = cut.classes[number]
        for path, picture in pictures.items():
            if not (out / path).is_file():
                write_png(out / path, picture)
                written += 1
    return written


def _fitting(case: Case, brain: Bool[np.ndarray, "d h w"]) -> Bool[np.ndarray, "d h w"]:
    """Returns a mask that has the shape of the case; refuses another."""
    if brain.shape != case.shape:
        raise UserError(f"case {case.id}: its brain mask has shape {brain.shape}, its images {case.shape}")
    return brain


def _row(facts: CaseFacts, index: int, plan: Plan) -> Row:
    """Makes the row of one slice, by its index in the stack; columns have the manifest's order."""
    brain, *classes = facts.slices[index]
    limits = {
        f"{modality}_p_{end}": value
        for modality in facts.modalities
        for end, value in zip(("lo", "hi"), stored_range(facts, modality), strict=True)
    }
    return {
        "case": facts.id,
        "z": facts.crop_start[0] + index,
        "split": plan.split_of[facts.id],
        "has_label": int(bool(classes)),
        "brain_px": brain,
        "tumor_px": sum(classes[1:]),
        **limits,
        "seen_in_training": int(facts.id in plan.seen),
    }
