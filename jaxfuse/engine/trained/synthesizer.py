"""A modality of whole volumes, synthesized from others by trained networks of slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxfuse.config import Phase
from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.data.dataset import prepare_like
from jaxfuse.data.intensities import Landmarks
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.settings import Data
from jaxfuse.data.slices import AXES, pictures
from jaxfuse.engine.build import case_predictor
from jaxfuse.engine.trained.phases import Trained, parse_run, shown, trained_phases
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import write_like
from jaxfuse.io.tables import write_json
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System

# The output of every network that synthesizes, in [0, 1].
SYNTHESIZED = "synthesized"
DESCRIPTION = "synthesized by jaxfuse"

Volume = Float[np.ndarray, "d h w"]
Predict = Callable[[State, Prepared], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Synthesizer:
    """One trained phase of one run that synthesizes.

    Attributes:
        sources, target: modalities.
        range: what the target's 0 and 1 stand for: stored values, medians over the training volumes. The range of the
            real image, were there one, is not known.
    """

    name: str
    system: System
    phase: Phase
    data: Data
    weights: State
    landmarks: Landmarks
    sources: tuple[str, ...]
    target: str
    range: tuple[float, float]

    @property
    def task(self) -> str:
        return f"{self.target} from {' and '.join(self.sources)}"


@dataclass(frozen=True)
class Passes:
    """How networks go over a slice.

    Attributes:
        whole: each slice in one pass, filled up with background to sides that the network can take; else in patches of
            the size of training, averaged where they overlap.
        overlap, memory_mb: in place of those of the runs' validation.
    """

    whole: bool = False
    overlap: float | None = None
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        for name, value in {"overlap": self.overlap, "memory_mb": self.memory_mb}.items():
            if self.whole and value is not None:
                raise UserError(
                    f"--whole_slices sees slices in one pass, for which --{name} means nothing; leave it out"
                )


PATCHES = Passes()


def synthesizes(runs: Sequence[str]) -> bool:
    """Whether these runs synthesize a modality; False where they label.

    Raises:
        UserError: there are some of either kind.
    """
    found = [one for run in runs for one in trained_phases(*parse_run(run))]
    makers = [one.name for one in found if one.system.primary == SYNTHESIZED]
    others = [one.name for one in found if one.system.primary != SYNTHESIZED]
    if makers and others:
        raise UserError(
            f"{makers[0]} synthesizes a modality and {others[0]} does not; name runs of one kind, or use "
            "jaxfuse.impute to synthesize what a segmentation lacks"
        )
    return bool(makers)


def load_synthesizers(runs: Sequence[str]) -> list[Synthesizer]:
    """Every phase that the runs name; all must make one modality of the same sources, prepared in one way."""
    members = [_synthesizer(one) for run in runs for one in trained_phases(*parse_run(run))]
    first = members[0]
    for other in members[1:]:
        if (other.target, set(other.sources)) != (first.target, set(first.sources)):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: they make {first.task} and {other.task}; predict "
                "with each alone"
            )
        if _prepared(other) != _prepared(first):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: their intensities are scaled in another way, or "
                "their slices show other windows; predict with each alone"
            )
    return members


def _prepared(member: Synthesizer) -> tuple[object, ...]:
    return (member.data.normalize, dict(member.landmarks), shown(member.data))


def _synthesizer(one: Trained) -> Synthesizer:
    if one.system.primary != SYNTHESIZED:
        raise UserError(
            f"{one.name} makes {one.system.primary}, no modality; name a run that synthesizes, as of Hi-Net"
        )
    sources, target = one.pairs
    if target not in one.facts.ranges:
        raise UserError(
            f"{one.name} was trained on intensities normalized by {one.data.normalize!r}, so that the range of "
            f"{target} is not known; train one with data.normalize minmax, histmatch or percentiles"
        )
    return Synthesizer(
        name=one.name,
        system=one.system,
        phase=one.phase,
        data=one.data,
        weights=one.weights(),
        landmarks=one.facts.landmarks,
        sources=tuple(sources.split("+")),
        target=target,
        range=one.facts.ranges[target],
    )


def volume_maker(members: Sequence[Synthesizer], passes: Passes = PATCHES) -> Callable[[Case], Volume]:
    """A function from a case of the first member's sources to their target, in stored units on the case's whole grid.

    It is the mean over the members, each of which goes over the volume along the axis of the slices that it was trained
    on. Exactly 0 is what no source shows anything of, and what lies beyond the window of the runs' pictures.
    """
    predictors = [_predictor(member, passes) for member in members]
    first = members[0]
    ends = (first.data.normalization.darkest, 1.0)
    stored = mean_range(members)

    def make(case: Case) -> Volume:
        prepared = prepare_like(case, first.data, first.landmarks)
        levels = np.zeros(prepared.facts.shape)
        for member, predict in zip(members, predictors, strict=True):
            outputs = predict(member.weights, _in_slots(prepared, member))
            levels += np.clip(outputs[SYNTHESIZED][..., 0], 0, 1) / len(members)
        if not np.isfinite(levels).all():
            raise UserError(
                f"case {case.id}: {', '.join(member.name for member in members)} made values that are no numbers; look "
                "at the losses of the training"
            )
        volume = np.zeros(levels.shape, np.float32)
        volume.flat[prepared.brain] = np.interp(levels.flat[prepared.brain], ends, stored)
        return uncrop(volume, prepared, 0)

    return make


def mean_range(members: Sequence[Synthesizer]) -> tuple[float, float]:
    """The stored values for 0 and 1; runs on other splits have slightly other ones."""
    low, high = np.mean([member.range for member in members], axis=0).tolist()
    return low, high


def _in_slots(prepared: Prepared, member: Synthesizer) -> Prepared:
    """The sources where the run has them among its modalities; the places of the others are empty and not read."""
    image = np.zeros((*prepared.facts.shape, len(member.data.modalities)), np.float32)
    for channel, modality in enumerate(prepared.facts.modalities):
        image[..., member.data.modalities.index(modality)] = prepared.image[..., channel]
    return replace(prepared, image=image)


def _predictor(member: Synthesizer, passes: Passes) -> Predict:
    axis = AXES[member.data.axis]
    if not passes.whole:
        return case_predictor(
            member.system, member.phase, axis=axis, overlap=passes.overlap, memory_mb=passes.memory_mb
        )
    divisor, by_patch = member.system.geometry.divisor, {}

    def predict(weights: State, case: Prepared) -> Mapping[str, np.ndarray]:
        # A patch that covers the slice is the only one of it.
        patch = tuple(side + -side % divisor for side in pictures(case.image, axis).shape[1:3])
        if patch not in by_patch:
            by_patch[patch] = case_predictor(member.system, replace(member.phase, patch=patch), axis=axis, overlap=0.0)
        return by_patch[patch](weights, case)

    return predict


def write_synthesized(
    path: Path, volume: Volume, files: CaseFiles, members: Sequence[Synthesizer], passes: Passes = PATCHES
) -> None:
    """Writes a volume on the grid of its first source, float32, and beside it what it is, as JSON.

    The header says so as well. `path` ends in `.nii.gz`, the other file in `.json`.
    """
    first = members[0]
    write_like(path, volume, files.images[first.sources[0]], dtype="float32", description=DESCRIPTION)
    write_json(path.with_name(path.name.removesuffix(".nii.gz") + ".json"), _sidecar(files, members, passes))


def _sidecar(files: CaseFiles, members: Sequence[Synthesizer], passes: Passes) -> dict[str, Any]:
    first = members[0]
    return {
        "synthesized": True,
        "case": files.id,
        "target": first.target,
        "sources": {name: files.images[name].name for name in first.sources},
        "runs": [member.name for member in members],
        "normalization": first.data.normalize,
        "range": list(mean_range(members)),
        "range_of": f"median over the training volumes of the stored values of {first.target} for 0 and 1",
        "zero": "where no source shows anything, and beyond the window",
        "window": [list(one) for one in first.data.window],
        "slices": [member.data.axis for member in members],
        "patches": "whole slices" if passes.whole else [list(member.phase.patch) for member in members],
    }
