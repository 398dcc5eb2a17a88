"""python -m experiments.throughput.convolutions [--only NUMBERS] [--torch] [--out FILE]

Rates of the convolutions that training steps consist of, float32 on CPU, in every form: the convolution, the gradient
of its image and that of its kernel, beside one matrix product of as many operations. Prints a table of GFLOP/s, in
which the form that `jaxfuse.nn.conv_rule` takes is starred. `--torch` adds PyTorch's rates, where it is installed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.nn import conv_forms, conv_rule
from jaxfuse.nn.conv_forms import Window

# (batch, sides, kernel, strides, padding, channels, features), of the networks named above them.
SHAPES = [
    # CMFT and CMFF on 32^3
    (2, (32,) * 3, 3, 1, 1, 2, 16),
    (2, (32,) * 3, 3, 1, 1, 16, 16),
    (2, (32,) * 3, 3, 1, 1, 32, 16),
    (2, (32,) * 3, 3, 1, 1, 64, 32),
    (2, (32,) * 3, 3, 2, 1, 16, 32),
    (2, (16,) * 3, 3, 1, 1, 32, 32),
    (2, (16,) * 3, 3, 1, 1, 64, 32),
    (2, (8,) * 3, 3, 1, 1, 128, 64),
    (2, (4,) * 3, 3, 1, 1, 256, 128),
    (2, (4,) * 3, 3, 2, 1, 128, 256),
    (2, (2,) * 3, 3, 1, 1, 256, 256),
    (4, (16,) * 3, 4, 2, 1, 16, 32),
    # HyperDense-Net and HyperFusionNet on 27^3
    (2, (25,) * 3, 3, 1, 0, 50, 25),
    (2, (15,) * 3, 3, 1, 0, 450, 75),
    (2, (11,) * 3, 3, 1, 0, 750, 75),
    (1, (17,) * 3, 3, 1, 0, 621, 66),
    (1, (11,) * 3, 3, 1, 0, 1293, 91),
    # InfiNet on 256^2, Hi-Net on 128^2
    (2, (256,) * 2, 3, 1, 1, 64, 64),
    (2, (128,) * 2, 3, 1, 1, 192, 64),
    (8, (128,) * 2, 3, 1, 1, 32, 32),
    (8, (64,) * 2, 3, 1, 1, 64, 64),
    (8, (32,) * 2, 3, 1, 1, 128, 128),
    (8, (16,) * 2, 3, 1, 1, 384, 128),
]
SECONDS, ROUNDS = 0.3, 5
PARTS = ("convolution", "image", "kernel")


def main() -> None:
    """Measures the chosen shapes and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="numbers of shapes, such as 1,2,3")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    numbers = [int(number) for number in options.only.split(",") if number] or range(len(SHAPES))
    forms = ["plain", "0", "1", "2", "3"] + ["torch"] * options.torch
    lines = [f"| shape | part | product | {' | '.join(forms)} |", "| --- | --- |" + " ---: |" * (len(forms) + 1)]
    print("\n".join(lines), flush=True)
    for number in numbers:
        for row in _rows(SHAPES[number], forms):
            print(row, flush=True)
            lines.append(row)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


def _rows(shape: tuple[Any, ...], forms: list[str]) -> Iterator[str]:
    batch, sides, size, stride, padding, channels, features = shape
    space = len(sides)
    window = Window(sides, (size,) * space, (stride,) * space, (padding,) * space)
    rng = np.random.default_rng(0)
    kinds = {"x": (batch, *sides, channels), "w": (*window.size, channels, features)}
    kinds["y"] = (batch, *window.out, features)
    arrays = {kind: jnp.asarray(rng.normal(size=sides), jnp.float32) for kind, sides in kinds.items()}
    operations = 2 * math.prod(kinds["y"]) * math.prod(window.size) * channels
    name = f"{batch} x {' x '.join(map(str, sides))}, {channels} to {features}, kernel {size}, stride {stride}"
    peers = _torch(arrays, window) if "torch" in forms else {}
    for part in PARTS:
        rates = {"product": operations / _best(*_product(part, math.prod(kinds["w"][:-1]), arrays))}
        for form, (run, given) in _runs(part, window, arrays).items():
            rates[form] = operations / _best(run, given)
        if part in peers:
            rates["torch"] = operations / _fastest(peers[part])
        taken = _ruled(part, window, channels, features)
        told = [f"{rates[form] / 1e9:.0f}{'*' * (form == taken)}" if form in rates else "" for form in forms]
        yield f"| {name} | {part} | {rates['product'] / 1e9:.0f} | {' | '.join(told)} |"


