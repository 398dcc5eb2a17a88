"""Random changes of an example: (example, rng, settings) -> example. All are off at their default settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from jaxfuse.data.brain import shown
from jaxfuse.data.sampling import Example
from jaxfuse.errors import UserError

Transform = Callable[[Example, np.random.Generator], Example]


def flip(example: Example, rng: np.random.Generator, *, probability: float = 0.0) -> Example:
    """Mirrors image and label along each spatial axis, independently, with this probability."""
    ndim = example["image"].ndim - 1
    axes = tuple(int(axis) for axis in np.flatnonzero(rng.random(ndim) < probability))
    return {name: np.ascontiguousarray(np.flip(value, axes)) for name, value in example.items()}


def intensity(example: Example, rng: np.random.Generator, *, scale: float = 0.0, shift: float = 0.0) -> Example:
    """Per modality, x * (1 + u) + v over the brain, u uniform in [-scale, scale], v in [-shift, shift].

    Values are z-scores, so `shift` is in standard deviations; the background stays 0.
    """
    image = example["image"]
    modalities = image.shape[-1]
    gain = 1.0 + rng.uniform(-scale, scale, modalities).astype(np.float32)
    offset = rng.uniform(-shift, shift, modalities).astype(np.float32)
    brain = shown(image)[..., None]
    return {**example, "image": np.where(brain, image * gain + offset, image)}


TRANSFORMS = {f.__name__: f for f in (flip, intensity)}


def transforms_from(settings: Mapping[str, Mapping[str, float]]) -> tuple[Transform, ...]:
    """The transforms that are switched on, in the order of `TRANSFORMS`; refuses unknown names and settings."""
    if unknown := sorted(set(settings) - set(TRANSFORMS)):
        raise UserError(f"augment names {', '.join(unknown)}; choose from {', '.join(TRANSFORMS)}")
    chosen = []
    for name, function in TRANSFORMS.items():
        options = dict(settings.get(name, {}))
        known = [p for p in inspect.signature(function).parameters if p not in ("example", "rng")]
        if wrong := sorted(set(options) - set(known)):
            raise UserError(f"augment.{name} has no option {', '.join(wrong)}; it has {', '.join(known)}")
        if any(options.values()):
            chosen.append(partial(function, **options))
    return tuple(chosen)


def apply_all(transforms: Sequence[Transform], example: Example, rng: np.random.Generator) -> Example:
    for transform in transforms:
        example = transform(example, rng)
    return example
