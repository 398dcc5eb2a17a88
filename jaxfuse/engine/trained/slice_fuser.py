"""Fused images of slices by a trained network: whole pictures, in any combination of the run's modalities.

The fusion network sees each picture whole, filled up with background at its end to sides that it can take, by less than
one of its cells; the segmentation network, which may ask for more, is left out. One compiled
program serves all combinations of one picture size: every modality has its own place among the sources, and a mask
tells which of them are fused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxfuse.data import brain
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.trained.chosen_devices import first_device, weights_on
from jaxfuse.engine.trained.phases import TrainedPhase, load
from jaxfuse.engine.trained.segmenter import check_labels
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from jaxfuse.learning.system import ATTENTION, FUSED, FUSED_BY_NETWORK, FusingSystem

Images = Float[np.ndarray, "n h w m"]
Presence = Shaped[np.ndarray, "*each slots"]
Shown = Bool[np.ndarray, "n h w"]


@runtime_checkable
class FuseSlices(Protocol):
    """A function from pictures to the named outputs of a network, as `slice_fuser` makes it.

    `channels` are those of the fused image: 1, or of one in color 2 (red and cyan) or 3.
    """

    @property
    def channels(self) -> int: ...

    def __call__(self, images: Images, presence: Presence, shown: Shown | None = None) -> dict[str, np.ndarray]:
        """Fuses pictures; `shown`: what is not background, by default what is not 0 in every image."""
        ...


@dataclass(frozen=True)
class SliceFuser:
    """A `FuseSlices` around a function of its arguments."""

    channels: int
    fuse: Callable[[Images, Presence, Shown | None], dict[str, np.ndarray]]

    def __call__(self, images: Images, presence: Presence, shown: Shown | None = None) -> dict[str, np.ndarray]:
        return self.fuse(images, presence, shown)


def load_fuser(run: str, *, any_spacing: bool = False) -> TrainedPhase:
    """Reads the one phase that RUN, RUN:PHASE or RUN:PHASE@best names.

    Refused are results of several phases, and a segmentation without labels. That it also fuses is checked by
    `slice_fuser`.
    """
    return the_fuser(load([run], any_spacing=any_spacing), run)


def the_fuser(phases: Sequence[TrainedPhase], run: str) -> TrainedPhase:
    """Returns the one phase of a run that was read; refuses what `load_fuser` does."""
    first, *others = phases
    if first.makes != FUSED:
        check_labels(phases)
    if others:
        raise UserError(
            f"{run} has the results {', '.join(one.name for one in phases)}; name one of them as RUN:PHASE, such as "
            f"{run}:{first.phase.name}"
        )
    return first


def slice_fuser(
    phase: TrainedPhase, *, outputs: Sequence[str] = (FUSED,), batch: int = 4, devices: Sequence[Any] = ()
) -> SliceFuser:
    """Returns a function from pictures and a mask of their modalities to the named outputs of the network.

    It takes images (n h w m) in [0, 1], as many channels as the run has modalities and in their order, and presence
    (m) or (n m), 1 for the modalities to fuse; channels that are not fused have no influence. It returns float32
    arrays on the host: "fused" (n h w channels) in [0, 1], exactly 0 where no image shows anything, and "attention"
    (n h w m) where `outputs` names it. A run whose scheme settles another image than its network makes (pixel) also
    gives that of the network, "fused_by_network".

    Args:
        batch: how many pictures are fused at once.
        devices: they take one batch after the other; none: the first one takes them all.

    Raises:
        UserError: the run fuses no slices, lacks one of the outputs, or reads intensities beyond [0, 1]. The function
            refuses arrays of other shapes or ranges.
    """
    weights = phase.weights()
    system, channels = _checked(phase, weights, outputs)
    divisor, compiled = system.fusing_divisor, Programs(system).fuse_slices(system, outputs)
    on_devices = [weights_on(device, weights) for device in devices or first_device()]

    def fuse(images: Images, presence: Presence, shown: Shown | None) -> dict[str, np.ndarray]:
        masks = _masks(phase, images, presence)
        made: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
        pending = deque[tuple[int, Mapping[str, Any]]]()
        for start, own in zip(range(0, len(images), batch), cycle(on_devices), strict=False):
            chunk, mask = images[start : start + batch], masks[start : start + batch]
            pending.append((len(chunk), compiled(own, _filled(chunk, batch, divisor), _repeated(mask, batch))))
            # The next pictures are sent off before the last ones are read back.
            if len(pending) > len(on_devices):
                _collect(made, *pending.popleft(), images.shape[1:3])
        for sent in pending:
            _collect(made, *sent, images.shape[1:3])
        mask = (brain.shown(images) if shown is None else shown)[..., None]
        whole = {name: np.concatenate(parts) for name, parts in made.items()}
        kept = {name: np.broadcast_to(mask, one.shape) for name, one in whole.items() if name != ATTENTION}
        return {name: brain.within(one, kept[name]) if name in kept else one for name, one in whole.items()}

    return SliceFuser(channels, fuse)


def fusing_system(phase: TrainedPhase) -> FusingSystem:
    """Returns the System of a phase that fuses pictures; refuses any other."""
    system = phase.system
    if system.geometry.ndim != 2 or system.geometry.margin or not isinstance(system, FusingSystem):
        raise UserError(f"{phase.name} makes no fused images of slices; name a run that does, such as of Fuse4Seg")
    return system


def untrained_count(phase: TrainedPhase, count: int) -> str:
    """A sentence where a network was never trained to fuse so many images at once, else empty."""
    known = sorted({len(combo) for combo in fusing_system(phase).trained_combos})
    if count in known:
        return ""
    return (
        f"{phase.name} was trained to fuse {' or '.join(map(str, known))} images, never {count}: look at the result "
        "before you use it"
    )


def _checked(phase: TrainedPhase, weights: State, outputs: Sequence[str]) -> tuple[FusingSystem, int]:
    """Returns the System and the channels of its fused image."""
    system, modalities, normalization = fusing_system(phase), phase.preparation.channels, phase.data.normalization
    patch = tuple(phase.phase.patch)
    image = jax.ShapeDtypeStruct((1, *patch, len(modalities)), jnp.float32)
    presence = jax.ShapeDtypeStruct((1, len(modalities)), jnp.float32)
    made = jax.eval_shape(system.fuse, weights, {"image": image, "presence": presence})
    if FUSED not in made:
        raise UserError(f"{phase.name} has no decoder, and so makes no fused image; name a run that does")
    if absent := [name for name in outputs if name not in made]:
        why = "the fused image is its network's own" if absent == [FUSED_BY_NETWORK] else "its fusion network has none"
        raise UserError(f"{phase.name} gives no {', '.join(absent)}: {why}; do not ask for it")
    if not normalization.picture_levels:
        raise UserError(
            f"{phase.name} was trained on intensities normalized by {normalization.name!r}; a run on intensities in "
            "[0, 1] is needed: train one with data.normalize percentiles"
        )
    return system, made[FUSED].shape[-1]


def _masks(phase: TrainedPhase, images: Images, presence: Presence) -> Float[np.ndarray, "n m"]:
    """Checks both arrays; returns the mask of each picture."""
    channels, slots = phase.preparation.channels, len(phase.preparation.channels)
    masks = np.asarray(presence, np.float32)
    if not len(images) or images.shape[-1] != slots or masks.shape not in ((slots,), (len(images), slots)):
        raise UserError(
            f"{phase.name} fuses the modalities {', '.join(channels)}: at least one picture of {slots} "
            f"channels with a mask of each is expected, and {images.shape} with {masks.shape} came"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"images to be fused run from {low:g} to {high:g}; scale them to [0, 1]")
    masks = np.broadcast_to(masks > 0, (len(images), slots)).astype(np.float32)
    if masks.sum(-1).min() < 2:
        raise UserError("a picture was to be fused of fewer than two modalities; name at least two")
    return masks


def _filled(chunk: Images, batch: int, divisor: int) -> Float[np.ndarray, "batch height width m"]:
    """Repeats the last picture to fill the batch, and fills up sides to multiples of `divisor`."""
    height, width = (-side % divisor for side in chunk.shape[1:3])
    return _repeated(np.pad(chunk.astype(np.float32), ((0, 0), (0, height), (0, width), (0, 0))), batch)


def _repeated(chunk: Float[np.ndarray, "n ..."], batch: int) -> Float[np.ndarray, "batch ..."]:
    return np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])


def _collect(made: dict[str, list[np.ndarray]], count: int, outputs: Mapping[str, Any], size: tuple[int, ...]) -> None:
    for name, parts in made.items():
        parts.append(np.asarray(outputs[name])[:count, : size[0], : size[1]])
