"""A modality of whole volumes, synthesized from others by trained networks of slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxfuse.data.brain import NONE, background_rule, find_backgrounds, untold
from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.slices import AXES, pictures
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.given_cases import cases_of_side, given_cases
from jaxfuse.engine.trained.phases import TrainedPhase, one_kind
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.nifti import write_like
from jaxfuse.io.outputs import open_outputs
from jaxfuse.io.tables import write_json
from jaxfuse.learning.system import SYNTHESIZED

DESCRIPTION = "synthesized by jaxfuse"
_ASKED = Asked(values=(SYNTHESIZED,))

Volume = Float[np.ndarray, "d h w"]


@dataclass(frozen=True)
class Task:
    """The modality that a network was trained to synthesize, and its sources."""

    sources: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        return f"{self.target} from {' and '.join(self.sources)}"


@dataclass(frozen=True)
class Passes:
    """The way in which networks go over a slice.

    Attributes:
        whole: each slice in one pass, filled up with background to sides that the network can take; else in patches of
            the training's size, averaged where they overlap.
        overlap, memory_mb: replace those of the runs' validation; None keeps them.
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


def task_of(phase: TrainedPhase) -> Task:
    """Returns the task of a phase that synthesizes; refuses one that does not, or whose range is not known."""
    if phase.makes != SYNTHESIZED:
        raise UserError(
            f"{phase.name} makes {phase.system.primary}, no modality; name a run that synthesizes, as of Hi-Net"
        )
    sources, target = phase.pairs
    if target not in phase.facts.ranges:
        raise UserError(
            f"{phase.name} was trained on intensities normalized by {phase.data.normalize!r}, so that the range of "
            f"{target} is not known; train one with data.normalize minmax, histmatch or percentiles"
        )
    return Task(tuple(sources.split("+")), target)


def check_synthesis(phases: Sequence[TrainedPhase]) -> Task:
    """Returns the task of the first; refuses phases of another task, or that want cases prepared in another way."""
    first, task = phases[0], task_of(phases[0])
    for other in phases:
        its = task_of(other)
        if (its.target, set(its.sources)) != (task.target, set(task.sources)):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: they make {task} and {its}; predict with each alone"
            )
        if other.preparation != first.preparation:
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: their intensities are scaled in another way, or "
                "their slices show other windows; predict with each alone"
            )
    return task


def volume_maker(phases: Sequence[TrainedPhase], passes: Passes = PATCHES) -> Callable[[Case], Volume]:
    """Returns a function from a case of the first phase's sources to their target on the case's whole grid.

    The target has the units of its files. It is the mean over the phases, each of which goes over the volume along the
    axis of the slices that it was trained on. It is exactly 0 where no source shows anything, and beyond the window of
    the runs' pictures.
    """
    predictors = [_predictor(one, passes) for one in phases]
    preparation = phases[0].preparation
    ends = (preparation.normalization.darkest, 1.0)
    stored = mean_range(phases)

    def make(case: Case) -> Volume:
        prepared = preparation.prepare(case)
        levels = np.zeros(prepared.facts.shape)
        for one, predict in zip(phases, predictors, strict=True):
            outputs = predict(one.preparation.in_channels(prepared))
            levels += np.clip(outputs[SYNTHESIZED][..., 0], 0, 1) / len(phases)
        if not np.isfinite(levels).all():
            raise UserError(
                f"case {case.id}: {', '.join(one.name for one in phases)} made values that are no numbers; look "
                "at the losses of the training"
            )
        volume = np.zeros(levels.shape, np.float32)
        volume.flat[prepared.brain] = np.interp(levels.flat[prepared.brain], ends, stored)
        return uncrop(volume, prepared, 0)

    return make


def mean_range(phases: Sequence[TrainedPhase]) -> tuple[float, float]:
    """Returns the stored values for 0 and 1: medians over training volumes, averaged over the runs.

    The range of the real image, were there one, is not known.
    """
    low, high = np.mean([one.facts.ranges[task_of(one).target] for one in phases], axis=0).tolist()
    return low, high


