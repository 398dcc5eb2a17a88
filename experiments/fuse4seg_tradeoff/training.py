"""Trainings of the trade-off, phase by phase: rows that differ in the weight of the fusion loss share one program."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np

from configs import fuse4seg
from experiments.fuse4seg_tradeoff import rows
from experiments.fuse4seg_tradeoff.rows import Row
from jaxfuse.config import Phase, parse
from jaxfuse.data.dataset import Dataset, open_dataset
from jaxfuse.data.pipeline import batches
from jaxfuse.engine.build import abstract_state, build_system, initial_state, make_sampler
from jaxfuse.engine.programs import Programs
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import apply_rules

LOG_EVERY = 20


@dataclass(frozen=True, eq=False)
class Stage:
    """One phase of a kind of rows, with its program."""

    phase: Phase
    system: System
    programs: Programs
    number: int
    steps: int


def config_of(row: Row, seed: int, steps: int | None) -> Any:
    """The config of a row; `steps` is another length of all phases, for a trial."""
    config = fuse4seg.get_config(f",row={row.recipe}")
    config.seed = seed
    if row.scheme:
        config.network.combos = (rows.PAIR,)
        config.cooperative.args.losses.gradient_weight = row.gradient_weight
        scheme = config.cooperative.args.scheme
        scheme.bilevel = row.scheme
        scheme.share_every = rows.SHARE_EVERY if row.scheme == "joint" else 0
    for name in config.schedule if steps else ():
        config[name].steps = steps
    return config


def _kind(row: Row) -> Row:
    """The row with all that its program does not depend on taken out."""
    return Row("", row.recipe, row.scheme, row.gradient_weight)


@cache
def dataset() -> Dataset:
    """The training and validation phantoms, the same for all seeds."""
    return open_dataset(parse(config_of(rows.ROWS["detached"], 0, None)).data, lambda *_: None)


@cache
def stages(kind: Row, steps: int | None) -> dict[str, Stage]:
    experiment, facts = parse(config_of(kind, 0, steps)), dataset().facts
    made = {}
    for number, name in enumerate(experiment.schedule):
        phase = experiment.phases[name]
        length = phase.total_steps(len(dataset().train))
        system = build_system(phase, facts.modalities, facts.classes, length, phase.counted(facts))
        made[name] = Stage(phase, system, Programs(system), number, length)
    return made


def stages_of(name: str, steps: int | None) -> list[Stage]:
    """The phases of a row, in order."""
    return list(stages(_kind(rows.ROWS[name]), steps).values())


def train(stage: Stage, state: State, seed: int) -> tuple[State, list[dict[str, float]], float]:
    """All steps of a phase; returns the state, means of the log, and seconds with compilation."""
    experiment = parse(config_of(rows.ROWS["detached"], seed, None))
    sampler = make_sampler(stage.phase, stage.system, dataset().train, seed=seed)
    word = int(np.random.SeedSequence([seed, stage.number]).generate_state(1)[0])
    stream = batches(sampler, batch=stage.phase.batch, seed=word, start=0, stop=stage.steps, loader=experiment.loader)
    log: list[dict[str, float]] = []
    started, window = time.perf_counter(), []
    for step, batch in enumerate(stream):
        state, measured = stage.programs.step(state, batch)
        window += measured.rows()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == stage.steps:
            log.append({name: float(np.mean([row[name] for row in window])) for name in window[0]})
            window = []
    return jax.block_until_ready(state), log, time.perf_counter() - started


def kept(path: Path, like: Any) -> Any:
    """Reads parameters that were kept, in the structure of those."""
    return flax.serialization.from_bytes(like, path.read_bytes())


def keep(path: Path, params: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(flax.serialization.to_bytes(jax.device_get(params)))


def first(stage: Stage, seed: int) -> State:
    return initial_state(stage.system, stage.phase, dataset().facts.modalities, seed=seed, number=stage.number)


def shapes(stage: Stage) -> State:
    return abstract_state(stage.system, stage.phase, dataset().facts.modalities)


def pretrained(row: Row, seed: int, steps: int | None, folder: Path) -> Mapping[str, Any]:
    """The parameters after pre-training, which all rows of a seed share that fuse into as many channels.

    They are trained unless they are kept.
    """
    in_color = row.recipe in fuse4seg.COLORS
    stage = stages(_kind(row if in_color else rows.ROWS["detached"]), steps)["pretraining"]
    path = folder / f"pretraining-{f'{row.recipe}-' if in_color else ''}seed{seed}.params"
    if not path.is_file():
        params = train(stage, first(stage, seed), seed)[0].params
        keep(path, params)
        print(f"pre-training of {row.recipe if in_color else 'gray'}, seed {seed}", flush=True)
    return kept(path, shapes(stage).params)


def trained(
    name: str, seed: int, steps: int | None, folder: Path, donor: Path | None
) -> tuple[Stage, State, list[dict[str, float]], float]:
    """The last phase of a row after its training."""
    row = rows.ROWS[name]
    stage = stages_of(name, steps)[-1]
    state = first(stage, seed)
    params = state.params
    if stage.phase.rules:
        given = {("pretraining", rule.best): pretrained(row, seed, steps, folder) for rule in stage.phase.rules}
        params, _ = apply_rules(params, stage.phase.rules, given)
    if donor is not None:
        other = shapes(stages_of(row.donor, steps)[-1])
        params = {**params, "fusion": kept(donor, other.params)["fusion"]}
    memory = state.memory
    if "fusion_weight" in memory:
        memory = {**memory, "fusion_weight": jnp.float32(row.fusion_weight)}
    state = state.replace(params=jax.tree.map(jnp.asarray, params), memory=memory)
    return stage, *train(stage, state, seed)
