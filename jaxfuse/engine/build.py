"""From a phase and its data to the things that run: System, state, compiled functions, prediction of a volume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.config import Phase
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.preprocess import Prepared, PreparedCase
from jaxfuse.data.sampling import center_rule, check_sampling
from jaxfuse.data.slices import AXIAL, pictures, volume_of
from jaxfuse.data.transforms import transforms_from
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import predict_stack, predict_volume
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.patches import check_patch, tile_volume

_VALIDATION_SHARE = 0.1


def build_system(phase: Phase, modalities: Sequence[str], classes: Sequence[str], total_steps: int) -> System:
    """The System of a phase, its patch checked against the network's geometry."""
    system = phase.build(modalities, classes, total_steps)
    if phase.unpaired and not system.accepts_unpaired:
        raise UserError(f"phase {phase.name} learns from labels of the case it sees, so that unpaired must be False")
    with _named(phase):
        check_patch(phase.patch, ndim=system.geometry.ndim, divisor=system.geometry.divisor)
    return system


def make_sampler(phase: Phase, cases: Sequence[PreparedCase]) -> PatchSampler:
    """The training sampler of a phase; refuses cases that it cannot serve."""
    with _named(phase):
        center, transforms = center_rule(phase.sampling), transforms_from(phase.augment)
        check_sampling(cases, phase.patch, phase.sampling, pad=phase.pad)
    return PatchSampler(cases, phase.patch, center, transforms, phase.unpaired, phase.labelled)


@contextmanager
def _named(phase: Phase) -> Iterator[None]:
    """Says whose option it is that a sentence asks to change."""
    try:
        yield
    except UserError as error:
        raise UserError(f"phase {phase.name}: {error}") from error


def example_batch(phase: Phase, modalities: Sequence[str]) -> dict[str, Any]:
    """A batch of zeros of the right shapes, to initialize and to trace with."""
    one = {
        "image": np.zeros((phase.batch, *phase.patch, len(modalities)), np.float32),
        "label": np.zeros((phase.batch, *phase.patch), np.int32),
    }
    return {"a": one, "b": one} if phase.unpaired else one


def initial_state(system: System, phase: Phase, modalities: Sequence[str], *, seed: int, number: int) -> State:
    """The freshly drawn state of phase `number` of a schedule, compiled as one program."""
    rng = jax.random.fold_in(jax.random.key(seed), number)
    return jax.jit(system.init)(rng, example_batch(phase, modalities))


def abstract_state(system: System, phase: Phase, modalities: Sequence[str]) -> State:
    """Shapes of the state, without drawing it."""
    return jax.eval_shape(system.init, jax.random.key(0), example_batch(phase, modalities))


def without_optimizers(state: State) -> State:
    """What prediction needs; the rest is neither copied nor passed on."""
    return dataclasses.replace(state, opt_state={}, memory={})


def case_predictor(
    system: System, phase: Phase, *, overlap: float | None = None
) -> Callable[[State, PreparedCase | Prepared], dict[str, np.ndarray]]:
    """A function from weights and a prepared case to its named outputs (*space k) on the cropped grid.

    Tiles have the size of the training patch, so that instance norms see what they saw in training. `overlap`
    replaces that of the phase's validation. A 2D network labels a volume one axial slice after the other, as it saw
    them in training.
    """
    settings = phase.validation
    compiled = jax.jit(system.predict)
    shared = settings.overlap if overlap is None else overlap

    def predict(weights: State, case: PreparedCase | Prepared) -> dict[str, np.ndarray]:
        image = np.asarray(case.image)

        def patches(tiles: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
            return compiled(weights, tiles)

        if system.geometry.ndim == 2 and image.ndim == 4:
            stack = pictures(image, AXIAL)
            made = predict_stack(patches, stack, phase.patch, overlap=shared, batch=settings.tile_batch)
            return {name: volume_of(values, AXIAL) for name, values in made.items()}
        tiling = tile_volume(image.shape[:-1], phase.patch, overlap=shared)
        return predict_volume(patches, image, tiling, batch=settings.tile_batch)

    return predict


def spread(cases: Sequence[PreparedCase], count: int) -> tuple[PreparedCase, ...]:
    """At most `count` of the cases, evenly spread: neighbors in the list may be neighboring slices of one head."""
    count = min(count, len(cases))
    return tuple(cases[(2 * i + 1) * len(cases) // (2 * count)] for i in range(count))


def validation_interval(phase: Phase, cases: Sequence[PreparedCase]) -> int:
    """Steps between two validations: `validation.every`, or more where these cases would take over a tenth of the time.

    A tile forward costs about a third of a training step on one example (forward and twice that backward). The
    estimate counts tiles and no seconds, so that a run stays repeatable. 0: at the end only.
    """
    if phase.validation.every == 0:
        return 0
    tiles = sum(len(tile_volume(case.facts.shape, phase.patch, overlap=phase.validation.overlap)) for case in cases)
    return max(phase.validation.every, math.ceil(tiles / (3 * phase.batch) / _VALIDATION_SHARE))


def mean_losses(
    eval_step: Callable[[State, Any], Mapping[str, Any]], state: State, batches: Sequence[Any]
) -> dict[str, float]:
    """Mean over fixed batches of the System's evaluation metrics."""
    rows = [eval_step(state, batch) for batch in batches]
    return {name: float(jnp.stack([row[name] for row in rows]).mean()) for name in rows[0]}


def fixed_batches(phase: Phase, cases: Sequence[PreparedCase], *, seed: int) -> list[Any]:
    """One batch per case, the same in every validation: patches of validation cases, without transforms."""
    sampler = PatchSampler(
        cases, phase.patch, _center(phase, cases), (), phase.unpaired and len(cases) > 1, phase.labelled
    )
    batches = []
    for index in range(len(cases)):
        rng = np.random.default_rng([seed, index])
        examples = [sampler(index, rng) for _ in range(phase.batch)]
        batches.append(jax.tree.map(lambda *leaves: np.stack(leaves), *examples))
    return batches


def _center(phase: Phase, cases: Sequence[PreparedCase]) -> Any:
    """Tumor-centered as in training where every validation case has one; else over the brain."""
    centered = phase.sampling == "tumor" and all(len(case.tumor) for case in cases)
    return center_rule("tumor" if centered else "brain")


def program_cost(compiled: Any) -> dict[str, int]:
    """Operations and memory of one compiled step, as XLA counts them for this backend.

    `flops` counts a multiplication and an addition as two; `temporary_bytes` is what the program needs beside its
    arguments (`argument_bytes`: state and batch).
    """
    analysis = compiled.cost_analysis()
    flops = (analysis[0] if isinstance(analysis, list) else analysis or {}).get("flops", 0.0)
    memory = compiled.memory_analysis()
    return {
        "flops": int(flops),
        "argument_bytes": int(memory.argument_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
    }
