"""Options of a recipe that are `auto`: settled by a machine when a run begins, and then kept with the run.

`dtype` becomes bfloat16 on a GPU of NVIDIA and float32 elsewhere. `remat` becomes off where the steps of all phases
that it belongs to need less than `SHARE` of the device's memory without it, state included, and else on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import abstract_state, build_system, example_batch
from jaxfuse.engine.cost.gpus import Gpu
from jaxfuse.engine.cost.least_bytes import temporary_bytes
from jaxfuse.engine.devices.placement import Placement
from jaxfuse.engine.programs import Programs
from jaxfuse.options import AUTO, flat

# Of a device's memory; the rest is for workspaces of convolutions, for fragments, and for what is predicted beside.
SHARE = 0.8


@dataclass(frozen=True)
class Machine:
    """The settler of options.

    Attributes:
        name: of its devices.
        cuda: whether they are GPUs of NVIDIA.
        memory_bytes: of each that programs may use.
        parts: the number of devices that a batch is parted among, and its examples.
    """

    name: str
    cuda: bool
    memory_bytes: int
    parts: int = 1

    @classmethod
    def of(cls, where: Placement | Gpu) -> Machine:
        """Reads the devices in use, or a card that is compiled for."""
        if isinstance(where, Gpu):
            return cls(where.name, True, where.memory_bytes)
        first = where.first
        counters = first.memory_stats() or {}
        memory = counters.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            where.device_name, "cuda" in first.client.platform_version.lower(), int(memory), where.parts * where.slabs
        )


def settled(config: ConfigDict, machine: Machine, kept: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns a config without `auto`: each is what a run that has begun says, or what the machine makes of it.

    Args:
        kept: the config of that run; None where none has begun.
    """
    asked = [name for name, value in flat(config).items() if value == AUTO and _last(name) in ("dtype", "remat")]
    chosen: Any = config.copy_and_resolve_references()
    known = flat(kept or {})
    for name in asked:
        plain = ("bfloat16" if machine.cuda else "float32") if _last(name) == "dtype" else AUTO
        _put(chosen, name, known.get(name, plain))
    if open_ones := [name for name in asked if flat(chosen)[name] == AUTO]:
        crowded = _crowded(parse(chosen), machine)
        for name in open_ones:
            first = name.partition(".")[0]
            own = {first} if first in chosen.schedule else set(chosen.schedule)
            _put(chosen, name, "on" if own & crowded else "off")
    return chosen


def settlements(config: ConfigDict, chosen: ConfigDict) -> dict[str, str]:
    """Returns what became of the options that are `auto` in `config`, by their names."""
    after = flat(chosen)
    return {name: after[name] for name, value in flat(config).items() if value == AUTO != after[name]}


def step_bytes(experiment: Experiment, phase: Phase, *, parts: int = 1) -> int:
    """Predicts the memory of a phase's training step on each device, by its trace; without rematerialization.

    Each holds the state, and one of the parts of the batch and of what is made of it.
    """
    modalities, classes = declared_facts(experiment.data_of(phase))
    system = build_system(phase, modalities, classes, phase.total_steps(phase.batch))
    state = abstract_state(system, phase, modalities)
    batch = example_batch(phase, modalities, margin=system.geometry.margin)
    traced = Programs(system, ema_decay=phase.ema_decay).step.trace(state, batch)
    arguments = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    members = len(experiment.result) if experiment.side_by_side and phase.name in experiment.result else 1
    parted = temporary_bytes(traced.jaxpr) + sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
    return members * (arguments + parted // parts)


def _crowded(experiment: Experiment, machine: Machine) -> set[str]:
    """The phases whose steps need more than the share of the memory. Options still `auto` count as off."""
    room = SHARE * machine.memory_bytes
    parts = machine.parts
    return {phase.name for phase in experiment.phases.values() if step_bytes(experiment, phase, parts=parts) > room}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _put(config: Any, name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        config = config[group]
    config[last] = value
