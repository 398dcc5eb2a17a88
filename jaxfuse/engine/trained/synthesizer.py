"""A modality of whole volumes, synthesized from others by trained networks of slices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.slices import AXES, pictures
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.carried_out import Assignment, Call, Written
from jaxfuse.engine.trained.chosen_devices import first_device, weights_on
from jaxfuse.engine.trained.passes import PATCHES, Passes, each_of
from jaxfuse.engine.trained.phases import MODALITIES, TrainedPhase, one_kind
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.engine.trained.sides import cases_of_side
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.inference.weighting import EQUAL
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.learning.state import State
from jaxfuse.learning.system import COMPLETED
from jaxfuse.prediction.conveyor import Work
from jaxfuse.prediction.given_cases import given_cases
from jaxfuse.prediction.maker import (
    Backgrounds,
    Synthesizing,
    Task,
    Volume,
    VolumeMaker,
    origin_file,
    write_synthesized,
)


@dataclass(frozen=True)
class Skill:
    """The modalities that a network makes, and those that it reads.

    Attributes:
        sources: the modalities that it reads.
        targets: those that it makes.
        any_of: whether any of the sources will do for any target; else it takes all of them.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    any_of: bool

    def __str__(self) -> str:
        if not self.any_of:
            return str(Task(self.sources, self.targets[0]))
        return f"{' or '.join(self.targets)} from any of {', '.join(self.sources)}"

    def task(self, target: str, there: Collection[str]) -> Task | None:
        """Returns how it makes a target of the modalities that are there; None where it cannot."""
        used = tuple(name for name in self.sources if name in there and name != target)
        enough = used if self.any_of else len(used) == len(self.sources)
        return Task(used, target) if target in self.targets and enough else None


def skill_of(phase: TrainedPhase) -> Skill:
    """Returns what a phase makes; refuses one that makes no modality, or none whose range is known."""
    if phase.makes not in MODALITIES:
        raise UserError(
            f"{phase.name} makes {phase.system.primary}, no modality; name a run that synthesizes, as of Hi-Net"
        )
    sources, targets = (tuple(one.split("+")) for one in phase.pairs)
    known = tuple(name for name in targets if name in phase.facts.ranges)
    if not known and phase.facts.ranges:
        raise UserError(
            f"{phase.name} was trained on cases of which none has {targets[0]}, so that it cannot make it; train one "
            "on cases that have it"
        )
    if not known:
        raise UserError(
            f"{phase.name} was trained on intensities normalized by {phase.data.normalize!r}, so that the range of "
            f"{targets[0]} is not known; train one with data.normalize minmax, histmatch or percentiles"
        )
    return Skill(sources, known, phase.makes == COMPLETED)


def check_skills(phases: Sequence[TrainedPhase]) -> Skill:
    """Returns what the first makes; refuses phases of another task, or that want cases prepared in another way."""
    first, skill = phases[0], skill_of(phases[0])
    for other in phases:
        its = skill_of(other)
        if (its.any_of, set(its.targets), set(its.sources)) != (skill.any_of, set(skill.targets), set(skill.sources)):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: they make {skill} and {its}; predict with each "
                "alone"
            )
        if other.preparation != first.preparation:
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: their intensities are scaled in another way, or "
                "their slices show other windows; predict with each alone"
            )
    return skill


def check_synthesis(phases: Sequence[TrainedPhase]) -> Task:
    """Returns the one task of all phases; refuses what `check_skills` does, and phases that make whatever lacks."""
    skill = check_skills(phases)
    if skill.any_of:
        raise UserError(
            f"{phases[0].name} makes {skill}, whichever a case lacks, and here one modality is made of all cases; use "
            "jaxfuse.impute, or predict --missing impute of a run that labels"
        )
    return Task(skill.sources, skill.targets[0])


def volume_maker(
    phases: Sequence[TrainedPhase], passes: Passes = PATCHES, devices: Sequence[Any] = ()
) -> VolumeMaker[TrainedPhase]:
    """Returns the synthesis by the mean of these phases, on these devices; by default on the first one."""
    each = each_of(passes, [(one.name, one.phase, one.system.geometry, AXES[one.data.axis]) for one in phases])
    made = [_predictor(one, own) for one, own in zip(phases, each, strict=True)]
    weights = [one.weights() for one in phases]
    return VolumeMaker(
        phases,
        {
            device: [partial(predict, weights_on(device, own)) for predict, own in zip(made, weights, strict=True)]
            for device in devices or first_device()
        },
    )


def _predictor(phase: TrainedPhase, passes: Passes) -> Callable[[State, Prepared, Asked], Mapping[str, np.ndarray]]:
    """A function from weights and a case in the network's channels to the outputs of its volume that are asked for."""
    axis = AXES[phase.data.axis]
    if not passes.whole:
        return case_predictor(phase.system, phase.phase, axis=axis, passes=passes)
    divisor, by_patch, lock = phase.system.geometry.divisor, {}, Lock()
    alone = Passes(overlap=0.0, weighting=EQUAL, mirror=passes.mirror)

    def in_one_pass(weights: State, case: Prepared, asked: Asked) -> Mapping[str, np.ndarray]:
        # A patch that covers the slice is the only one of it.
        patch = tuple(side + -side % divisor for side in pictures(case.image, axis).shape[1:3])
        with lock:
            if patch not in by_patch:
                whole = replace(phase.phase, patch=patch)
                by_patch[patch] = case_predictor(phase.system, whole, axis=axis, passes=alone)
        return by_patch[patch](weights, case, asked)

    return in_one_pass


def synthesize_cases(
    phases: Sequence[TrainedPhase],
    root: Path,
    output: Path,
    display: Display,
    passes: Passes = PATCHES,
    call: Call = Call(),  # noqa: B008 - it is frozen
) -> None:
    """Writes the target of every case below `root` as OUTPUT/<case>_<target>.nii.gz, beside a JSON file.

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: the target of some cases cannot be made; that of the others is.
    """
    one_kind(phases)
    task = check_synthesis(phases)
    # The target is not read, whether it is there or not.
    given = given_cases(root, phases[0].data, task.sources, display.say, cases_of_side(phases, call.side))
    names = [name for one in given.files for name in _names(one, task)]
    outputs = open_outputs(output, "--output", reads=given.reads, names=names, overwrite=call.overwrite)
    devices = call.devices or first_device()
    maker = volume_maker(phases, passes, devices)
    display.say(f"{len(given.files)} cases: {task} by {', '.join(one.name for one in phases)}")
    options = {**asdict(passes), "spacing": phases[0].preparation.spacing_range_mm}

    stages = partial(_stages, Synthesizing(maker, task), passes)
    Assignment(phases, root, output, given, outputs, options).carry_out(stages, call, devices, display)


def _stages(
    synthesizing: Synthesizing[TrainedPhase], passes: Passes, outputs: Outputs
) -> Work[CaseFiles, tuple[Prepared, Backgrounds], tuple[Volume, Backgrounds], Written]:
    def write(files: CaseFiles, made: tuple[Volume, Backgrounds]) -> Written:
        (volume, backgrounds), task = made, synthesizing.task
        names = _names(files, task)
        with outputs.together() as folder:
            write_synthesized(folder / names[0], volume, files, task, synthesizing.maker.phases, passes.whole)
        return Written(names, backgrounds)

    return Work(synthesizing.read, synthesizing.make, write)


def _names(files: CaseFiles, task: Task) -> tuple[str, str]:
    volume = f"{files.id}_{task.target}.nii.gz"
    return volume, origin_file(volume)
