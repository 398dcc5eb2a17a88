"""Random changes of place: turns by 90 degrees, and one resampling of rotation, scaling and deformation together.

What lies beyond a patch is background, 0, in the image and in the label, as in the patches themselves where they leave
a case. nnU-Net fills with 0 too, but from larger patches, so that it has to less often.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfuse.arrays import Array, Float, Integer, Key
from jaxfuse.augment.draw import around_one, between, happens, settled
from jaxfuse.augment.settings import Elastic, QuarterTurn, Rotation, Scaling
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED

# Slices that are thicker than so many times the finest side stay what they are (nnU-Net's threshold, there of patches).
THICK = 3.0
# Cubic B-splines of nodes that move by less than their distance over this never fold (Choi and Lee, Graphical Models
# 62:411, 2000), by the number of axes.
_FOLDS = {1: 2.0, 2: 2.046392675, 3: 2.479472335}
# Without a range of its own, the degrees of rotations: of volumes, of planes, and of planes of unequal sides.
_IN_SPACE, _IN_PLANE, _IN_LONG_PLANE, _LONG = 30.0, 180.0, 15.0, 1.5


@dataclass(frozen=True)
class Grid:
    """The voxels of a patch.

    Attributes:
        sides: voxels per axis.
        spacing_mm: their sides; only their ratios matter to turns and scaling.
    """

    sides: tuple[int, ...]
    spacing_mm: tuple[float, ...]

    @property
    def thin(self) -> tuple[int, ...]:
        """The axes that are not those of thick slices."""
        return tuple(axis for axis, one in enumerate(self.spacing_mm) if one <= THICK * min(self.spacing_mm))

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """The pairs of thin axes along which the patch has equal sides."""
        return tuple((a, b) for a, b in itertools.combinations(self.thin, 2) if self.sides[a] == self.sides[b])

    def offsets(self) -> list[Float[Array, ...]]:
        """Returns the distance in voxels from the middle along each axis, each to be broadcast over the others."""
        found = []
        for axis, side in enumerate(self.sides):
            shape = [1] * len(self.sides)
            shape[axis] = side
            found.append(jnp.arange(side, dtype=jnp.float32).reshape(shape) - (side - 1) / 2)
        return found


class Turn(NamedTuple):
    """A turn in one of several planes.

    Attributes:
        plane: its number.
        quarters: by so many times 90 degrees; 0: not at all.
    """

    plane: Array
    quarters: Array


def quarter_turn(key: Key[Array, ""], settings: QuarterTurn, planes: int) -> Turn:
    """Draws a turn by 90, 180 or 270 degrees, or none."""
    whether, which, how_far = jax.random.split(key, 3)
    quarters = jnp.where(happens(whether, settings.probability), jax.random.randint(how_far, (), 1, 4), 0)
    return Turn(settled(jax.random.randint(which, (), 0, planes)), settled(quarters))


def turned(array: Array, planes: Sequence[tuple[int, int]], turn: Turn) -> Array:
    """Turns as `numpy.rot90` does: by an exchange of two axes, and mirroring; every voxel keeps its value."""
    made = array
    mirrored: list[Array] = [jnp.asarray(False)] * array.ndim
    for number, (a, b) in enumerate(planes):
        here = turn.plane == number
        made = jnp.where(here & (turn.quarters % 2 == 1), jnp.swapaxes(array, a, b), made)
        mirrored[a] |= here & ((turn.quarters == 1) | (turn.quarters == 2))
        mirrored[b] |= here & ((turn.quarters == 2) | (turn.quarters == 3))
    for axis in sorted({axis for plane in planes for axis in plane}):
        made = jnp.where(mirrored[axis], jnp.flip(made, axis), made)
    return made


def turn_matrix(axes: int, planes: Sequence[tuple[int, int]], turn: Turn) -> Float[Array, "n n"]:
    """Returns `turned` as a matrix from voxels of the result to those that they are taken from, about the middle."""
    matrix = jnp.eye(axes)
    for number, (a, b) in enumerate(planes):
        quarter = np.eye(axes, dtype=np.float32)
        quarter[[a, b]] = quarter[[b, a]]
        quarter[b] *= -1
        powers = jnp.asarray(np.stack([np.linalg.matrix_power(quarter, n) for n in range(4)]))
        matrix = jnp.where(turn.plane == number, powers[turn.quarters], matrix)
    return settled(matrix)


def rotation_matrix(key: Key[Array, ""], settings: Rotation, grid: Grid) -> Float[Array, "n n"]:
    """Draws a rotation of the thin axes, in voxels: one turn in each plane, one after the other."""
    whether, angles_key = jax.random.split(key)
    pairs = list(itertools.combinations(grid.thin, 2))
    most = math.radians(_degrees(settings, grid))
    angles = between(angles_key, (-most, most), (len(pairs),))
    angles = jnp.where(happens(whether, settings.probability), angles, 0)
    count = len(grid.sides)
    matrix = jnp.eye(count)
    for (a, b), angle in zip(pairs, angles, strict=True):
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.eye(count).at[a, a].set(cosine).at[b, b].set(cosine).at[a, b].set(-sine).at[b, a].set(sine)
        matrix = jnp.matmul(matrix, turn, precision=lax.Precision.HIGHEST)
    spacing = np.array(grid.spacing_mm, np.float64)
    # Angles are those of the head: sides of voxels may differ.
    return settled(matrix * jnp.asarray(spacing[None, :] / spacing[:, None], jnp.float32))


def _degrees(settings: Rotation, grid: Grid) -> float:
    """Returns the greatest angle."""
    if settings.degrees is not None:
        return settings.degrees
    if len(grid.thin) == 3:
        return _IN_SPACE
    sides = [grid.sides[axis] for axis in grid.thin]
    return _IN_LONG_PLANE if max(sides) > _LONG * min(sides) else _IN_PLANE


def magnification(key: Key[Array, ""], settings: Scaling) -> Float[Array, ""]:
    """Draws the factor by which things are shown larger."""
    whether, factor = jax.random.split(key)
    return jnp.where(happens(whether, settings.probability), around_one(factor, settings.range), 1.0)


def displacement(key: Key[Array, ""], settings: Elastic, grid: Grid) -> list[Float[Array, ...]]:
    """Draws how far, in voxels along each axis, every voxel is displaced; 0 along the axis of thick slices.

    A stack of thick slices is displaced as one.
    """
    whether, nodes_key = jax.random.split(key)
    weights = [
        _node_weights(side, one, settings.control_mm) if axis in grid.thin else np.ones((side, 1), np.float32)
        for axis, (side, one) in enumerate(zip(grid.sides, grid.spacing_mm, strict=True))
    ]
    shape = (len(grid.thin), *(matrix.shape[1] for matrix in weights))
    most = jnp.where(happens(whether, settings.probability), settings.most_mm, 0.0)
    field = most * between(nodes_key, (-1.0, 1.0), shape)
    for axis, matrix in enumerate(weights):
        field = jnp.moveaxis(jnp.tensordot(matrix, field, (1, axis + 1), precision=lax.Precision.HIGHEST), 0, axis + 1)
    moved = dict(zip(grid.thin, field, strict=True))
    return [moved[axis] / one if axis in moved else jnp.zeros(()) for axis, one in enumerate(grid.spacing_mm)]


def _node_weights(side: int, spacing_mm: float, control_mm: float) -> np.ndarray:
    """Returns the weight in every voxel of every node along one axis, by cubic B-splines."""
    place = (np.arange(side) - (side - 1) / 2) * spacing_mm / control_mm
    count = math.ceil((side - 1) * spacing_mm / control_mm) + 4
    t = np.abs(place[:, None] - (np.arange(count) - (count - 1) / 2))
    weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
    return weights.astype(np.float32)


def check_space(grid: Grid, *, turns: bool, rotates: bool, elastic: Elastic | None) -> None:
    """Refuses changes of place that such a patch cannot have.

    Raises:
        UserError: names the option.
    """
    patch = " x ".join(map(str, grid.sides))
    if turns and not grid.planes:
        raise UserError(
            f"augment.quarter_turn turns equal sides into each other, and the patch of {patch} voxels has none within "
            "its slices; set its probability to 0, or choose a patch of equal sides"
        )
    if rotates and len(grid.thin) < 2:
        raise UserError(
            f"augment.rotation turns within slices, and voxels of {' x '.join(f'{s:g}' for s in grid.spacing_mm)} mm "
            "are thick along all axes but one; set its probability to 0"
        )
    if elastic is not None and elastic.most_mm * _FOLDS[len(grid.thin)] >= elastic.control_mm:
        raise UserError(
            f"augment.elastic would fold the image: nodes {elastic.control_mm:g} mm apart may move by less than "
            f"{elastic.control_mm / _FOLDS[len(grid.thin)]:.1f} mm, and most_mm is {elastic.most_mm:g}"
        )


def sources(
    grid: Grid, matrix: Float[Array, "n n"], moved: Sequence[Float[Array, ...]]
) -> list[Float[Array, "*space"]]:
    """Returns where each voxel of the result is taken from, per axis in voxels: first displaced, then turned."""
    offsets = [offset + by for offset, by in zip(grid.offsets(), moved, strict=True)]
    return [
        sum((matrix[axis, other] * offset for other, offset in enumerate(offsets)), start=jnp.float32((side - 1) / 2))
        for axis, side in enumerate(grid.sides)
    ]


def interpolated(image: Float[Array, "*space m"], places: Sequence[Float[Array, ...]]) -> Float[Array, "... m"]:
    """Returns the image at these places, linearly between the voxels around each, and 0 beyond the image."""
    sides = image.shape[:-1]
    flat, total = image.reshape(-1, image.shape[-1]), jnp.zeros((), image.dtype)
    for corner in itertools.product((0, 1), repeat=len(sides)):
        index, share = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
        for place, upper, side in zip(places, corner, sides, strict=True):
            below = jnp.floor(place)
            at = below.astype(jnp.int32) + upper
            part = place - below if upper else 1 - (place - below)
            share = share * jnp.where((at >= 0) & (at < side), part, 0)
            index = index * side + jnp.clip(at, 0, side - 1)
        total = total + share[..., None] * flat.at[index].get(mode="promise_in_bounds")
    return total


def nearest(label: Integer[Array, "*space"], places: Sequence[Float[Array, ...]]) -> Integer[Array, ...]:
    """Returns the label of the voxel nearest to each place, and 0 beyond them: no value is new.

    Of a label in which no voxel counts, none does beyond it.
    """
    index, inside = jnp.zeros((), jnp.int32), jnp.asarray(True)
    for place, side in zip(places, label.shape, strict=True):
        at = jnp.floor(place + 0.5).astype(jnp.int32)
        inside = inside & (at >= 0) & (at < side)
        index = index * side + jnp.clip(at, 0, side - 1)
    beyond = jnp.where((label == IGNORED).all(), IGNORED, 0).astype(label.dtype)
    return jnp.where(inside, label.reshape(-1).at[index].get(mode="promise_in_bounds"), beyond)
