"""Augmentation of a batch within the compiled training step.

The random numbers of an example follow from (seed, step, its number in the global batch), and so do not depend on the
number of devices, processes or loader workers, nor on where a run was resumed. Every example is augmented by itself, so
that a batch whose examples are parted among devices needs no word between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Key
from jaxfuse.augment import intensity
from jaxfuse.augment.draw import settled
from jaxfuse.augment.dropout import Dropout
from jaxfuse.augment.settings import Augment
from jaxfuse.augment.space import (
    Grid,
    Turn,
    check_space,
    displacement,
    interpolated,
    magnification,
    nearest,
    quarter_turn,
    rotation_matrix,
    sources,
    turn_matrix,
    turned,
)

# Folded into the key of a run, whose steps count up from 0 and never come to it.
_APART = 2**32 - 1
# Folded into the key of an example, whose changes count up from 0.
_DROPOUT = 2**32 - 1
# The last of those of intensities, in the order in which they act.
_AFTER = {
    "brightness": intensity.brightness,
    "shift": intensity.shift,
    "contrast": intensity.contrast,
    "inverted_gamma": intensity.inverted_gamma,
    "gamma": intensity.gamma,
}
# (key, image, brain, settings) -> image, by name.
Changes = Mapping[str, Callable[..., Array]]
_NUMBERS = {name: number for number, name in enumerate(Augment.__dataclass_fields__)}


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of batches of one phase: (key of a step, batch) -> batch.

    Changes of place come first, then those of intensities, then the choice of the modalities that are shown.

    Attributes:
        margin: voxels that the network loses on each side. Where voxels are moved off the grid, labels come as large as
            images, since the label of any voxel may be needed, and are cut here.
        dropout: draws the modalities that an example shows; None: all that it has.
    """

    settings: Augment
    grid: Grid
    margin: int = 0
    dropout: Dropout | None = None

    def __call__(self, key: Key[Array, ""], batch: Mapping[str, Any]) -> dict[str, Any]:
        if "image" not in batch:  # sides of different cases
            return {side: self(jax.random.fold_in(key, n), batch[side]) for n, side in enumerate(sorted(batch))}
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch["image"].shape[0]))
        return jax.vmap(self.example)(keys, dict(batch))

    def example(self, key: Key[Array, ""], example: Mapping[str, Array]) -> dict[str, Array]:
        """Augments one example: `image` (*space m), and where there are such `label` (*space) and `presence` (m).

        With a dropout there is always a presence afterwards.
        """
        seen = {name: leaf for name, leaf in example.items() if name != "presence"}
        return {**self._seen(key, seen), **self._shown(key, example)}

    def _shown(self, key: Key[Array, ""], example: Mapping[str, Array]) -> dict[str, Array]:
        """The presence of an example; nothing where all is shown."""
        if self.dropout is None:
            return {"presence": example["presence"]} if "presence" in example else {}
        own = example.get("presence", jnp.ones(example["image"].shape[-1], bool))
        return {"presence": self.dropout(jax.random.fold_in(key, _DROPOUT), own)}

    def _seen(self, key: Key[Array, ""], example: dict[str, Array]) -> dict[str, Array]:
        """Changes image and label."""
        if not self.settings.in_step:
            return example
        example = self._placed(key, example)
        image = settled(example["image"])
        brain = jnp.any(image != 0, axis=-1, keepdims=True)
        changed = self._changed(key, image, brain)
        return example if changed is image else {**example, "image": jnp.where(brain, changed, 0)}

    def _on(self, name: str) -> bool:
        return name in self.settings.active

    def _placed(self, key: Key[Array, ""], example: dict[str, Array]) -> dict[str, Array]:
        """Moves image and label alike."""
        if not self.settings.resamples:
            if not self._on("quarter_turn"):
                return example
            turn, planes = self._turn(key), self.grid.planes
            return {name: turned(array, planes, turn) for name, array in example.items()}
        places = self._sources(key)
        made = {**example, "image": interpolated(example["image"], places)}
        if "label" in example:
            seen = tuple(slice(self.margin, side - self.margin) for side in self.grid.sides)
            made["label"] = nearest(example["label"], [place[seen] for place in places])
        return made

    def _turn(self, key: Key[Array, ""]) -> Turn:
        return quarter_turn(_own(key, "quarter_turn"), self.settings.quarter_turn, len(self.grid.planes))

    def _sources(self, key: Key[Array, ""]) -> list[Array]:
        chosen, grid, axes = self.settings, self.grid, len(self.grid.sides)
        matrix: Any = jnp.eye(axes)
        if self._on("rotation"):
            matrix = rotation_matrix(_own(key, "rotation"), chosen.rotation, grid)
        if self._on("scaling"):
            larger = magnification(_own(key, "scaling"), chosen.scaling)
            matrix = matrix / jnp.stack([larger if axis in grid.thin else jnp.ones(()) for axis in range(axes)])
        if self._on("quarter_turn"):
            turn = turn_matrix(axes, grid.planes, self._turn(key))
            matrix = jnp.matmul(turn, matrix, precision=jax.lax.Precision.HIGHEST)
        moved: Sequence[Array] = [jnp.zeros(())] * axes
        if self._on("elastic"):
            moved = displacement(_own(key, "elastic"), chosen.elastic, grid)
        return sources(grid, settled(matrix), moved)

    def _changed(self, key: Key[Array, ""], image: Array, brain: Array) -> Array:
        """Changes intensities; the very same array where nothing does."""
        bias_field = partial(intensity.bias_field, spacing_mm=self.grid.spacing_mm)
        image = self._acted(key, image, brain, {"bias_field": bias_field, "noise": intensity.noise})
        if matrices := self._filters(key, image.shape[-1]):
            image = intensity.filtered(image, matrices)
        return self._acted(key, image, brain, _AFTER)

    def _acted(self, key: Key[Array, ""], image: Array, brain: Array, changes: Changes) -> Array:
        """Lets those act that are switched on."""
        for name, change in changes.items():
            if self._on(name):
                image = settled(change(_own(key, name), image, brain, getattr(self.settings, name)))
        return image

    def _filters(self, key: Key[Array, ""], modalities: int) -> list[Array]:
        sides, chosen = self.grid.sides, self.settings
        matrices: list[Array] = []
        if self._on("blur"):
            matrices = intensity.blur_matrices(_own(key, "blur"), chosen.blur, sides, modalities)
        if self._on("low_resolution"):
            drawn = (_own(key, "low_resolution"), chosen.low_resolution, sides, modalities, self.grid.thin)
            coarser = intensity.low_resolution_matrices(*drawn)
            both = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
            matrices = list(map(both, coarser, matrices)) if matrices else coarser
        return matrices


