"""Random changes of an example: (draw, rng, modalities, settings) -> draw. All are off at their default settings.

They decide; `jaxfuse.data.assembly` carries out what they decided, mirroring first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from jaxfuse.data.sampling import Draw
from jaxfuse.errors import UserError

# Draw, generator, number of modalities -> the draw with a change more.
Transform = Callable[[Draw, np.random.Generator, int], Draw]


def flip(draw: Draw, rng: np.random.Generator, modalities: int, *, probability: float = 0.0) -> Draw:
    """Mirrors image and label along each spatial axis, independently, with this probability."""
    del modalities
    mirrored = rng.random(len(draw.start)) < probability
    return replace(draw, mirrored=tuple(np.flatnonzero(mirrored).tolist()))


def intensity(draw: Draw, rng: np.random.Generator, modalities: int, *, scale: float = 0.0, shift: float = 0.0) -> Draw:
    """Per modality, x * (1 + u) + v over the brain, u uniform in [-scale, scale], v in [-shift, shift].

    Values are z-scores, so `shift` is in standard deviations; the background stays 0.
    """
    gain = 1.0 + rng.uniform(-scale, scale, modalities).astype(np.float32)
    offset = rng.uniform(-shift, shift, modalities).astype(np.float32)
    return replace(draw, gain=tuple(gain.tolist()), offset=tuple(offset.tolist()))


TRANSFORMS = {f.__name__: f for f in (flip, intensity)}


def transforms_from(settings: Mapping[str, Mapping[str, float]]) -> tuple[Transform, ...]:
    """The transforms that are switched on, in the order of `TRANSFORMS`; refuses unknown names and settings."""
    if unknown := sorted(set(settings) - set(TRANSFORMS)):
        raise UserError(f"augment names {', '.join(unknown)}; choose from {', '.join(TRANSFORMS)}")
    chosen = []
    for name, function in TRANSFORMS.items():
        options = dict(settings.get(name, {}))
        known = [p for p in inspect.signature(function).parameters if p not in ("draw", "rng", "modalities")]
        if wrong := sorted(set(options) - set(known)):
            raise UserError(f"augment.{name} has no option {', '.join(wrong)}; it has {', '.join(known)}")
        if any(options.values()):
            chosen.append(partial(function, **options))
    return tuple(chosen)


def names_of(transforms: Sequence[Transform]) -> list[str]:
    """The names of transforms that `transforms_from` has switched on."""
    return [name for name, function in TRANSFORMS.items() if function in {_function(one) for one in transforms}]


def _function(transform: Transform) -> Transform:
    return transform.func if isinstance(transform, partial) else transform


def apply_all(transforms: Sequence[Transform], draw: Draw, rng: np.random.Generator, modalities: int) -> Draw:
    for transform in transforms:
        draw = transform(draw, rng, modalities)
    return draw
