"""Descriptions of what a config builds, without data: parameters, transfers, and the cost of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxfuse.arrays import Params
from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.data.slices import AXES, order_of
from jaxfuse.engine.build import abstract_state, build_system, example_batch
from jaxfuse.engine.build import without_optimizers as without
from jaxfuse.engine.cost.gpus import Gpu, compiled_for
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.cost.least_bytes import least_bytes
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.programs import Programs, program_memory
from jaxfuse.engine.settled import Machine, settled, settlements
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import Rule, apply_rules

Sides = tuple[int, ...]


def describe(
    config: ConfigDict,
    *,
    cost: bool,
    gpu: Gpu | None = None,
    only: str | None = None,
    volume: Sides | None = None,
) -> dict[str, Any]:
    """Says what each phase of a config builds; nothing is drawn, and nothing compiled but for `cost`.

    Args:
        config: a recipe.
        cost: compiles one step of each phase.
        gpu: compiles it for this card instead of the devices in use, and a prediction of one patch too.
        only: the phase whose cost is asked for; None asks for that of all.
        volume: sides of a volume whose prediction, in tiles of the training patch, is compiled with `cost` as well.

    Returns:
        {"name", "preset", "row", "variant", "phases", "result"}; of each phase "length" ({"steps"} or {"epochs"}),
        "patch", "players" and "networks" (parameters by name), "transfers", and with `cost` the "cost" of one step, or
        with `gpu` the cost by program: "step" and "prediction"; and with `volume` the memory of the "volume". With
        `cost` also "settled": what became of the options
        that are `auto`, which are settled by the machine that is compiled for.
    """
    chosen = settled(config, Machine.of(gpu or one_device())) if cost else config
    experiment = parse(chosen)
    states: dict[str, State] = {}
    phases = {}
    for name in experiment.schedule:
        phases[name] = _phase(experiment, experiment.phases[name], states)
        if cost and only in (None, name):
            phases[name]["cost"] = _cost(experiment, experiment.phases[name], states[name], gpu, volume)
    if only is not None and only not in phases:
        raise UserError(f"phase {only!r} is not in the schedule; choose one of {', '.join(phases)}")
    title = {key: getattr(experiment, key) for key in ("name", "preset", "row", "variant")}
    told = {"settled": settlements(config, chosen)} if cost else {}
    return {**title, **told, "phases": phases, "result": list(experiment.result)}


def _phase(experiment: Experiment, phase: Phase, states: dict[str, State]) -> dict[str, Any]:
    """Describes one phase, and adds its abstract state to those of the phases before it."""
    modalities, classes = declared_facts(experiment.data_of(phase))
    system = build_system(phase, modalities, classes, phase.steps or 1)
    states[phase.name] = abstract_state(system, phase, modalities)
    params = states[phase.name].params
    return {
        "length": {"steps": phase.steps} if phase.steps else {"epochs": phase.epochs},
        "patch": list(phase.patch),
        "players": {player: _count(tree) for player, tree in params.items()},
        "networks": {network: _count(tree) for network, tree in system.networks(params).items()},
        "transfers": [_transfer(rule, params, states[rule.donor].params) for rule in phase.rules],
    }


def _count(tree: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _transfer(rule: Rule, params: Mapping[str, Params], donors: Mapping[str, Params]) -> dict[str, Any]:
    """The rule for a person to read, with the number of values that it takes over."""
    moved: list[int] = []

    def move(params: Mapping[str, Params], donors: Mapping[str, Params]) -> Mapping[str, Params]:
        result, count = apply_rules(params, [rule], {(rule.donor, rule.best): donors})
        moved.append(count)
        return result

    jax.eval_shape(move, params, donors)
    return {"source": f"{rule.donor}:{rule.source}", "target": rule.target, "values": moved[0]}


def _cost_on(gpu: Gpu, system: System, state: State, batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Kernels, bytes and memory of a training step and of a prediction of one patch, compiled for a card."""
    programs, image = Programs(system), _image_of(batch)
    one_patch = {"image": jax.ShapeDtypeStruct((1, *image.shape[1:]), image.dtype)}
    arguments = {"step": (programs.step, state, batch), "prediction": (programs.predict, without(state), one_patch)}
    found = {}
    for name, (program, *shapes) in arguments.items():
        kernels = CompiledKernels.of(compiled_for(gpu, program, *shapes))
        least = least_bytes(program.trace(*shapes).jaxpr)
        found[name] = {
            "kernels": kernels.launches,
            "moved_bytes": kernels.moved_bytes,
            "least_bytes": least,
            "times_least": round(kernels.moved_bytes / least, 3),
            "transposed_bytes": kernels.transposed_bytes,
            "floor_ms": round(1e3 * kernels.floor_s(gpu), 3),
            "bound_ms": round(1e3 * least / gpu.bandwidth, 3),
            "share_of_bound": round(least / gpu.bandwidth / kernels.floor_s(gpu), 3),
            "temporary_bytes": kernels.temporary_bytes,
            "argument_bytes": kernels.argument_bytes,
            "fits": kernels.temporary_bytes + kernels.argument_bytes <= gpu.memory_bytes,
        }
    return found


def _image_of(batch: Mapping[str, Any]) -> Any:
    """The image of a batch; of an unpaired one the first."""
    return batch["image"] if "image" in batch else _image_of(next(iter(batch.values())))


def _cost_here(system: System, state: State, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Operations and memory of one training step, compiled for the devices in use."""
    programs = Programs(system)
    found = program_memory(programs.step.lower(state, batch).compile())
    return {"backend": programs.placement.backend, "flops": programs.step_operations(state, batch), **found}


def _cost(experiment: Experiment, phase: Phase, state: State, gpu: Gpu | None, volume: Sides | None) -> dict[str, Any]:
    """The cost of a phase's step, and of the prediction of a volume where one is asked for."""
    data = experiment.data_of(phase)
    modalities, classes = declared_facts(data)
    system = build_system(phase, modalities, classes, phase.steps or 1)
    batch = example_batch(phase, modalities, margin=system.geometry.margin)
    found = _cost_here(system, state, batch) if gpu is None else _cost_on(gpu, system, state, batch)
    if volume is None:
        return found
    if system.geometry.ndim == 2:
        volume = tuple(volume[axis] for axis in order_of(AXES[data.axis]))
    return {**found, "volume": _volume(system, phase, without(state), (*volume, len(modalities)), gpu)}


def _volume(system: System, phase: Phase, weights: Any, shape: tuple[int, ...], gpu: Gpu | None) -> dict[str, int]:
    """The memory of a volume's prediction, and the bytes that come to the host."""
    wanted = (system.primary,)
    asked = Asked(labels=wanted) if system.primary in system.probabilities else Asked(values=wanted)
    program, arguments = case_predictor(system, phase, memory_mb=0).program_for(weights, shape, asked)
    compiled = program.lower(*arguments).compile() if gpu is None else compiled_for(gpu, program, *arguments)
    memory: Any = compiled.memory_analysis()
    return {
        "argument_bytes": int(memory.argument_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "result_bytes": int(memory.output_size_in_bytes),
    }
