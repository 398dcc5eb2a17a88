"""Compiled functions of runs, commands and trained phases.

`jax.jit` stands nowhere else in the engine and the commands: how a function is compiled and what it donates is decided
here. Where its arguments lie tells a `Placement`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled, Lowered, Wrapped

from jaxfuse.arrays import Batch, Metrics
from jaxfuse.augment.batch import Augmentation, augmented
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.feed.windows import Block, cut_all
from jaxfuse.inference.tiling import Asked, Windows
from jaxfuse.learning.averaging import averaging
from jaxfuse.learning.state import State
from jaxfuse.learning.system import FusingSystem, System
from jaxfuse.nn.conv import implementation
from jaxfuse.nn.drawing import carried_out
from jaxfuse.prediction.programs import over_canvas


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Measured:
    """Metrics of a step as one array on the device, which takes one copy to the host.

    Attributes:
        values: (n), float32; of several steps (steps, n).
        names: of the values.
    """

    values: Any
    names: tuple[str, ...] = field(metadata={"static": True})

    @property
    def steps(self) -> int:
        """The number of steps that they were measured in."""
        return self.values.shape[0] if self.values.ndim > 1 else 1

    def rows(self) -> list[dict[str, float]]:
        """Fetches the metrics by name, one mapping for each step."""
        rows = np.asarray(self.values).reshape(-1, len(self.names))
        return [dict(zip(self.names, row, strict=True)) for row in rows.tolist()]


@dataclass(frozen=True)
class Programs:
    """The functions of one System, each compiled when it is first called.

    Attributes:
        placement: where the System's states and batches lie.
        ema_decay: of the moving average of weights that a step moves too; 0: none.
        augment: what a step does to a batch before it learns from it; None: nothing.
    """

    system: System
    placement: Placement = field(default_factory=one_device)
    ema_decay: float = 0.0
    augment: Augmentation | None = None

    @cached_property
    def init(self) -> Callable[[jax.Array, Batch], State]:
        """(key, batch) -> a freshly drawn state; nothing of it is compiled for this System alone."""
        return carried_out(self.system.init)

    @cached_property
    def step(self) -> Wrapped:
        """(state, batch) -> (state, `Measured`); the given state is used up."""
        return donating(self._whole_step, self.placement)

    @property
    def _whole_step(self) -> Callable[[Any, Any], Any]:
        return averaging(augmented(self.system.train_step, self.augment), self.ema_decay)

    @cached_property
    def evaluate(self) -> Wrapped:
        """(state, batch) -> metrics."""

        def evaluate(state: State, batch: Any) -> Any:
            return self.system.eval_step(state, as_learned(batch))

        return jax.jit(evaluate)

    @cached_property
    def predict(self) -> Wrapped:
        """(state, inputs) -> named outputs."""
        return jax.jit(self._predict)

    def _predict(self, state: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Predicts as the System does, on inputs that the devices share."""
        with self.placement.tracing():
            # Examples are divided among devices, not what is told of them.
            return self.system.predict(state, {**inputs, "image": self.placement.shared(inputs["image"])})

    def abstract_init(self, batch: Batch) -> State:
        """Returns the shapes of the state for batches like this one, without drawing it."""
        return jax.eval_shape(self.system.init, jax.random.key(0), batch)

    def traced_anew(self) -> Wrapped:
        """Returns `step` as a new function, which takes the form of convolution in force when it is traced."""
        return donating(self._whole_step, self.placement)

    def step_operations(self, state: Any, batch: Any) -> int:
        """Counts the operations of a training step, whatever form a device takes for its convolutions."""
        with implementation("native"):
            analysis: Any = self.traced_anew().lower(state, batch).cost_analysis()
        return int(analysis.get("flops", 0))

    def fuse_slices(self, system: FusingSystem, outputs: Sequence[str]) -> Wrapped:
        """Compiles (weights, image, presence) -> these outputs in float32; other outputs are not computed."""

        def fusion(weights: State, image: Any, presence: Any) -> dict[str, Any]:
            made = system.fuse(weights, {"image": image, "presence": presence})
            return {name: made[name].astype(jnp.float32) for name in outputs}

        return jax.jit(fusion)

    def over_canvas(self, windows: Windows, asked: Asked) -> Wrapped:
        """Compiles (weights, image, places) -> the outputs of a whole image that are asked for, on its canvas."""

        def predict(weights: State, tiles: Mapping[str, Any]) -> dict[str, Any]:
            return self.placement.copied(self._predict(weights, tiles))

        # The devices that share a tile each put all tiles together.
        lie = self.placement.state
        shared: dict[str, Any] = {} if self.placement.mesh is None else {"in_shardings": lie, "out_shardings": lie}
        return over_canvas(predict, windows, asked, **shared)

    def counted_tile_program(self, weights: Any, batch: int, channels: int, sides: tuple[int, ...]) -> Lowered:
        """Lowers `predict` with an accelerator's 3D convolutions, whose operations grow equally along all axes."""

        def predict(weights: Any, inputs: Any) -> Any:
            return self.system.predict(weights, inputs)  # JAX remembers the trace of a function

        with implementation("native"):
            return jax.jit(predict).lower(weights, _tiles(batch, sides, channels))


def donating(train_step: Callable[[Any, Any], Any], placement: Placement) -> Wrapped:
    """Compiles (state, batch) -> (state, `Measured`), a new function at each call.

    The state is used up: its memory becomes that of the next state, which lies where it lay. A `Block` of batches makes
    as many steps.
    """

    def step(state: Any, batch: Any) -> tuple[Any, Measured]:
        if isinstance(batch, Block):
            return batch.scan(step, state)
        with placement.tracing():
            after, metrics = train_step(placement.gathered(state), placement.shared(as_learned(batch)))
        return placement.split(after), measured(metrics)

    # Of a state that is split, `placement.split` tells where each array lies.
    one_for_all = placement.mesh is not None and not placement.splits
    lie: dict[str, Any] = {"out_shardings": placement.state} if one_for_all else {}
    return jax.jit(step, donate_argnums=0, **lie)


def as_learned(batch: Any) -> Any:
    """Returns a batch as Systems read it: cut from data on the device; labels, which are bytes there, as int32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.int32) if leaf.dtype == jnp.uint8 else leaf, cut_all(batch))


def measured(metrics: Metrics) -> Measured:
    """Returns the metrics of one step as one array."""
    names = tuple(sorted(metrics))
    return Measured(jnp.stack([jnp.asarray(metrics[name], jnp.float32) for name in names]), names)


@partial(jax.jit, donate_argnums=0)
def stored(array: jax.Array, rows: Any, first: Any) -> jax.Array:
    """Writes rows into an array from row `first` on; the array is used up."""
    return jax.lax.dynamic_update_slice_in_dim(array, rows, first, axis=0)


def greatest(placement: Placement) -> Wrapped:
    """Compiles (rows of all processes) -> the greatest of each column, for all."""
    return jax.jit(lambda rows: rows.max(axis=0), out_shardings=placement.state)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Tells whether every value of every array is finite."""
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


def program_memory(compiled: Compiled) -> dict[str, int]:
    """Returns the memory of one compiled step.

    `temporary_bytes` is what the program needs beside its arguments (`argument_bytes`: state and batch).
    """
    memory: Any = compiled.memory_analysis()
    return {
        "argument_bytes": int(memory.argument_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
    }


def _tiles(batch: int, sides: tuple[int, ...], channels: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"image": jax.ShapeDtypeStruct((batch, *sides, channels), np.float32)}