def _predictor(phase: TrainedPhase, passes: Passes) -> Callable[[Prepared], Mapping[str, np.ndarray]]:
    """A function from a prepared case in the network's channels to the named outputs of its volume."""
    weights, axis = phase.weights(), AXES[phase.data.axis]
    if not passes.whole:
        predict = case_predictor(
            phase.system, phase.phase, axis=axis, overlap=passes.overlap, memory_mb=passes.memory_mb
        )
        return lambda case: predict(weights, case, _ASKED)
    divisor, by_patch = phase.system.geometry.divisor, {}

    def in_one_pass(case: Prepared) -> Mapping[str, np.ndarray]:
        # A patch that covers the slice is the only one of it.
        patch = tuple(side + -side % divisor for side in pictures(case.image, axis).shape[1:3])
        if patch not in by_patch:
            by_patch[patch] = case_predictor(phase.system, replace(phase.phase, patch=patch), axis=axis, overlap=0.0)
        return by_patch[patch](weights, case, _ASKED)

    return in_one_pass


def write_synthesized(
    path: Path, volume: Volume, files: CaseFiles, phases: Sequence[TrainedPhase], passes: Passes = PATCHES
) -> None:
    """Writes a volume on the grid of its first source, float32, and a JSON file beside it with its origin.

    The header names its origin as well. `path` ends in `.nii.gz`, the other file in `.json`.
    """
    grid = files.images[phases[0].preparation.modalities[0]]
    write_like(path, volume, grid.path, channel=grid.channel, dtype="float32", description=DESCRIPTION)
    write_json(path.with_name(origin_file(path.name)), _sidecar(files, phases, passes))


def origin_file(volume: str) -> str:
    """Names the JSON file beside a synthesized volume, whose name or path this is."""
    return volume.removesuffix(".nii.gz") + ".json"


def _sidecar(files: CaseFiles, phases: Sequence[TrainedPhase], passes: Passes) -> dict[str, Any]:
    preparation, task = phases[0].preparation, task_of(phases[0])
    return {
        "synthesized": True,
        "case": files.id,
        "target": task.target,
        "sources": {name: files.images[name].path.name for name in task.sources},
        "runs": [one.name for one in phases],
        "normalization": preparation.normalize,
        "range": list(mean_range(phases)),
        "range_of": f"median over the training volumes of the stored values of {task.target} for 0 and 1",
        "zero": "where no source shows anything, and beyond the window",
        "window": [list(one) for one in preparation.window],
        "slices": [one.data.axis for one in phases],
        "patches": "whole slices" if passes.whole else [list(one.phase.patch) for one in phases],
    }


def synthesize_cases(
    phases: Sequence[TrainedPhase],
    root: Path,
    output: Path,
    display: Display,
    passes: Passes = PATCHES,
    *,
    overwrite: bool = False,
    side: str = "",
) -> None:
    """Writes the target of every case below `root` as OUTPUT/<case>_<target>.nii.gz, beside a JSON file.

    `side`: only the cases on this side of the runs' split; empty: all.

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: the target of some cases cannot be made; that of the others is.
    """
    one_kind(phases)
    task = check_synthesis(phases)
    # The target is not read, whether it is there or not.
    given = given_cases(root, phases[0].data, task.sources, display.say, cases_of_side(phases, side))
    volumes = [f"{one.id}_{task.target}.nii.gz" for one in given.files]
    names = [*volumes, *map(origin_file, volumes)]
    outputs = open_outputs(output, "--output", reads=given.reads, names=names, overwrite=overwrite)
    make = volume_maker(phases, passes)
    display.say(f"{len(given.files)} cases: {task} by {', '.join(one.name for one in phases)}")
    rule, backgrounds = background_rule(phases[0].preparation.background), {}
    for one, tell in display.counted(given.files):
        with given.batch.case(one.id):
            case = load_case(one, task.sources, None)
            name, volume = f"{one.id}_{task.target}.nii.gz", make(case)
            if rule.text != NONE:
                found = find_backgrounds(case.image, case.modalities, rule)
                backgrounds[one.id] = [background and background.value for background in found]
            with outputs.together() as folder:
                write_synthesized(folder / name, volume, one, phases, passes)
            tell(output / name)
    if warning := untold(backgrounds):
        display.say(f"Warning: {warning}")
    given.batch.end()
