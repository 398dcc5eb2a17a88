"""A run's folder made of the weights of a public code, with which `predict` works as with one trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.intensities import LANDMARKS
from jaxfuse.data.settings import Data, declared_facts, declared_scheme
from jaxfuse.engine.build import abstract_state, build_system, initial_state
from jaxfuse.engine.conversion.arrays import own_arrays, with_arrays
from jaxfuse.engine.conversion.sources import Source, arrays_of, sources_of
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.workdir import CONVERTED, check_workdir, open_workdir
from jaxfuse.errors import UserError
from jaxfuse.io.tables import write_json
from jaxfuse.io.whole_file import file_digest
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System
from jaxfuse.options import AUTO, flat
from jaxfuse.weights.matching import listed

# What is `auto` in presets of papers; a converted run computes as the code that it comes from.
_SETTLED = {"dtype": "float32", "remat": "off"}


@dataclass(frozen=True)
class Target:
    """The phase of a recipe that weights are for, with its System."""

    experiment: Experiment
    phase: Phase
    system: System

    @property
    def data(self) -> Data:
        return self.experiment.data_of(self.phase)

    @property
    def modalities(self) -> tuple[str, ...]:
        return declared_facts(self.data)[0]

    @property
    def sources(self) -> tuple[str, ...]:
        """The modalities that a network with networks of their own for them reads, in order."""
        return sources_of(self.experiment.pairs)

    def shapes(self) -> State:
        """Returns the shapes of its state."""
        return abstract_state(self.system, self.phase, self.modalities)


def target_of(config: ConfigDict, phase: str = "") -> Target:
    """Builds what weights are for: the phase of this name, else the one that makes the recipe's result.

    Raises:
        UserError: the recipe has no such phase, or makes its result of several.
    """
    experiment = parse(config)
    if phase and phase not in experiment.phases:
        raise UserError(f"the recipe has no phase {phase!r}; it has {', '.join(experiment.schedule)}")
    first, *others = experiment.result
    if others and not phase:
        raise UserError(f"the recipe makes its result of {', '.join(experiment.result)}; name one with --phase")
    own = experiment.phases[phase or first]
    modalities, classes = declared_facts(experiment.data_of(own))
    system = build_system(own, modalities, classes, own.total_steps(own.batch), (1,) * len(classes))
    return Target(experiment, own, system)


def settled_for_all(config: ConfigDict) -> ConfigDict:
    """Returns a config whose `auto` is settled for any machine."""
    chosen: Any = config.copy_and_resolve_references()
    for name, value in flat(config).items():
        *groups, last = name.split(".")
        if value == AUTO and last in _SETTLED:
            group = chosen
            for part in groups:
                group = group[part]
            group[last] = _SETTLED[last]
    return chosen


def read_all(files: Sequence[Source], shapes: State, sources: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of all files by name.

    Raises:
        UserError: a file is another one, or two hold the same network.
    """
    own, given = own_arrays(shapes), dict[str, np.ndarray]()
    for source in files:
        arrays = arrays_of(source, own, sources)
        if twice := sorted(arrays.keys() & given.keys()):
            raise UserError(f"two of the files have {listed(twice)}; name each network once")
        given |= arrays
    return given


def write_run(config: ConfigDict, files: Sequence[Source], workdir: Path, phase: str = "") -> str:
    """Writes a run's folder with these weights; returns a sentence on what it holds.

    Networks that no file has, such as critics, are drawn as a training would draw them.

    Raises:
        UserError: files or recipe do not fit, or the folder holds something.
    """
    config = settled_for_all(config)
    target = target_of(config, phase)
    check_workdir(workdir, ())
    if workdir.is_dir() and any(workdir.iterdir()):
        raise UserError(f"{workdir} holds a run already; name a new or empty folder as --workdir")
    shapes = target.shapes()
    given = read_all(files, shapes, target.sources)
    state, drawn = _completed(target, shapes, given)
    run = open_workdir(workdir, config)
    (run / "dataset.json").write_text(_facts(target.data).to_json(), encoding="utf-8")
    origin = {str(source.path): {"table": source.table, "sha256": file_digest(source.path)} for source in files}
    write_json(run / CONVERTED, {"files": origin, "drawn": drawn})
    checkpoints = Checkpoints(run / "checkpoints" / target.phase.name)
    checkpoints.save(0, state, {})
    checkpoints.close()
    told = f"; drawn, as no file has them: {', '.join(drawn)}" if drawn else ""
    return f"{workdir} holds {' and '.join(map(str, files))} as phase {target.phase.name}{told}"


def _completed(target: Target, shapes: State, given: Mapping[str, np.ndarray]) -> tuple[State, list[str]]:
    """Returns the state of a run without optimizers, and the networks that had to be drawn."""
    lacking = [name for name in own_arrays(shapes) if name not in given]
    drawn = sorted({name.split("/")[1] for name in lacking})
    if lacking:
        seed = target.experiment.seed
        whole = initial_state(target.system, target.phase, target.modalities, seed=seed, number=0)
    else:
        whole = shapes.replace(step=jnp.int32(0), rng=jax.random.key(0))
    return with_arrays(whole, given).replace(opt_state={}, memory={}, average={}), drawn


def _facts(data: Data) -> DatasetFacts:
    """Returns the facts of a training elsewhere, as far as the recipe tells them: no cases, and any voxel size."""
    modalities, classes = declared_facts(data)
    rule = data.normalization
    return DatasetFacts(
        modalities=modalities,
        scheme=declared_scheme(data),
        classes=classes,
        spacing_mm=(),
        train=(),
        val=(),
        keys={},
        voxels_per_class=(),
        ranges=dict.fromkeys(modalities, (0.0, 1.0)) if rule.fit is not None else {},
        landmarks={name: LANDMARKS[name] for name in modalities if name in LANDMARKS} if rule.needs_landmarks else {},
    )


def replaced(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a config with some of its options set."""
    chosen = config.copy_and_resolve_references()
    chosen.update_from_flattened_dict(dict(overrides))
    return chosen
