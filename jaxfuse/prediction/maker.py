"""A modality of whole volumes, made from others by networks of slices, and the files that hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from jaxfuse.data.brain import NONE, background_rule, find_backgrounds
from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.nifti import write_like
from jaxfuse.io.tables import write_json
from jaxfuse.prediction.preparation import Preparation

DESCRIPTION = "synthesized by jaxfuse"

Volume = Float[np.ndarray, "d h w"]
# The stored value around the head in each image of a case; None where it cannot be told, or was not asked for.
Backgrounds = Sequence[float | None] | None


@runtime_checkable
class Maker(Protocol):
    """A network that makes a modality, whatever it was built from."""

    @property
    def name(self) -> str: ...

    @property
    def preparation(self) -> Preparation: ...

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Modality -> the stored values that 0 and 1 stand for."""
        ...

    @property
    def patch(self) -> tuple[int, ...]:
        """Sides of its tiles in training."""
        ...

    def output_of(self, target: str) -> str:
        """Names the output that holds a target."""
        ...


Made = TypeVar("Made", bound=Maker)


@dataclass(frozen=True)
class Task:
    """The modality that a network was trained to synthesize, and its sources."""

    sources: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        return f"{self.target} from {' and '.join(self.sources)}"


@dataclass(frozen=True)
class VolumeMaker(Generic[Made]):
    """The target of cases by the mean of trained networks, on any of several devices.

    Each network goes over the volume along the axis of the slices that it was trained on.

    Attributes:
        predictors: of each network, by device; threads may work at once, each on a device of its own.
    """

    phases: Sequence[Made]
    predictors: Mapping[Any, Sequence[Callable[[Prepared, Asked], Mapping[str, np.ndarray]]]]

    def prepare(self, case: Case) -> Prepared:
        """Crops and normalizes a case of the first phase's sources, or of some of them."""
        return self.phases[0].preparation.prepare(case)

    def make(self, case: Prepared, device: Any, target: str) -> Volume:
        """Returns a target on the case's whole grid, in the units of its files.

        Where no source shows anything, and beyond the window of the runs' pictures, it is the target's background
        (`background_of`).
        """
        levels = np.zeros(case.facts.shape)
        for one, predict in zip(self.phases, self.predictors[device], strict=True):
            output = one.output_of(target)
            outputs = predict(one.preparation.in_channels(case), Asked(values=(output,)))
            levels += np.clip(outputs[output][..., 0], 0, 1) / len(self.phases)
        if not np.isfinite(levels).all():
            raise UserError(
                f"case {case.facts.id}: {', '.join(one.name for one in self.phases)} made values that are no numbers; "
                "look at the losses of the training"
            )
        around, ends = background_of(self.phases, target), (self.phases[0].preparation.normalization.darkest, 1.0)
        volume = np.full(levels.shape, around, np.float32)
        volume.flat[case.brain] = np.interp(levels.flat[case.brain], ends, mean_range(self.phases, target))
        return uncrop(volume, case, around)


@dataclass(frozen=True)
class Synthesizing(Generic[Made]):
    """The way in which one modality is made of cases."""

    maker: VolumeMaker[Made]
    task: Task

    def read(self, files: CaseFiles) -> tuple[Prepared, Backgrounds]:
        """Reads and prepares the sources of a case; returns what is around the head in each, too."""
        rule = background_rule(self.maker.phases[0].preparation.background)
        case = load_case(files, self.task.sources, None)
        if rule.text == NONE:
            return self.maker.prepare(case), None
        found = find_backgrounds(case.channels, case.modalities, rule)
        return self.maker.prepare(case), [background and background.value for background in found]

    def make(self, given: tuple[Prepared, Backgrounds], device: object) -> tuple[Volume, Backgrounds]:
        """Makes the modality of a case."""
        case, backgrounds = given
        return self.maker.make(case, device, self.task.target), backgrounds


def background_of(phases: Sequence[Made], target: str) -> float:
    """Returns the value of a target's background: the one that `data.background` states for it, else 0."""
    return background_rule(phases[0].preparation.background).of(target) or 0.0


def mean_range(phases: Sequence[Maker], target: str) -> tuple[float, float]:
    """Returns the stored values of a target for 0 and 1: medians over training volumes, averaged over the runs.

    The range of the real image, were there one, is not known.
    """
    low, high = np.mean([one.ranges[target] for one in phases], axis=0).tolist()
    return low, high


def write_synthesized(
    path: Path,
    volume: Volume,
    files: CaseFiles,
    task: Task,
    phases: Sequence[Maker],
    whole: bool = False,
) -> None:
    """Writes a volume on the grid of its first source, float32, and a JSON file beside it with its origin.

    The header names its origin as well. `path` ends in `.nii.gz`, the other file in `.json`.

    Args:
        whole: whether slices were seen in one pass.
    """
    first = files.images[task.sources[0]]
    write_like(path, volume, first.grid, channel=first.channel, dtype="float32", description=DESCRIPTION)
    write_json(path.with_name(origin_file(path.name)), _sidecar(files, task, phases, whole))


def origin_file(volume: str) -> str:
    """Names the JSON file beside a synthesized volume, whose name or path this is."""
    return volume.removesuffix(".nii.gz") + ".json"


def _sidecar(files: CaseFiles, task: Task, phases: Sequence[Maker], whole: bool) -> dict[str, Any]:
    preparation = phases[0].preparation
    return {
        "synthesized": True,
        "case": files.id,
        "target": task.target,
        "sources": {name: files.images[name].path.name for name in task.sources},
        "runs": [one.name for one in phases],
        "normalization": preparation.normalize,
        "range": list(mean_range(phases, task.target)),
        "range_of": f"median over the training volumes of the stored values of {task.target} for 0 and 1",
        "background": background_of(phases, task.target),
        "background_is": "where no source shows anything, and beyond the window",
        "window": [list(one) for one in preparation.window],
        "slices": [one.preparation.axis for one in phases],
        "patches": "whole slices" if whole else [list(one.patch) for one in phases],
    }
