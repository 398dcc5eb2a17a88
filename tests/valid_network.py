"""A small network of valid convolutions, each of whose outputs depends on the input around it and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxfuse.learning.system import Geometry, Segmentation
from jaxfuse.losses.overlap import cross_entropy
from jaxfuse.nn.conv import conv


@dataclass(frozen=True)
class Valid:
    """`layers` convolutions of kernel 3 to `width` channels, the last one to `classes`; nothing is padded."""

    layers: int
    width: int = 2
    classes: int = 2

    def init(self, rng, image):
        ndim, widths = image.ndim - 2, [image.shape[-1], *[self.width] * (self.layers - 1), self.classes]
        keys = jax.random.split(rng, self.layers)
        shapes = [((3,) * ndim, a, b) for a, b in itertools.pairwise(widths)]
        return {
            f"layer_{i}": jax.random.normal(key, (*kernel, a, b)) * (3**ndim * a) ** -0.5
            for i, (key, (kernel, a, b)) in enumerate(zip(keys, shapes, strict=True))
        }

    def __call__(self, params, image):
        for i in range(self.layers):
            # A bias, so that the background does not stay 0.
            image = jnp.sin(conv(image, params[f"layer_{i}"], strides=1, padding=0) + 0.3)
        return 3 * image


def valid_system(layers, *, ndim=3, channels=(0,), classes=2, divisor=1):
    """A System around it, of margin `layers`."""
    network = Valid(layers, classes=classes)
    optimizers = {"net": optax.sgd(0.1)}
    return Segmentation(network, channels, cross_entropy, optimizers, Geometry(ndim, divisor, layers), "valid")
