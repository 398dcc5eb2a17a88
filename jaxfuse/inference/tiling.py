"""Whole volumes and pictures from a network of fixed patch size: tile, predict, average where tiles overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.patches import Tiling, crop

Predict = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
# Computes extra per-tile outputs from the input tiles and the network's outputs.
Alongside = Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Mapping[str, np.ndarray]]


def predict_volume(predict: Predict, image: np.ndarray, tiling: Tiling, *, batch: int = 1) -> dict[str, np.ndarray]:
    """Predicts every named output of a volume or picture (*space m), as (*space k) float32 on the host.

    Overlapping outputs count equally. A tile sees the background 0 where it leaves the image.

    Args:
        predict: takes tiles (batch *input_tile m) and returns outputs (batch *tile k) by name. Every batch is full, so
            that it is compiled once: the last one repeats a tile.
        tiling: of the image's space.
        batch: how many tiles are predicted at once.

    Raises:
        UserError: an output has other sides than the tiling's `tile`.
    """
    sums: dict[str, np.ndarray] = {}
    weight = np.zeros(tiling.shape, np.float32)
    pending: tuple[list[tuple[int, ...]], Mapping[str, Any]] | None = None
    windows = iter(tiling)
    while starts := list(itertools.islice(windows, batch)):
        tiles = [crop(image, tiling.input_start(start), tiling.input_tile) for start in starts]
        tiles += [tiles[-1]] * (batch - len(tiles))
        sent = starts, predict({"image": np.stack(tiles)})
        # The next tiles are sent off before the last ones are read back.
        if pending is not None:
            _add(sums, weight, tiling, *pending)
        pending = sent
    if pending is not None:
        _add(sums, weight, tiling, *pending)
    for total in sums.values():
        total /= weight[..., None]
    return sums


def predict_stack(predict: Predict, stack: np.ndarray, tiling: Tiling, *, batch: int = 1) -> dict[str, np.ndarray]:
    """Predicts every output of a 2D network over a stack of pictures (s r c m), each tiled alone, as (s r c k).

    Args:
        predict: takes tiles (batch r c m), which may come from several pictures.
        tiling: of the stack, by tiles of one picture: (1, rows, columns).
        batch: how many tiles are predicted at once.
    """

    def flat(tiles: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        made = predict({name: values[:, 0] for name, values in tiles.items()})
        return {name: values[:, None] for name, values in made.items()}

    return predict_volume(flat, stack, tiling, batch=batch)


def _add(
    sums: dict[str, np.ndarray],
    weight: np.ndarray,
    tiling: Tiling,
    starts: list[tuple[int, ...]],
    outputs: Mapping[str, Any],
) -> None:
    boxes = [_inside(start, tiling) for start in starts]
    for box, _ in boxes:
        weight[box] += 1.0
    for name, values in outputs.items():
        host = np.asarray(values, np.float32)
        if host.shape[1:-1] != tiling.tile:
            raise UserError(
                f"the output {name} of a tile of {tiling.input_tile} has the sides {host.shape[1:-1]}, not "
                f"{tiling.tile}; the network's geometry must name the margin that its convolutions take"
            )
        total = sums.setdefault(name, np.zeros((*tiling.shape, host.shape[-1]), np.float32))
        for made, (box, part) in zip(host, boxes, strict=False):
            total[box] += made[part]


def _inside(start: tuple[int, ...], tiling: Tiling) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of the window at `start` that lies in the volume: as a box of the volume, and of the window."""
    first = [max(s, 0) for s in start]
    stop = [min(s + side, length) for s, side, length in zip(start, tiling.tile, tiling.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
    return box, tuple(slice(a - s, b - s) for a, b, s in zip(first, stop, start, strict=True))
