"""From a phase and its data to the things that run: System, sampler, example batch, state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxfuse.augment.batch import Augmentation, augmentation
from jaxfuse.augment.dropout import Dropout
from jaxfuse.config import Experiment, Phase
from jaxfuse.data.dataset import Dataset
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.presence import REFUSE, weighted_subsets
from jaxfuse.data.sampling import check_sampling
from jaxfuse.data.settings import declared_facts
from jaxfuse.data.slices import AXES
from jaxfuse.data.streams import check_halves, held_out_streams
from jaxfuse.data.subject_names import subject_rule
from jaxfuse.engine.devices.placement import check_sides
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.trained.passes import PATCHES, way_of
from jaxfuse.errors import UserError
from jaxfuse.learning.averaging import begun, deployed
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.patches import check_patch, output_sides


def build_system(
    phase: Phase,
    modalities: Sequence[str],
    classes: Sequence[str],
    total_steps: int,
    voxels_per_class: Sequence[int] = (),
) -> System:
    """Builds the System of a phase, its patch checked against the network's geometry.

    `voxels_per_class` is counted over the training cases, for losses that weigh classes by it; it is left out where a
    phase is built without data.
    """
    system = phase.build(modalities, classes, total_steps, voxels_per_class)
    if phase.unpaired and not system.accepts_unpaired:
        raise UserError(
            f"phase {phase.name} needs all that it learns from of one and the same case, so that unpaired must be False"
        )
    with _named(phase):
        if phase.modality_dropout is not None:
            _check_presence(system, "modality_dropout is asked for")
            weighted_subsets(phase.modality_dropout.subsets, modalities)
        geometry = system.geometry
        sides = {"divisor": geometry.divisor, "margin": geometry.margin, "judged": geometry.judged}
        check_patch(phase.patch, ndim=geometry.ndim, **sides)
    return system


def _check_presence(system: System, why: str) -> None:
    """Refuses a System for which examples may not lack modalities."""
    if not system.reads_presence:
        raise UserError(
            f"{why}, and its model learns from examples that have all modalities; leave it out, or choose a model that "
            "segments"
        )


def check_systems(experiment: Experiment) -> None:
    """Builds the System of every phase from what the config alone tells of its data, before any are read.

    Raises:
        UserError: an option of a phase makes no sense to its model, or its patch does not fit it, or the devices.
    """
    for phase in experiment.phases.values():
        data = experiment.data_of(phase)
        if experiment.space > 1 and data.incomplete != REFUSE:
            raise UserError(
                f"space is {experiment.space} and the data of phase {phase.name} may be incomplete; devices share "
                "examples that have all modalities: leave space at 1, or data.incomplete at refuse"
            )
        system = build_system(phase, *declared_facts(data), phase.total_steps(phase.batch))
        way_of(PATCHES, phase, system, AXES[data.axis])
        check_sides(phase.name, phase.patch, system.geometry.margin, experiment.space)


def learned_from(phase: Phase, opened: Dataset) -> Dataset:
    """Returns the part of opened data that a phase learns from: unlabeled cases train what learns from images."""
    if opened.labeled is None or not phase.needs_label:
        return opened
    facts = opened.facts
    system = build_system(phase, facts.modalities, facts.classes, phase.total_steps(1), phase.counted(facts))
    return opened if system.accepts_unlabeled else opened.labeled


def make_sampler(
    phase: Phase, system: System, cases: Sequence[PreparedCase], *, seed: int, subject: str = ""
) -> PatchSampler:
    """Makes the sampler of a phase's training cases; refuses cases that it cannot serve.

    Args:
        seed: of the run, by which subjects are held out where the system asks for it.
        subject: `data.subject`, the pattern of subjects in names.
    """
    margin, streams = system.geometry.margin, None
    with _named(phase):
        if lacking := [case for case in cases if case.facts.presence]:
            _check_presence(system, f"case {lacking[0].id} has no {' and no '.join(lacking[0].facts.lacks)} image")
        check_sampling(cases, output_sides(phase.patch, margin), phase.sampling, pad=phase.pad)
        if system.holds_out:
            check_halves(phase.batch)
            streams = held_out_streams(cases, seed=seed, subject=subject_rule(subject))
    center = phase.sampling.center
    flip, whole = phase.augment.flip.probability, phase.augment.resamples
    rest = (margin, streams, whole, system.accepts_unlabeled)
    return PatchSampler(cases, phase.patch, center, flip, phase.unpaired, phase.labeled, *rest)


def make_augmentation(
    phase: Phase, system: System, modalities: Sequence[str], spacing_mm: Sequence[float]
) -> Augmentation | None:
    """Makes what a phase's steps do to batches of voxels of this size; None where that is nothing."""
    with _named(phase):
        dropout = _dropout(phase, modalities)
        return augmentation(phase.augment, phase.patch, spacing_mm, system.geometry.margin, dropout)


def _dropout(phase: Phase, modalities: Sequence[str]) -> Dropout | None:
    asked = phase.modality_dropout
    return asked and Dropout(*weighted_subsets(asked.subsets, modalities), asked.probability)


@contextmanager
def _named(phase: Phase) -> Iterator[None]:
    """Names, in a refusal, the phase whose option is to be changed."""
    try:
        yield
    except UserError as error:
        raise UserError(f"phase {phase.name}: {error}") from error


def example_batch(phase: Phase, modalities: Sequence[str], *, margin: int) -> dict[str, Any]:
    """Returns a batch of zeros, to initialize and to trace with; labels are smaller by the margin on each side."""
    one = {
        "image": np.zeros((phase.batch, *phase.patch, len(modalities)), np.float32),
        "label": np.zeros((phase.batch, *output_sides(phase.patch, margin)), np.uint8),
    }
    return {"a": one, "b": one} if phase.unpaired else one


def initial_state(system: System, phase: Phase, modalities: Sequence[str], *, seed: int, number: int) -> State:
    """Draws the state of phase `number` of a schedule."""
    rng = jax.random.fold_in(jax.random.key(seed), number)
    state = Programs(system).init(rng, example_batch(phase, modalities, margin=system.geometry.margin))
    return begun(state, phase.ema_decay)


def abstract_state(system: System, phase: Phase, modalities: Sequence[str]) -> State:
    """Returns the shapes of the state, without drawing it."""
    state = Programs(system).abstract_init(example_batch(phase, modalities, margin=system.geometry.margin))
    return jax.eval_shape(partial(begun, decay=phase.ema_decay), state)


def without_optimizers(state: State) -> State:
    """Returns what prediction needs of a state: the averaged weights, where they are kept; nothing is copied."""
    return deployed(state).replace(opt_state={}, memory={})
