"""HyperDense-Net's public PyTorch code (github.com/josedolz/HyperDenseNet_pytorch), for two and for three modalities.

It concatenates for every stream anew, the stream's own features first, and keeps statistics of the same features for
each stream; here all streams read one tensor in one order, and its statistics are kept once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxfuse.errors import UserError
from jaxfuse.weights.lines import CONV, Arrays, Line, Ours, Part, conv

# Streams by their number.
STREAMS = {2: ("Top", "Bottom"), 3: ("Top", "Middle", "Bottom")}
HEAD = {"fully_2": "head/hidden_2", "fully_3": "head/hidden_3", "final": "head/scores"}
_EPS = 1e-5


def own_first_order(streams: int, filters: Sequence[int], stream: int, layer: int) -> Int[np.ndarray, " channels"]:
    """Returns where the channels of a stream's concatenation, as the papers sort it, stand in the canonical one.

    `own_first = canonical[..., order]`. A kernel (*kernel in out) for the own-first concatenation becomes one for the
    canonical by `canonical_kernel[..., order, :] = own_first_kernel`; normalization likewise.

    Args:
        filters: features of each layer; those up to `layer` count.
        stream, layer: counted from 1; the concatenation is that after `layer`.

    Raises:
        UserError: there is no such stream or layer.
    """
    if not (1 <= stream <= streams and 1 <= layer <= len(filters)):
        raise UserError(f"stream {stream} of {streams}, layer {layer} of {len(filters)}: both are counted from 1")
    others = [other for other in range(streams) if other != stream - 1]
    order, start = [], 0
    for width in filters[:layer]:
        order += [start + width * source + np.arange(width) for source in (stream - 1, *others)]
        start += streams * width
    return np.concatenate(order)


def _sizes(here: Ours) -> tuple[tuple[str, ...], list[int]]:
    """Returns the names of the streams and the features of each layer."""
    kernels = {path: shape for path, shape in here.shapes.items() if path.endswith("/conv/kernel")}
    streams = sum(path.startswith("blocks/layer_1/") for path in kernels)
    if streams not in STREAMS:
        raise UserError(f"the public HyperDense-Net has 2 or 3 modalities, and this recipe {streams}; name as many")
    layers = len(kernels) // streams
    return STREAMS[streams], [kernels[f"blocks/layer_{n}/stream_1/conv/kernel"][-1] for n in range(1, layers + 1)]


def _normalization(theirs: str, layer: int, stream: int, order: np.ndarray) -> list[Line]:
    ours, shared = f"blocks/layer_{layer}/stream_{stream}", f"blocks/layer_{layer}/moments_shared"
    pairs = {"weight": f"{ours}/scale", "bias": f"{ours}/bias"}
    pairs |= {"running_mean": f"{shared}/mean", "running_var": f"{shared}/variance"}
    return [Line(f"{theirs}.{there}", here, order=order) for there, here in pairs.items()]


def _lines(here: Ours) -> list[Line]:
    streams, filters = _sizes(here)
    lines: list[Line] = []
    for layer in range(1, len(filters) + 1):
        for number, name in enumerate(streams, start=1):
            theirs, ours = f"conv{layer}_{name}", f"blocks/layer_{layer}/stream_{number}"
            if layer == 1:
                lines += [Line(f"{theirs}.0.weight", f"{ours}/prelu/slope"), *conv(f"{theirs}.2", f"{ours}/conv")]
                continue
            order = own_first_order(len(streams), filters, number, layer - 1)
            lines += _normalization(f"{theirs}.0", layer, number, order)
            lines.append(Line(f"{theirs}.1.weight", f"{ours}/prelu/slope"))
            lines.append(Line(f"{theirs}.3.weight", f"{ours}/conv/kernel", CONV, order, -2))
            lines.append(Line(f"{theirs}.3.bias", f"{ours}/conv/bias"))
    return lines + _head(len(streams), filters)


def _head(streams: int, filters: Sequence[int]) -> list[Line]:
    """Lists the lines of the head, whose first layer reads the concatenations of all streams side by side."""
    width = streams * sum(filters)
    orders = [own_first_order(streams, filters, stream, len(filters)) for stream in range(1, streams + 1)]
    order = np.concatenate([number * width + one for number, one in enumerate(orders)])
    lines = [Line("fully_1.weight", "head/hidden_1/kernel", CONV, order, -2)]
    lines.append(Line("fully_1.bias", "head/hidden_1/bias"))
    return lines + [line for theirs, ours in HEAD.items() for line in conv(theirs, ours)]


def _one_set_of_statistics(tensors: Arrays, here: Ours) -> Arrays:
    """Gives all streams the statistics of the first, and makes up for it by scale and shift.

    Streams see permutations of one tensor, so that in a trained network nothing changes. Where the statistics differ,
    scale (x - mean) / sqrt(var + eps) + shift is another scale and shift of (x - mean_1) / sqrt(var_1 + eps).
    """
    streams, filters = _sizes(here)
    settled = dict(tensors)
    for layer in range(2, len(filters) + 1):
        orders = [own_first_order(len(streams), filters, number, layer - 1) for number in range(1, len(streams) + 1)]
        names = [f"conv{layer}_{name}.0" for name in streams]
        means, variances = (
            [_canonical(tensors[f"{name}.{what}"], order) for name, order in zip(names, orders, strict=True)]
            for what in ("running_mean", "running_var")
        )
        for name, order, mean, variance in zip(names, orders, means, variances, strict=True):
            scale, shift = (_canonical(tensors[f"{name}.{what}"], order) for what in ("weight", "bias"))
            shift = shift + scale * (means[0] - mean) / np.sqrt(variance + _EPS)
            scale = scale * np.sqrt((variances[0] + _EPS) / (variance + _EPS))
            made = {"weight": scale, "bias": shift, "running_mean": means[0], "running_var": variances[0]}
            settled |= {f"{name}.{what}": value[order].astype(np.float32) for what, value in made.items()}
    return settled


def _canonical(own_first: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.asarray(own_first, np.float64)[np.argsort(order)]


NET = Part("net", "net", _lines, settle=_one_set_of_statistics)
