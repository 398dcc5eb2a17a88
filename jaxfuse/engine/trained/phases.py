"""Trained phases, read back from their workdirs, that together make a prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jaxfuse.config import Phase, parse
from jaxfuse.data.dataset import read_facts
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.intensities import Landmarks
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.settings import Data
from jaxfuse.data.slices import AXES
from jaxfuse.engine.build import abstract_state, build_system, case_predictor
from jaxfuse.engine.programs import one_device
from jaxfuse.engine.run_folder.checkpoints import read_weights
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System


@dataclass(frozen=True)
class Trained:
    """One trained phase of one run, whatever it makes.

    Attributes:
        pairs: of the experiment: which modalities belong together.
        folder, best: its checkpoints, and which of them is meant.
    """

    name: str
    system: System
    phase: Phase
    data: Data
    facts: DatasetFacts
    pairs: tuple[str, ...]
    folder: Path
    best: bool

    def weights(self) -> State:
        """Read from disk."""
        like = abstract_state(self.system, self.phase, self.facts.modalities)
        return read_weights(self.folder, like, one_device(), best=self.best)


@dataclass(frozen=True)
class Member:
    """One trained phase of one run that labels."""

    name: str
    system: System
    phase: Phase
    data: Data
    scheme: LabelScheme
    weights: State
    landmarks: Landmarks = field(default_factory=dict)


def parse_run(text: str) -> tuple[Path, str, bool]:
    """RUN[:PHASE[@last|@best]] -> (folder, phase or "" for the run's result, best)."""
    folder, separator, phase = text.rpartition(":")
    if not separator or "/" in phase or Path(text).exists():
        folder, phase = text, ""
    phase, _, which = phase.partition("@")
    if which not in ("", "last", "best"):
        raise UserError(f"{text!r} asks for the checkpoint {which!r}; choose @last or @best")
    return Path(folder), phase, which == "best"


def load_members(runs: Sequence[str]) -> list[Member]:
    """Every phase that the runs name; all must read the same modalities, in any order, and label in the same scheme."""
    members = [member for run in runs for member in _of_run(*parse_run(run))]
    first = members[0]
    for other in members[1:]:
        if (other.scheme.name, other.data.normalize) != (first.scheme.name, first.data.normalize):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: label schemes {first.scheme.name} and "
                f"{other.scheme.name}, normalization {first.data.normalize} and {other.data.normalize}"
            )
        if other.landmarks != first.landmarks or shown(other.data) != shown(first.data):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: their intensities are matched to other landmarks, "
                "or their slices show other windows; predict with each alone"
            )
        if set(other.data.modalities) != set(first.data.modalities):
            raise UserError(
                f"{first.name} and {other.name} cannot be averaged: they read the modalities "
                f"{', '.join(first.data.modalities)} and {', '.join(other.data.modalities)}; predict with each alone"
            )
    return members


def shown(data: Data) -> tuple[object, ...]:
    """What decides how much of a volume is prepared; the axis does for slices of a window only."""
    return (data.window, data.blank_slices, data.axis) if data.window or data.blank_slices else ()


def trained_phases(workdir: Path, name: str, best: bool) -> list[Trained]:
    """The phase of a run that is named, or those that make its result; with the best or the last weights."""
    experiment = parse(read_config(workdir))
    facts = read_facts(workdir)
    found = []
    for phase_name in [name] if name else experiment.result:
        if phase_name not in experiment.phases:
            raise UserError(f"{workdir} has no phase {phase_name!r}; it has {', '.join(experiment.schedule)}")
        phase = experiment.phases[phase_name]
        total = phase.total_steps(len(facts.train))
        system = build_system(phase, facts.modalities, facts.classes, total, facts.voxels_per_class)
        label = f"{workdir.name}:{phase_name}" + ("@best" if best else "")
        data, folder = experiment.data_of(phase), workdir / "checkpoints" / phase_name
        found.append(Trained(label, system, phase, data, facts, experiment.pairs, folder, best))
    return found


def _of_run(workdir: Path, name: str, best: bool) -> list[Member]:
    members = []
    for one in trained_phases(workdir, name, best):
        if not one.facts.scheme:
            raise UserError(f"{workdir} was not trained on a label scheme, so that it cannot label volumes")
        if one.system.primary not in one.system.probabilities:
            raise UserError(
                f"phase {one.phase.name} of {workdir} makes {one.system.primary}, no label map; name another phase"
            )
        scheme, landmarks = label_scheme(one.facts.scheme), one.facts.landmarks
        members.append(Member(one.name, one.system, one.phase, one.data, scheme, one.weights(), landmarks))
    return members


def mean_probabilities(
    members: Sequence[Member], *, overlap: float | None, memory_mb: int | None = None
) -> Callable[[Prepared], np.ndarray]:
    """A function from a prepared volume to the mean of the members' class probabilities (d h w k).

    All count equally. Networks of slices go over the volume each along the axis that it was trained on, so that
    members trained on sagittal, coronal and axial slices give the aggregated views of the InfiNet paper. The case's
    channels are those of the first member; each member is given its own order of them. `overlap` and `memory_mb`
    replace those of the members' validation.
    """
    predictors = [
        case_predictor(member.system, member.phase, axis=AXES[member.data.axis], overlap=overlap, memory_mb=limit)
        for member, limit in zip(members, _limits(members, memory_mb), strict=True)
    ]
    given = members[0].data.modalities
    orders = [[given.index(name) for name in member.data.modalities] for member in members]

    def predict(case: Prepared) -> np.ndarray:
        total = sum(
            predictor(member.weights, replace(case, image=case.image[..., order]))[member.system.primary]
            for predictor, member, order in zip(predictors, members, orders, strict=True)
        )
        return np.asarray(total) / len(members)

    return predict


def _limits(members: Sequence[Member], memory_mb: int | None) -> list[int | None]:
    """The limit for those members whose tiles it can change; refused if there is none."""
    limits = [memory_mb if member.system.geometry.margin else None for member in members]
    if memory_mb and not any(limits):
        raise UserError(
            f"memory_mb is {memory_mb}, but no network of {', '.join(member.name for member in members)} has valid "
            "convolutions: they predict in tiles of their training patch; leave it out"
        )
    return limits
