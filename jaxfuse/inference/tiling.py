"""Whole volumes and pictures from a network of fixed patch size, as one program on the device.

The image lies on a canvas, an array whose sides many images share (`jaxfuse.inference.canvas`), so that a program is
compiled for a canvas and not for a case. Windows are cut from it in batches, their outputs are summed in float32 where
they overlap, each voxel by its weight, and sums become means, or the most probable class, before anything leaves the
device. How many windows there are, and where, are arguments of the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Integer, Shaped

from jaxfuse.arrays import Array
from jaxfuse.errors import UserError
from jaxfuse.inference.mirrors import over_mirrors
from jaxfuse.inference.weighting import EQUAL, profile

Outputs = Mapping[str, Array]
# Weights, and tiles (batch *input_tile m) by the name "image", with their "presence" (batch m) where one is told ->
# outputs (batch *tile k) by name.
Predict = Callable[[Any, Mapping[str, Array]], Outputs]
# Computes extra per-tile outputs from the input tiles and the network's outputs.
Alongside = Callable[[Mapping[str, Array], Outputs], Outputs]


@dataclass(frozen=True)
class Asked:
    """The outputs that leave the device; no name stands twice, and one that the network lacks is left out.

    Attributes:
        values: those that are wanted as they are, float32 (*space k).
        labels: those, class probabilities, of which the most probable class is wanted, uint8 (*space).
        alongside: makes more outputs of single tiles, which are put together like those of the network.
    """

    values: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    alongside: Alongside | None = None


@dataclass(frozen=True)
class Windows:
    """The facts of windows that a program is compiled for.

    Attributes:
        tile: sides of a window, the network's output.
        margin: voxels that the network's input reaches beyond it on both sides, per axis.
        batch: how many windows are predicted at once.
        stacked: whether the image is a stack of pictures, and the network sees windows of one picture without the
            stack's axis.
        weighting: how the voxels of a window count where windows overlap, by `jaxfuse.inference.weighting`.
        mirror: axes of the windows along which they are mirrored, for the mean of all reflections.
    """

    tile: tuple[int, ...]
    margin: tuple[int, ...]
    batch: int
    stacked: bool = False
    weighting: str = EQUAL
    mirror: tuple[int, ...] = ()

    @property
    def input_tile(self) -> tuple[int, ...]:
        """The sides of the network's input for one window, the stack's axis included."""
        return tuple(side + 2 * lost for side, lost in zip(self.tile, self.margin, strict=True))


class Places(NamedTuple):
    """The windows of one image on its canvas, as arguments of a program.

    Attributes:
        starts: first voxel of each window; what follows the last window fills the array and the last batch up.
        count: number of windows.
        presence: which modalities the image has, (m) bool; None where it has all.
        held: for each axis, the weights of the windows along it that hold each place, summed; 1 where none does.
    """

    starts: Integer[Array | np.ndarray, "most axes"]
    count: Integer[Array | np.ndarray, ""]
    held: tuple[Float[Array | np.ndarray, " side"], ...]
    presence: Bool[Array | np.ndarray, " m"] | None = None


def predict_canvas(
    predict: Predict, weights: Any, image: Shaped[Array, "*sides m"], places: Places, windows: Windows, asked: Asked
) -> dict[str, Array]:
    """Predicts the outputs that are asked for over a canvas (*canvas k) or (*canvas).

    `image` reaches beyond the canvas by the margin on all sides; a window sees the
    background 0 where it leaves the image that lies there.

    Raises:
        UserError: an output has other sides than the windows.
    """
    sides = tuple(side - 2 * lost for side, lost in zip(image.shape, windows.margin, strict=False))
    one_way = _over_tiles(predict, windows, asked, places.presence)
    network = over_mirrors(one_way, [1 + axis for axis in windows.mirror])

    def cut(start: Array) -> Array:
        return lax.dynamic_slice(image, (*start, 0), (*windows.input_tile, image.shape[-1])).astype(jnp.float32)

    def add_batch(number: Array, sums: dict[str, Array]) -> dict[str, Array]:
        starts = lax.dynamic_slice(places.starts, (number * windows.batch, 0), (windows.batch, len(sides)))
        made = network(weights, lax.map(cut, starts))

        def add(place: Any, sums: dict[str, Array]) -> dict[str, Array]:
            at, counts = (*starts[place], 0), number * windows.batch + place < places.count
            return {name: _added(sums[name], _weighed(made[name][place], windows), at, counts) for name in sums}

        return lax.fori_loop(0, windows.batch, add, sums)

    channels = output_channels(predict, weights, windows, asked, image.shape[-1])
    sums = {name: jnp.zeros((*sides, k), jnp.float32) for name, k in channels.items()}
    batches = (places.count + windows.batch - 1) // windows.batch
    sums = lax.fori_loop(0, batches, add_batch, sums)
    means = {name: total / _weight(places.held) for name, total in sums.items()}
    return {name: label_of(mean) if name in asked.labels else mean for name, mean in means.items()}


def output_channels(predict: Predict, weights: Any, windows: Windows, asked: Asked, channels: int) -> dict[str, int]:
    """Returns the channels of each output that is summed, by name; `channels` are those of the image.

    `weights` may be their shapes.
    """
    tiles = jax.ShapeDtypeStruct((windows.batch, *windows.input_tile, channels), jnp.float32)
    made = jax.eval_shape(_over_tiles(predict, windows, asked), weights, tiles)
    for name, values in made.items():
        if values.shape[1:-1] != windows.tile:
            raise UserError(
                f"the output {name} of a tile of {windows.input_tile} has the sides {values.shape[1:-1]}, not "
                f"{windows.tile}; the network's geometry must name the margin that its convolutions take"
            )
    return {name: values.shape[-1] for name, values in made.items()}


def canvas_bytes(
    sides: tuple[int, ...], windows: Windows, asked: Asked, *, channels: int, summed: Mapping[str, int]
) -> int:
    """Counts what lies on the device for the whole image: itself, the sums, and what comes out of them.

    `summed` is what `output_channels` tells.
    """
    image = math.prod(side + 2 * lost for side, lost in zip(sides, windows.margin, strict=True)) * channels
    each = [4 * k + (1 if name in asked.labels else 4 * k) for name, k in summed.items()]
    return 4 * image + math.prod(sides) * sum(each)


def label_of(probs: Float[Array, "*space k"]) -> Integer[Array, "*space"]:
    """Returns the most probable class of each voxel, uint8: of several the first, and that of a NaN where there is one.

    Class by class, so that it takes one pass and nothing but the labels is written; an argmax would write more.
    """
    best, label = probs[..., 0], jnp.zeros(probs.shape[:-1], jnp.uint8)
    for index in range(1, probs.shape[-1]):
        other = probs[..., index]
        better = ~(other <= best) & ~jnp.isnan(best)
        best, label = jnp.where(better, other, best), jnp.where(better, jnp.uint8(index), label)
    return label


def _over_tiles(
    predict: Predict, windows: Windows, asked: Asked, presence: Array | np.ndarray | None = None
) -> Callable[[Any, Array], dict[str, Array]]:
    """The outputs that are asked for, of a batch of tiles; a stack's axis is taken away and put back."""
    names = (*asked.values, *asked.labels)

    def network(weights: Any, tiles: Array) -> dict[str, Array]:
        inputs = {"image": tiles[:, 0] if windows.stacked else tiles}
        if presence is not None:
            inputs["presence"] = jnp.broadcast_to(presence, (tiles.shape[0], *presence.shape))
        made = dict(predict(weights, inputs))
        if asked.alongside is not None:
            made |= asked.alongside(inputs, made)
        found = {name: made[name].astype(jnp.float32) for name in names if name in made}
        return {name: values[:, None] if windows.stacked else values for name, values in found.items()}

    return network


def _added(total: Array, part: Array, at: tuple[Any, ...], counts: Array) -> Array:
    """The sums with the output of one window, which fills up its batch only where it does not count."""
    held = lax.dynamic_slice(total, at, part.shape)
    return lax.dynamic_update_slice(total, held + jnp.where(counts, part, 0.0), at)


def _weighed(part: Array, windows: Windows) -> Array:
    """The output of one window, each voxel times its weight."""
    if windows.weighting == EQUAL:
        return part
    for axis, side in enumerate(windows.tile):
        # One axis after the other: a product of all profiles would be a constant as large as a tile.
        part = part * jnp.expand_dims(profile(windows.weighting, side), [a for a in range(part.ndim) if a != axis])
    return part


def _weight(held: tuple[Any, ...]) -> Array:
    """The weights that each voxel is summed by, (*canvas 1): windows stand in rows along every axis."""
    axes = range(len(held))
    each = [jnp.reshape(one, [-1 if axis == own else 1 for axis in (*axes, -1)]) for own, one in enumerate(held)]
    return math.prod(each[1:], start=each[0])
