"""Compiled functions of predictions, of networks that were trained here and of those that were exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.stages import Wrapped

from jaxfuse.inference.members import Axis, added, upright
from jaxfuse.inference.tiling import Asked, Predict, Windows, label_of, predict_canvas


def over_canvas(predict: Predict, windows: Windows, asked: Asked, **where: Any) -> Wrapped:
    """Compiles (weights, image, places) -> the outputs of a whole image that are asked for, on its canvas.

    Args:
        where: as of `jax.jit`, where arguments and outputs lie on several devices.
    """

    def prediction(weights: Any, image: Any, places: Any) -> Mapping[str, Any]:
        return predict_canvas(predict, weights, image, places, windows, asked)

    return jax.jit(prediction, **where)


@dataclass(frozen=True)
class Adding:
    """Functions that add the outputs of one network after the other, so that two canvases lie on the device at most.

    Attributes:
        upright: (canvas, shift) -> the volume at the origin; the shift may be None.
        onto: (sum, volume) -> their sum, where the sum so far is as large; it is used up.
        beside: the same for any sums.
        mean: (sum, how many) -> the mean.
        labels: (sum, how many) -> the most probable classes of the mean.
    """

    upright: Wrapped
    onto: Wrapped
    beside: Wrapped
    mean: Wrapped
    labels: Wrapped

    def added(self, total: Any, part: Any) -> Any:
        """Returns a sum with one volume more; the sum so far may be used up."""
        fits = all(a <= b for a, b in zip(total.shape, part.shape, strict=True))
        return (self.onto if fits else self.beside)(total, part)


def adding(across: Axis) -> Adding:
    """Compiles the functions for a network whose pictures lie so."""

    def mean(total: Any, count: int) -> Any:
        return total / count

    return Adding(
        upright=jax.jit(lambda canvas, shift: upright(canvas, shift, across)),
        onto=jax.jit(added, donate_argnums=0),
        beside=jax.jit(added),
        mean=jax.jit(mean, static_argnums=1),
        labels=jax.jit(lambda total, count: label_of(mean(total, count)), static_argnums=1),
    )
