"""Whole volumes and pictures from a network of fixed patch size: tile, predict, average where tiles overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfuse.patches import Tiling, crop, tile_volume

Predict = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def predict_volume(predict: Predict, image: np.ndarray, tiling: Tiling, *, batch: int = 1) -> dict[str, np.ndarray]:
    """Every named output of `predict` over a volume or picture (*space m), as (*space k) float32 on the host.

    `predict` always sees `batch` tiles, so that it is compiled once; the last batch is filled up by repeating a
    tile. Overlapping tiles count equally. The next tiles are sent off before the last ones are read back.
    """
    sums: dict[str, np.ndarray] = {}
    weight = np.zeros(tiling.shape, np.float32)
    pending: tuple[list[tuple[int, ...]], Mapping[str, Any]] | None = None
    windows = iter(tiling)
    while starts := list(itertools.islice(windows, batch)):
        tiles = [crop(image, start, tiling.tile) for start in starts]
        tiles += [tiles[-1]] * (batch - len(tiles))
        sent = starts, predict({"image": np.stack(tiles)})
        if pending is not None:
            _add(sums, weight, tiling, *pending)
        pending = sent
    if pending is not None:
        _add(sums, weight, tiling, *pending)
    for total in sums.values():
        total /= weight[..., None]
    return sums


def predict_stack(
    predict: Predict, stack: np.ndarray, patch: Sequence[int], *, overlap: float, batch: int = 1
) -> dict[str, np.ndarray]:
    """Every output of a 2D network over a stack of pictures (s r c m), each tiled alone, as (s r c k).

    `predict` sees `batch` patches (batch *patch m) at once, which may come from several pictures.
    """

    def flat(tiles: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        made = predict({name: values[:, 0] for name, values in tiles.items()})
        return {name: values[:, None] for name, values in made.items()}

    tiling = tile_volume(stack.shape[:-1], (1, *patch), overlap=overlap)
    return predict_volume(flat, stack, tiling, batch=batch)


def _add(
    sums: dict[str, np.ndarray],
    weight: np.ndarray,
    tiling: Tiling,
    starts: list[tuple[int, ...]],
    outputs: Mapping[str, Any],
) -> None:
    boxes = []
    for start in starts:
        stops = (min(s + side, length) for s, side, length in zip(start, tiling.tile, tiling.shape, strict=True))
        boxes.append(tuple(slice(s, stop) for s, stop in zip(start, stops, strict=True)))
        weight[boxes[-1]] += 1.0
    for name, values in outputs.items():
        host = np.asarray(values, np.float32)
        total = sums.setdefault(name, np.zeros((*tiling.shape, host.shape[-1]), np.float32))
        for i, box in enumerate(boxes):
            total[box] += host[i][tuple(slice(0, s.stop - s.start) for s in box)]
