"""Descriptions of what a config builds, without data: parameters, transfers, and the cost of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxfuse.arrays import Params
from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.needs import preparation_needs
from jaxfuse.data.settings import declared_facts
from jaxfuse.data.slices import AXES, order_of
from jaxfuse.engine.build import abstract_state, build_system, check_systems, example_batch
from jaxfuse.engine.build import without_optimizers as without
from jaxfuse.engine.cost.collectives import collectives_of, exchange_s
from jaxfuse.engine.cost.gpus import IN_A_MACHINE, Gpu, cards, compiled_for, compiled_where_bound
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.cost.least_bytes import least_bytes
from jaxfuse.engine.devices.placement import ALL, AUTO, Placement, among, device_count, placed
from jaxfuse.engine.programs import Programs, program_memory
from jaxfuse.engine.settled import Machine, settled, settlements
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import Rule, apply_rules

Sides = tuple[int, ...]
# Cards that a step is compiled for.
_MOST = 4096


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
        {"name", "preset", "row", "variant", "phases", "data", "result"}; of the data what preparing them takes
        (`jaxfuse.data.needs`), where they have a root; of each phase "length" ({"steps"} or {"epochs"}),
        "patch", "players" and "networks" (parameters by name), "transfers", and with `cost` the "cost" of one step, or
        with `gpu` the cost by program: "step" and "prediction"; and with `volume` the memory of the "volume". Where the
        config names several devices, step and prediction are those of each of them, with their exchanges. With `cost`
        also "settled": what became of the options that are `auto`, which the machine settles that is compiled for.
    """
    where, chosen = None, config
    if cost:
        check_systems(asked := parse(config))
        where = _placed(asked, gpu)
        chosen = settled(config, _machine(where, gpu))
    experiment = parse(chosen)
    states: dict[str, State] = {}
    phases = {}
    for name in experiment.schedule:
        phases[name] = _phase(experiment, experiment.phases[name], states)
        if where is not None and only in (None, name):
            asked = _Asked(experiment, experiment.phases[name], where, gpu)
            phases[name]["cost"] = asked.cost(states[name], volume)
    if only is not None and only not in phases:
        raise UserError(f"phase {only!r} is not in the schedule; choose one of {', '.join(phases)}")
    title = {key: getattr(experiment, key) for key in ("name", "preset", "row", "variant")}
    told = {"settled": settlements(config, chosen)} if cost else {}
    return {**title, **told, "phases": phases, "data": _needs(experiment), "result": list(experiment.result)}


def _needs(experiment: Experiment) -> dict[str, Any]:
    """Predicts what preparing the data of a config takes, and of phases that have their own.

    None where the root is not on this machine. Phantoms and pictures take little, and are left out.
    """
    asked = {"data": experiment.data}
    asked |= {f"{name}.data": phase.data for name, phase in experiment.phases.items() if phase.data}
    found: dict[str, Any] = {}
    for name, data in asked.items():
        if data.root and not Path(data.root).expanduser().exists():
            found[name] = None
        elif needs := preparation_needs(data):
            found[name] = asdict(needs) | {"told": needs.told()}
    return found


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


def _placed(experiment: Experiment, gpu: Gpu | None) -> Placement:
    """The devices that a config asks for: of this machine, or cards that need not be there."""
    if gpu is None:
        return placed(experiment)
    if experiment.devices == ALL:
        raise UserError(f"devices is all, but no {gpu.name} need be here to be counted; give a number")
    count = 1 if experiment.devices == AUTO else device_count(experiment.devices, _MOST)
    return among(experiment, cards(gpu, count), each=min(count, IN_A_MACHINE))


def _machine(where: Placement, gpu: Gpu | None) -> Machine:
    return Machine.of(where) if gpu is None else replace(Machine.of(gpu), parts=where.parts * where.slabs)


