"""Whole volumes from a network of fixed patch size: tile, predict, average where tiles overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxfuse.patches import Tiling, crop

Predict = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def predict_volume(predict: Predict, image: np.ndarray, tiling: Tiling, *, batch: int = 1) -> dict[str, np.ndarray]:
    """Every named output of `predict` over a volume (d h w m), as (d h w k) float32 on the host.

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