def _runs(part: str, window: Window, arrays: dict[str, jax.Array]) -> dict[str, tuple[Callable[..., Any], tuple]]:
    """The functions and arguments of every form that can compute a part."""
    x, w, y = (arrays[kind] for kind in "xwy")
    plain, in_image, in_kernel = conv_rule.plain, conv_rule.transposed_in_image, conv_rule.transposed_in_kernel
    derived = {"convolution": plain, "image": partial(in_image, plain), "kernel": partial(in_kernel, plain)}[part]
    products = (conv_forms.convolve, conv_forms.input_gradient, conv_forms.kernel_gradient)
    product = dict(zip(PARTS, products, strict=True))[part]
    given = {"convolution": (x, w), "image": (y, w), "kernel": (x, y)}[part]
    runs = {"plain": (partial(derived, window=window), given)}
    space, strided = len(window.size), max(window.strides) > 1
    for taken in range(space if strided else 0, space + 1):
        runs[str(taken)] = (partial(product, window=window, taken=taken), given)
    if part == "image":
        runs[str(space)] = (partial(conv_forms.scattered, window=window), given)
    return runs


def _ruled(part: str, window: Window, channels: int, features: int) -> str:
    rules = (conv_rule.taken_forward, conv_rule.taken_backward, conv_rule.taken_in_kernel)
    taken = dict(zip(PARTS, rules, strict=True))[part](window, channels, features)
    return "plain" if taken is None else str(taken)


def _product(part: str, inner: int, arrays: dict[str, jax.Array]) -> tuple[Callable[..., Any], tuple]:
    """One matrix product of as many operations: the part over patches that lie there already."""
    rows, features = math.prod(arrays["y"].shape[:-1]), arrays["y"].shape[-1]
    patches, matrix, result = jnp.ones((rows, inner)), jnp.ones((inner, features)), jnp.ones((rows, features))
    if part == "convolution":
        return (lambda a, b: a @ b), (patches, matrix)
    if part == "image":
        return (lambda a, b: a @ b.T), (result, matrix)
    return (lambda a, b: a.T @ b), (patches, result)


def _best(run: Callable[..., Any], given: tuple) -> float:
    compiled = jax.jit(run).lower(*given).compile()
    return _fastest(lambda: jax.block_until_ready(compiled(*given)))


def _fastest(run: Callable[[], Any]) -> float:
    """Seconds of the fastest of some calls, after one that is not timed."""
    run()
    seconds, begun = [], time.perf_counter()
    while len(seconds) < ROUNDS and time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _torch(arrays: dict[str, jax.Array], window: Window) -> dict[str, Callable[[], Any]]:
    import torch  # Not among the library's requirements.

    space = len(window.size)
    torch.set_num_threads(2)
    x, y = (torch.from_numpy(np.moveaxis(np.asarray(arrays[kind]), -1, 1).copy()) for kind in "xy")
    w = torch.from_numpy(np.moveaxis(np.asarray(arrays["w"]), (-1, -2), (0, 1)).copy())
    strides, padding = list(window.strides), list(window.padding)
    forward = torch.nn.functional.conv3d if space == 3 else torch.nn.functional.conv2d

    def back(image: bool) -> Any:
        edges = [strides, padding, [1] * space, False, [0] * space, 1, [image, not image, False]]
        return torch.ops.aten.convolution_backward(y, x, w, None, *edges)

    runs = (partial(forward, x, w, stride=strides, padding=padding), partial(back, True), partial(back, False))
    return dict(zip(PARTS, runs, strict=True))


if __name__ == "__main__":
    main()
