"""Whole images from tiles, by predictors whose answer is known."""

import jax
import numpy as np

from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import Asked, predict_canvas
from jaxfuse.patches import crop


def predict_image(predict, image, tiling, *, values=(), labels=(), batch=1, overlap=0.0, canvases=None, **way):
    """The outputs of these names over an image (*space m) by `predict`, a function from tiles to outputs.

    `way` are options of `windows_of`.
    """
    laid = lay(tiling, Canvases() if canvases is None else canvases)
    windows, asked = windows_of(tiling, batch, **way), Asked(values, labels)
    program = jax.jit(lambda image, places: predict_canvas(_given(predict), None, image, places, windows, asked))
    made = program(laid.image(image), laid.places(windows, overlap))
    return {name: laid.cut(np.asarray(one)) for name, one in made.items()}


def by_hand(predict, image, tiling, weight_of=lambda *place: 1.0):
    """Puts an output together one tile after the other, summed and divided on the host in float64.

    `weight_of` tells the weight of a voxel by its place in the tile.
    """
    weights = np.array([weight_of(*place) for place in np.ndindex(*tiling.tile)]).reshape(*tiling.tile, 1)
    ends = [(side, side) for side in tiling.tile]
    total, weight = 0.0, np.pad(np.zeros((*image.shape[:-1], 1)), [*ends, (0, 0)])
    for start in tiling:
        made = np.asarray(predict({"image": crop(image, tiling.input_start(start), tiling.input_tile)[None]})[0])
        box = tuple(slice(a + s, a + 2 * s) for a, s in zip(start, tiling.tile, strict=True))
        whole = np.zeros((*weight.shape[:-1], made.shape[-1]))
        whole[box] = weights * made
        total = total + whole
        weight[box] += weights
    inside = tuple(slice(s, s + n) for s, n in zip(tiling.tile, tiling.shape, strict=True))
    return total[inside] / weight[inside]


def _given(predict):
    return lambda weights, tiles: predict(tiles)