def _own(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    return jax.random.fold_in(key, _NUMBERS[name])


def augmentation(
    settings: Augment,
    patch: Sequence[int],
    spacing_mm: Sequence[float],
    margin: int,
    dropout: Dropout | None = None,
) -> Augmentation | None:
    """Returns the augmentation of batches of such patches; None where nothing acts in the step.

    Raises:
        UserError: a change makes no sense for such patches.
    """
    if not settings.in_step and dropout is None:
        return None
    grid = Grid(tuple(patch), tuple(float(one) for one in spacing_mm))
    elastic = settings.elastic if "elastic" in settings.active else None
    check_space(grid, turns="quarter_turn" in settings.active, rotates="rotation" in settings.active, elastic=elastic)
    return Augmentation(settings, grid, margin, dropout)


def augmented(train_step: Callable[[Any, Any], Any], augment: Augmentation | None) -> Callable[[Any, Any], Any]:
    """Returns a training step (state, batch) -> (state, metrics) on batches that are augmented first.

    It is done once, before any gradient is taken; no gradient flows into it. Without an augmentation it is the very
    step that is given.
    """
    if augment is None:
        return train_step

    def step(state: Any, batch: Mapping[str, Any]) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(state.rng, _APART), state.step)
        return train_step(state, augment(key, batch))

    return step
