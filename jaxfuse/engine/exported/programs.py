"""Networks of trained phases as programs that need nothing of jaxfuse: StableHLO, with the weights as arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.learning.state import State
from jaxfuse.nn.onednn import convolutions as onednn
from jaxfuse.nn.trilinear import exported_alone
from jaxfuse.prediction.bundle import INCOMPLETE, WHOLE, with_library

PLATFORMS = ("cpu", "cuda")
# How a program tells the number of tiles that it takes at once, where it takes any.
BATCH = "b"


@dataclass(frozen=True)
class ExportedNetwork:
    """One network, exported.

    Attributes:
        outputs: names of what it gives, each (batch *tile k) in float32.
        programs: "whole" for cases that have all modalities, (weights, tiles) -> outputs; "incomplete" for cases that
            lack some, which takes their presence (batch m) as well, where the network is told of it. Each also as
            `with_library` names it, for CPUs with oneDNN, where that is installed here.
        weights: those that the programs read, by name.
        any_batch: whether the programs take any number of tiles; else as many as the phase predicts at once. Those with
            oneDNN take as many in any case.
        forward: the function that was exported.
        image: sides of as many tiles as the phase predicts at once, with their channels.
    """

    outputs: tuple[str, ...]
    programs: Mapping[str, export.Exported]
    weights: Mapping[str, np.ndarray]
    any_batch: bool
    forward: Forward
    image: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Forward:
    """The function of a network that is exported.

    Attributes:
        names: of all leaves of parameters and statistics, in their order.
        outputs: those of the System's that are wanted.
    """

    phase: TrainedPhase
    state: State
    outputs: tuple[str, ...]
    names: tuple[str, ...]

    def __call__(self, weights: Mapping[str, Any], image: Any, presence: Any = None) -> dict[str, Any]:
        """Predicts tiles by these weights; what is not among them is 0, and is not read."""
        params_and_stats = self.state.params, self.state.stats
        leaves, tree = jax.tree.flatten(params_and_stats)
        taken = [
            weights[name] if name in weights else jnp.zeros(leaf.shape, leaf.dtype)
            for name, leaf in zip(self.names, leaves, strict=True)
        ]
        params, stats = jax.tree.unflatten(tree, taken)
        inputs = {"image": image} if presence is None else {"image": image, "presence": presence}
        made = self.phase.system.predict(self.state.replace(params=params, stats=stats), inputs)
        return {name: made[name].astype(jnp.float32) for name in self.outputs}


def export_network(phase: TrainedPhase, tile: Sequence[int], outputs: Sequence[str]) -> ExportedNetwork:
    """Exports the network of a phase for tiles of these input sides.

    The programs hold XLA's own convolutions for CUDA, and for CPUs the forms that `jaxfuse.nn` chooses there.
    """
    state = phase.weights()
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.stats))
    named = {_name(path): np.asarray(leaf) for path, leaf in leaves}
    forward = Forward(phase, state, tuple(outputs), tuple(named))
    channels = len(phase.preparation.channels)
    read = _read(forward, named, (1, *tile, channels))
    shapes = {name: jax.ShapeDtypeStruct(named[name].shape, named[name].dtype) for name in read}

    def exported(batch: Any, *, library: bool = False) -> dict[str, export.Exported]:
        image = jax.ShapeDtypeStruct((batch, *tile, channels), np.float32)
        programs = {WHOLE: _exported(forward, shapes, image, library=library)}
        if phase.system.reads_presence:
            told = jax.ShapeDtypeStruct((batch, channels), np.bool_)
            programs[INCOMPLETE] = _exported(forward, shapes, image, told, library=library)
        return programs

    weights, own = {name: named[name] for name in read}, phase.phase.validation.tile_batch
    try:
        programs, any_batch = exported(*export.symbolic_shape(BATCH)), True
    except jax.errors.InconclusiveDimensionOperation:
        programs, any_batch = exported(own), False
    if onednn.available():
        programs |= {with_library(kind): one for kind, one in exported(own, library=True).items()}
    return ExportedNetwork(forward.outputs, programs, weights, any_batch, forward, (own, *tile, channels))


def _read(forward: Forward, named: Mapping[str, np.ndarray], image: tuple[int, ...]) -> list[str]:
    """Names the weights that an output depends on: of a GAN not its critics."""
    shapes = {name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in named.items()}
    found = _exported(forward, shapes, jax.ShapeDtypeStruct(image, np.float32))
    leaves = sorted(named)
    return [leaves[index] for index in found.module_kept_var_idx if index < len(leaves)]


def _exported(forward: Callable[..., Any], *shapes: Any, library: bool = False) -> export.Exported:
    """Exports a function for all platforms, or for CPUs that have oneDNN."""
    if not library:
        return export.export(jax.jit(forward), platforms=PLATFORMS)(*shapes)
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in onednn.TARGETS]
    with exported_alone():
        return export.export(jax.jit(forward), platforms=PLATFORMS[:1], disabled_checks=allowed)(*shapes)


def _name(path: tuple[Any, ...]) -> str:
    """The name of a weight: params or stats, the player, and its place in the network."""
    (first, *rest) = path
    keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in rest]
    return "/".join((("params", "stats")[first.idx], *keys))
