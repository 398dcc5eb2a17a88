"""A modality of whole volumes, synthesized from others by trained networks of slices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxfuse.data.brain import NONE, background_rule, find_backgrounds
from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.slices import AXES, pictures
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.carried_out import Assignment, Call, Written
from jaxfuse.engine.trained.chosen_devices import first_device, weights_on
from jaxfuse.engine.trained.conveyor import Work
from jaxfuse.engine.trained.given_cases import cases_of_side, given_cases
from jaxfuse.engine.trained.passes import PATCHES, Passes, each_of
from jaxfuse.engine.trained.phases import MODALITIES, TrainedPhase, one_kind
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.inference.weighting import EQUAL
from jaxfuse.io.nifti import write_like
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.io.tables import write_json
from jaxfuse.learning.state import State
from jaxfuse.learning.system import COMPLETED, SYNTHESIZED, synthesized

DESCRIPTION = "synthesized by jaxfuse"

Volume = Float[np.ndarray, "d h w"]
Backgrounds = Sequence[float | None] | None


@dataclass(frozen=True)
class Task:
    """The modality that a network was trained to synthesize, and its sources."""

    sources: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        return f"{self.target} from {' and '.join(self.sources)}"


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


@dataclass(frozen=True)
class VolumeMaker:
    """The target of cases by the mean of trained networks, on any of several devices.

    Each network goes over the volume along the axis of the slices that it was trained on.

    Attributes:
        predictors: of each network, by device; threads may work at once, each on a device of its own.
    """

    phases: Sequence[TrainedPhase]
    predictors: Mapping[Any, Sequence[Callable[[Prepared, Asked], Mapping[str, np.ndarray]]]]

    def prepare(self, case: Case) -> Prepared:
        """Crops and normalizes a case of the first phase's sources, or of some of them."""
        return self.phases[0].preparation.prepare(case)

    def make(self, case: Prepared, device: Any, target: str) -> Volume:
        """Returns a target on the case's whole grid, in the units of its files.

        Where no source shows anything, and beyond the window of the runs' pictures, it is the target's background
        (`background_of`).
        """
        levels = np.zeros(case.facts.shape)
        output = SYNTHESIZED if self.phases[0].makes == SYNTHESIZED else synthesized(target)
        for one, predict in zip(self.phases, self.predictors[device], strict=True):
            outputs = predict(one.preparation.in_channels(case), Asked(values=(output,)))
            levels += np.clip(outputs[output][..., 0], 0, 1) / len(self.phases)
        if not np.isfinite(levels).all():
            raise UserError(
                f"case {case.facts.id}: {', '.join(one.name for one in self.phases)} made values that are no numbers; "
                "look at the losses of the training"
            )
        around, ends = background_of(self.phases, target), (self.phases[0].preparation.normalization.darkest, 1.0)
        volume = np.full(levels.shape, around, np.float32)
        volume.flat[case.brain] = np.interp(levels.flat[case.brain], ends, mean_range(self.phases, target))
        return uncrop(volume, case, around)


def background_of(phases: Sequence[TrainedPhase], target: str) -> float:
    """Returns the value of a target's background: the one that `data.background` states for it, else 0."""
    return background_rule(phases[0].preparation.background).of(target) or 0.0


def volume_maker(phases: Sequence[TrainedPhase], passes: Passes = PATCHES, devices: Sequence[Any] = ()) -> VolumeMaker:
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


def mean_range(phases: Sequence[TrainedPhase], target: str) -> tuple[float, float]:
    """Returns the stored values of a target for 0 and 1: medians over training volumes, averaged over the runs.

    The range of the real image, were there one, is not known.
    """
    low, high = np.mean([one.facts.ranges[target] for one in phases], axis=0).tolist()
    return low, high


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


def write_synthesized(
    path: Path,
    volume: Volume,
    files: CaseFiles,
    task: Task,
    phases: Sequence[TrainedPhase],
    passes: Passes = PATCHES,
) -> None:
    """Writes a volume on the grid of its first source, float32, and a JSON file beside it with its origin.

    The header names its origin as well. `path` ends in `.nii.gz`, the other file in `.json`.
    """
    first = files.images[task.sources[0]]
    write_like(path, volume, first.grid, channel=first.channel, dtype="float32", description=DESCRIPTION)
    write_json(path.with_name(origin_file(path.name)), _sidecar(files, task, phases, passes))


def origin_file(volume: str) -> str:
    """Names the JSON file beside a synthesized volume, whose name or path this is."""
    return volume.removesuffix(".nii.gz") + ".json"


def _sidecar(files: CaseFiles, task: Task, phases: Sequence[TrainedPhase], passes: Passes) -> dict[str, Any]:
    preparation = phases[0].preparation
    return {
        "synthesized": True,
        "case": files.id,
        "target": task.target,
        "sources": {name: files.images[name].path.name for name in task.sources},
        "runs": [one.name for one in phases],
        "normalization": preparation.normalize,
        "range": list(mean_range(phases, task.target)),
        "range_of": f"median over the training volumes of the stored values of {task.target} for 0 and 1",
        "background": background_of(phases, task.target),
        "background_is": "where no source shows anything, and beyond the window",
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


@dataclass(frozen=True)
class Synthesizing:
    """The way in which one modality is made of cases."""

    maker: VolumeMaker
    task: Task

    def read(self, files: CaseFiles) -> tuple[Prepared, Backgrounds]:
        """Reads and prepares the sources of a case; returns what is around the head in each, too."""
        rule = background_rule(self.maker.phases[0].preparation.background)
        case = load_case(files, self.task.sources, None)
        if rule.text == NONE:
            return self.maker.prepare(case), None
        found = find_backgrounds(case.channels, case.modalities, rule)
        return self.maker.prepare(case), [background and background.value for background in found]

    def make(self, given: tuple[Prepared, Backgrounds], device: object) -> tuple[Volume, Backgrounds]:
        """Makes the modality of a case."""
        case, backgrounds = given
        return self.maker.make(case, device, self.task.target), backgrounds


def _stages(
    synthesizing: Synthesizing, passes: Passes, outputs: Outputs
) -> Work[CaseFiles, tuple[Prepared, Backgrounds], tuple[Volume, Backgrounds], Written]:
    def write(files: CaseFiles, made: tuple[Volume, Backgrounds]) -> Written:
        (volume, backgrounds), task = made, synthesizing.task
        names = _names(files, task)
        with outputs.together() as folder:
            write_synthesized(folder / names[0], volume, files, task, synthesizing.maker.phases, passes)
        return Written(names, backgrounds)

    return Work(synthesizing.read, synthesizing.make, write)


def _names(files: CaseFiles, task: Task) -> tuple[str, str]:
    volume = f"{files.id}_{task.target}.nii.gz"
    return volume, origin_file(volume)
