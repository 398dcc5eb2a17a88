"""Whole images from tiles, by predictors whose answer is known."""

import jax
import numpy as np

from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import Asked, predict_canvas


def predict_image(predict, image, tiling, *, values=(), labels=(), batch=1, overlap=0.0, stacked=False, canvases=None):
    """The outputs of these names over an image (*space m) by `predict`, a function from tiles to outputs."""
    laid = lay(tiling, Canvases() if canvases is None else canvases)
    windows, asked = windows_of(tiling, batch, stacked=stacked), Asked(values, labels)
    program = jax.jit(lambda image, places: predict_canvas(_given(predict), None, image, places, windows, asked))
    made = program(laid.image(image), laid.places(batch, overlap))
    return {name: laid.cut(np.asarray(one)) for name, one in made.items()}


def _given(predict):
    return lambda weights, tiles: predict(tiles)
