"""Trained phases, read back from their workdirs."""

from __future__ import annotations

import glob
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from jaxfuse.config import Experiment, Phase, parse
from jaxfuse.data.dataset import read_facts
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.settings import Data
from jaxfuse.data.sources.volumes import CUTS
from jaxfuse.engine.build import abstract_state, build_system
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.checkpoints import read_weights
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.learning.state import State
from jaxfuse.learning.system import COMPLETED, SYNTHESIZED, System, synthesized
from jaxfuse.prediction.preparation import Preparation
from jaxfuse.prediction.spacing import Range

# The results of phases that make modalities of others.
MODALITIES = (SYNTHESIZED, COMPLETED)
# A phase whose result is class probabilities makes this; others make the output that is their result.
LABELS = "labels"


@dataclass(frozen=True)
class TrainedPhase:
    """One trained phase of one run.

    Attributes:
        name: RUN:PHASE, and @best where the best checkpoint is meant.
        data, facts: settings and facts of its training data.
        preparation: prepares an input for it.
        pairs: modalities that belong together, as the experiment names them.
        folder: its checkpoints.
        best: whether the best checkpoint is meant, not the last.
    """

    name: str
    system: System
    phase: Phase
    data: Data
    facts: DatasetFacts
    preparation: Preparation
    pairs: tuple[str, ...]
    folder: Path
    best: bool

    @property
    def makes(self) -> str:
        """The kind of its result: "labels", or the output that is its result, such as "synthesized"."""
        return LABELS if self.system.primary in self.system.probabilities else self.system.primary

    @property
    def scheme(self) -> LabelScheme:
        """The label scheme of its training; refuses a phase without one."""
        if not self.facts.scheme:
            raise UserError(f"{self.workdir} was not trained on a label scheme, so that it cannot label volumes")
        return label_scheme(self.facts.scheme)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Modality -> the stored values that 0 and 1 stand for; empty where they are not known."""
        return self.facts.ranges

    @property
    def patch(self) -> tuple[int, ...]:
        """Sides of its tiles in training."""
        return self.phase.patch

    def output_of(self, target: str) -> str:
        """Names the output that holds a modality which it makes."""
        return SYNTHESIZED if self.makes == SYNTHESIZED else synthesized(target)

    @property
    def workdir(self) -> Path:
        """The folder of its run."""
        return self.folder.parents[1]

    def weights(self) -> State:
        """Reads the weights from disk."""
        like = abstract_state(self.system, self.phase, self.facts.modalities)
        return read_weights(self.folder, like, one_device(), best=self.best)


def parse_run(text: str) -> tuple[Path, str, bool]:
    """RUN[:PHASE][@last|@best] -> (folder, phase or "" for the run's result, best).

    A colon or an at sign may belong to a folder's name: what is there by the longer name is that.
    """
    folder, phase, which = text, "", ""
    if not Path(text).exists():
        named, at, last = text.rpartition("@")
        if at and not {"/", ":"} & set(last):
            folder, which = named, last
    if not Path(folder).exists():
        named, colon, last = folder.rpartition(":")
        if colon and "/" not in last:
            folder, phase = named, last
    if which not in ("", "last", "best"):
        raise UserError(f"{text!r} asks for the checkpoint {which!r}; choose @last or @best")
    return Path(folder), phase, which == "best"


def named_runs(text: str) -> list[tuple[Path, str, bool]]:
    """Reads RUN[:PHASE][@last|@best] as `parse_run` does, where RUN may be a pattern such as runs/fold* for several.

    Raises:
        UserError: no folder of a run matches the pattern.
    """
    folder, phase, best = parse_run(text)
    if folder.exists() or not glob.has_magic(str(folder)):
        return [(folder, phase, best)]
    found = sorted(path for path in map(Path, glob.glob(str(folder))) if (path / "config.json").is_file())
    if not found:
        raise UserError(f"no folder of a run matches {folder}; name runs as `jaxfuse.train` has written them")
    return [(path, phase, best) for path in found]


def load(runs: Sequence[str], *, any_spacing: bool = False) -> tuple[TrainedPhase, ...]:
    """Reads every phase that the runs name, and each run once.

    Args:
        runs: RUN, RUN:PHASE or RUN:PHASE@best; without PHASE all phases that make the run's result. RUN may be a
            pattern for several.
        any_spacing: whether cases of other voxel sides than those of the training are taken.
    """
    read: dict[Path, tuple[Experiment, DatasetFacts]] = {}
    found: list[TrainedPhase] = []
    for workdir, name, best in itertools.chain.from_iterable(map(named_runs, runs)):
        if workdir not in read:
            read[workdir] = parse(read_config(workdir)), read_facts(workdir)
        names = (name,) if name else read[workdir][0].result
        found += [_trained_phase(workdir, *read[workdir], one, best) for one in names]
    if any_spacing:
        found = [replace(one, preparation=replace(one.preparation, spacing_range_mm=())) for one in found]
    return tuple(found)


def _trained_phase(workdir: Path, experiment: Experiment, facts: DatasetFacts, name: str, best: bool) -> TrainedPhase:
    if name not in experiment.phases:
        raise UserError(f"{workdir} has no phase {name!r}; it has {', '.join(experiment.schedule)}")
    phase = experiment.phases[name]
    total = phase.total_steps(len(facts.train))
    system = build_system(phase, facts.modalities, facts.classes, total, phase.counted(facts))
    data = experiment.data_of(phase)
    read = tuple(experiment.pairs[0].split("+")) if system.primary in MODALITIES else data.modalities
    return TrainedPhase(
        name=f"{workdir.name}:{name}" + ("@best" if best else ""),
        system=system,
        phase=phase,
        data=data,
        facts=facts,
        preparation=preparation_of(data, facts, read),
        pairs=experiment.pairs,
        folder=workdir / "checkpoints" / name,
        best=best,
    )


def preparation_of(data: Data, facts: DatasetFacts, modalities: Sequence[str]) -> Preparation:
    """Returns the preparation of cases of these modalities for a phase that was trained on such data."""
    return Preparation(
        modalities=tuple(modalities),
        channels=data.modalities,
        normalize=data.normalize,
        landmarks=facts.landmarks,
        axis=data.axis if data.source in CUTS else "",
        window=data.window,
        blank_slices=data.blank_slices,
        background=data.background,
        resample_mm=data.resample_mm,
        spacing_mm=facts.spacing_mm,
        spacing_range_mm=facts.spacing_range_mm or _sides_alone(facts),
    )


def _sides_alone(facts: DatasetFacts) -> Range:
    """The median sides of training volumes as their range, in facts that hold no other."""
    return tuple((side, side) for side in facts.spacing_mm) if len(facts.spacing_mm) == 3 else ()


def weights_digest(state: State) -> str:
    """A digest of parameters and statistics: their names, shapes, types and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.stats)):
        values = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {values.shape} {values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def one_kind(phases: Sequence[TrainedPhase]) -> str:
    """Returns the kind of result of all phases; refuses some that synthesize a modality beside others."""
    makers = [one.name for one in phases if one.makes in MODALITIES]
    others = [one.name for one in phases if one.makes not in MODALITIES]
    if makers and others:
        raise UserError(
            f"{makers[0]} synthesizes a modality and {others[0]} does not; name runs of one kind, or use "
            "jaxfuse.impute to synthesize what a segmentation lacks"
        )
    return phases[0].makes
