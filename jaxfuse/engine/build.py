"""From a phase and its data to the things that run: System, state, compiled functions, prediction of a volume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxfuse.config import Phase
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.sampling import check_sampling
from jaxfuse.data.slices import AXIAL, pictures, volume_of
from jaxfuse.data.transforms import transforms_from
from jaxfuse.engine.programs import Programs, bound_shapes
from jaxfuse.errors import UserError
from jaxfuse.inference.large_tiles import MEGABYTE, LargeTiles
from jaxfuse.inference.tiling import Alongside, predict_stack, predict_volume
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.patches import check_patch, output_sides, tile_volume


def build_system(
    phase: Phase,
    modalities: Sequence[str],
    classes: Sequence[str],
    total_steps: int,
    voxels_per_class: Sequence[int] = (),
) -> System:
    """The System of a phase, its patch checked against the network's geometry.

    `voxels_per_class` is counted over the training cases, for losses that weigh classes by it; it is left out where a
    phase is built without data.
    """
    system = phase.build(modalities, classes, total_steps, voxels_per_class)
    if phase.unpaired and not system.accepts_unpaired:
        raise UserError(
            f"phase {phase.name} needs all that it learns from of one and the same case, so that unpaired must be False"
        )
    with _named(phase):
        geometry = system.geometry
        check_patch(phase.patch, ndim=geometry.ndim, divisor=geometry.divisor, margin=geometry.margin)
    _memory_limit(phase, system, None)
    return system


def make_sampler(phase: Phase, cases: Sequence[PreparedCase], *, margin: int) -> PatchSampler:
    """The training sampler of a phase whose network loses `margin`; refuses cases that it cannot serve."""
    window = output_sides(phase.patch, margin)
    with _named(phase):
        transforms = transforms_from(phase.augment)
        check_sampling(cases, window, phase.sampling, pad=phase.pad)
    return PatchSampler(cases, phase.patch, phase.sampling.center, transforms, phase.unpaired, phase.labeled, margin)


@contextmanager
def _named(phase: Phase) -> Iterator[None]:
    """Says whose option it is that a sentence asks to change."""
    try:
        yield
    except UserError as error:
        raise UserError(f"phase {phase.name}: {error}") from error


def example_batch(phase: Phase, modalities: Sequence[str], *, margin: int) -> dict[str, Any]:
    """A batch of zeros of the right shapes, to initialize and to trace with; labels are smaller by the margin."""
    one = {
        "image": np.zeros((phase.batch, *phase.patch, len(modalities)), np.float32),
        "label": np.zeros((phase.batch, *output_sides(phase.patch, margin)), np.int32),
    }
    return {"a": one, "b": one} if phase.unpaired else one


def initial_state(system: System, phase: Phase, modalities: Sequence[str], *, seed: int, number: int) -> State:
    """The freshly drawn state of phase `number` of a schedule, compiled as one program."""
    rng = jax.random.fold_in(jax.random.key(seed), number)
    return Programs(system).init(rng, example_batch(phase, modalities, margin=system.geometry.margin))


def abstract_state(system: System, phase: Phase, modalities: Sequence[str]) -> State:
    """Shapes of the state, without drawing it."""
    return Programs(system).abstract_init(example_batch(phase, modalities, margin=system.geometry.margin))


def without_optimizers(state: State) -> State:
    """What prediction needs; the rest is neither copied nor passed on."""
    return dataclasses.replace(state, opt_state={}, memory={})


@runtime_checkable
class CasePredictor(Protocol):
    def __call__(
        self, weights: State, case: PreparedCase | Prepared, *, alongside: Alongside | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name; what `alongside` makes of single tiles is put together as outputs are."""
        ...


def case_predictor(
    system: System,
    phase: Phase,
    *,
    axis: int = AXIAL,
    overlap: float | None = None,
    memory_mb: int | None = None,
) -> CasePredictor:
    """A function from weights and a prepared case to its named outputs (*space k) on the cropped grid.

    Tiles have the size of the training patch, so that instance norms see what they saw in training; for networks
    of valid convolutions, whose answer does not depend on the tile, a limit of memory stands for the largest that
    pay. `overlap` and `memory_mb` replace those of the phase's validation. A 2D network labels a volume one slice
    across `axis` after the other; give that of the slices that it was trained on.
    """
    settings, geometry = phase.validation, system.geometry
    programs = Programs(system)
    shared = settings.overlap if overlap is None else overlap
    tile_of = _tile_rule(programs, phase, overlap=shared, limit=_memory_limit(phase, system, memory_mb))

    def predict(
        weights: State, case: PreparedCase | Prepared, *, alongside: Alongside | None = None
    ) -> dict[str, np.ndarray]:
        def patches(tiles: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
            made = programs.predict(weights, tiles)
            return made if alongside is None else {**made, **alongside(tiles, made)}

        image = np.asarray(case.image)
        sliced = geometry.ndim == 2 and image.ndim == 4
        if sliced:
            image = pictures(image, axis)
        *sides, channels = image.shape
        # A stack of pictures has an axis more, along which a tile is one picture thick.
        stacked = len(sides) - geometry.ndim
        tile = tile_of(weights, tuple(sides[stacked:]), channels)
        tiling = tile_volume(
            sides,
            (1,) * stacked + tile,
            overlap=shared,
            margin=(0,) * stacked + (geometry.margin,) * geometry.ndim,
            centered=phase.sampling.centered,
        )
        if not sliced:
            return predict_volume(patches, image, tiling, batch=settings.tile_batch)
        made = predict_stack(patches, image, tiling, batch=settings.tile_batch)
        return {name: volume_of(values, axis) for name, values in made.items()}

    return predict


def _tile_rule(
    programs: Programs, phase: Phase, *, overlap: float, limit: int
) -> Callable[[State, tuple[int, ...], int], tuple[int, ...]]:
    """A function from weights, the sides of a volume or picture and its channels to the output tile for it."""
    large: LargeTiles | None = None
    geometry = programs.system.geometry

    def tile_of(weights: State, sides: tuple[int, ...], channels: int) -> tuple[int, ...]:
        nonlocal large
        if not limit:
            return output_sides(phase.patch, geometry.margin)
        if large is None:
            # Shapes, not the weights themselves, which would be kept alive.
            anywhere, here = jax.tree.map(jax.typeof, weights), bound_shapes(weights)
            count = partial(programs.counted_tile_program, anywhere, phase.validation.tile_batch, channels)
            program = partial(programs.tile_program, here, phase.validation.tile_batch, channels)
            large = LargeTiles(count, program, geometry.ndim, geometry.margin, geometry.divisor, overlap, limit)
        return large(sides)

    return tile_of


def _memory_limit(phase: Phase, system: System, memory_mb: int | None) -> int:
    """In bytes; 0 where tiles are the training patch. Refuses one for a network that knows one size of tile only."""
    limit = phase.validation.memory_mb if memory_mb is None else memory_mb
    if limit and not system.geometry.margin:
        raise UserError(
            f"memory_mb is {limit}, but the network of phase {phase.name} has no valid convolutions and predicts in "
            "tiles of its training patch; leave it at 0"
        )
    return limit * MEGABYTE
