"""A network that compiles at once, to be named as `model` in a recipe: normalization and one weight per channel."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxfuse.learning.normalized import LinenNormalized, NormalizedSegmentation
from jaxfuse.learning.system import Geometry


class Pixelwise(nn.Module):
    """Logits of a pixel from its own normalized channels and their squares."""

    classes: int

    @nn.compact
    def __call__(self, image, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(image)
        return nn.Dense(self.classes)(jnp.concatenate([x, x**2], -1))


def make_system(*, optimizers, modalities, classes, loss):
    network, channels = LinenNormalized(Pixelwise(classes)), tuple(range(len(modalities)))
    return NormalizedSegmentation(network, channels, loss, optimizers, Geometry(2, 1), "segmentation")
