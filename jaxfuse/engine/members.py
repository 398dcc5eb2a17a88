"""Trained phases, read back from their workdirs, that together make a prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jaxfuse.config import Data, Phase, parse
from jaxfuse.data.intensities import Landmarks
from jaxfuse.data.preprocess import Prepared
from jaxfuse.data.slices import AXES
from jaxfuse.engine.build import abstract_state, build_system, case_predictor
from jaxfuse.engine.checkpoints import read_weights
from jaxfuse.engine.dataset import read_facts
from jaxfuse.engine.workdir import read_config
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System


@dataclass(frozen=True)
class Member:
    """One trained phase of one run."""

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
        if other.landmarks != first.landmarks or _shown(other.data) != _shown(first.data):
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


def _shown(data: Data) -> tuple[object, ...]:
    """What decides how much of a volume is prepared; the axis does for slices of a window only."""
    return (data.window, data.blank_slices, data.axis) if data.window or data.blank_slices else ()


def _of_run(workdir: Path, name: str, best: bool) -> list[Member]:
    experiment = parse(read_config(workdir))
    facts = read_facts(workdir)
    if not facts.scheme:
        raise UserError(f"{workdir} was not trained on a label scheme, so that it cannot label volumes")
    members = []
    for phase_name in [name] if name else experiment.result:
        if phase_name not in experiment.phases:
            raise UserError(f"{workdir} has no phase {phase_name!r}; it has {', '.join(experiment.schedule)}")
        phase = experiment.phases[phase_name]
        total = phase.total_steps(len(facts.train))
        system = build_system(phase, facts.modalities, facts.classes, total, facts.voxels_per_class)
        if system.primary not in system.probabilities:
            raise UserError(f"phase {phase_name} of {workdir} makes {system.primary}, no label map; name another phase")
        like = abstract_state(system, phase, facts.modalities)
        weights = read_weights(workdir / "checkpoints" / phase_name, like, best=best)
        label = f"{workdir.name}:{phase_name}" + ("@best" if best else "")
        data, scheme = experiment.data_of(phase), label_scheme(facts.scheme)
        members.append(Member(label, system, phase, data, scheme, weights, facts.landmarks))
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