@dataclass(frozen=True)
class _Asked:
    """The phase whose programs are compiled, and the devices: those in use, or cards."""

    experiment: Experiment
    phase: Phase
    where: Placement
    gpu: Gpu | None

    def cost(self, state: State, volume: Sides | None) -> dict[str, Any]:
        """Returns the cost of a step, and that of the prediction of a volume where one is asked for."""
        data = self.experiment.data_of(self.phase)
        modalities, classes = declared_facts(data)
        system = build_system(self.phase, modalities, classes, self.phase.steps or 1)
        batch = example_batch(self.phase, modalities, margin=system.geometry.margin)
        programs = Programs(system, self.where)
        found = _here(programs, state, batch) if self.gpu is None else _on(self.gpu, programs, state, batch)
        if volume is None:
            return found
        if system.geometry.ndim == 2:
            volume = tuple(volume[axis] for axis in order_of(AXES[data.axis]))
        return {**found, "volume": self.volume(system, without(state), (*volume, len(modalities)))}

    def volume(self, system: System, weights: Any, shape: tuple[int, ...]) -> dict[str, int]:
        """Returns the memory of a volume's prediction on one device, and the bytes that come to the host."""
        wanted = (system.primary,)
        asked = Asked(labels=wanted) if system.primary in system.probabilities else Asked(values=wanted)
        passes = Passes(memory_mb=0)
        program, shapes = case_predictor(system, self.phase, passes=passes).program_for(weights, shape, asked)
        compiled = program.lower(*shapes).compile() if self.gpu is None else compiled_for(self.gpu, program, *shapes)
        memory: Any = compiled.memory_analysis()
        return {
            "argument_bytes": int(memory.argument_size_in_bytes),
            "temporary_bytes": int(memory.temp_size_in_bytes),
            "result_bytes": int(memory.output_size_in_bytes),
        }


def _here(programs: Programs, state: State, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Operations and memory of one training step, compiled for the devices in use."""
    where = programs.placement
    shapes = (state, batch) if where.mesh is None else where.shapes(state, batch)
    compiled = programs.step.lower(*shapes).compile()
    shared = {} if where.mesh is None else _shared(where, None, CompiledKernels.of(compiled))
    operations = Programs(programs.system).step_operations(state, batch)
    return {"backend": where.backend, "flops": operations, **program_memory(compiled), **shared}


def _on(gpu: Gpu, programs: Programs, state: State, batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Kernels, bytes and memory of a training step and of a prediction of one patch, compiled for cards."""
    image, sharing = _image_of(batch), Programs(programs.system, programs.placement.of_one_example())
    one_patch = {"image": jax.ShapeDtypeStruct((1, *image.shape[1:]), image.dtype)}
    found = {}
    for name, where, program, shapes in (
        ("step", programs.placement, programs.step, (state, batch)),
        ("prediction", sharing.placement, sharing.predict, (without(state), one_patch)),
    ):
        kernels = CompiledKernels.of(compiled_where_bound(program, *where.shapes(*shapes)))
        if where.mesh is None:
            beside = _least(least_bytes(program.trace(*shapes).jaxpr), gpu, kernels)
        else:
            beside = _shared(where, gpu, kernels)
        found[name] = {**_figures(gpu, kernels), **beside}
    return found


def _figures(gpu: Gpu, kernels: CompiledKernels) -> dict[str, Any]:
    return {
        "kernels": kernels.launches,
        "moved_bytes": kernels.moved_bytes,
        "transposed_bytes": kernels.transposed_bytes,
        "floor_ms": round(1e3 * kernels.floor_s(gpu), 3),
        "temporary_bytes": kernels.temporary_bytes,
        "argument_bytes": kernels.argument_bytes,
        "fits": kernels.temporary_bytes + kernels.argument_bytes <= gpu.memory_bytes,
    }


def _least(least: int, gpu: Gpu, kernels: CompiledKernels) -> dict[str, Any]:
    """The least bytes of a program, and what it moves and takes in their terms."""
    return {
        "least_bytes": least,
        "times_least": round(kernels.moved_bytes / least, 3),
        "bound_ms": round(1e3 * least / gpu.bandwidth, 3),
        "share_of_bound": round(least / gpu.bandwidth / kernels.floor_s(gpu), 3),
    }


def _shared(where: Placement, gpu: Gpu | None, kernels: CompiledKernels) -> dict[str, Any]:
    """The devices of a program, its exchanges among them, and on cards a simulation of their time."""
    found, count = collectives_of(kernels.kernels), len(where.devices)
    told = {"devices": count, "collectives": {kind: asdict(one) for kind, one in sorted(found.items())}}
    if gpu is None:
        return told
    return {**told, "simulated_exchange_ms": round(1e3 * exchange_s(found, gpu, devices=count, space=where.slabs), 3)}


def _image_of(batch: Mapping[str, Any]) -> Any:
    """The image of a batch; of an unpaired one the first."""
    return batch["image"] if "image" in batch else _image_of(next(iter(batch.values())))
