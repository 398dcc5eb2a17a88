"""Bundles: exported networks with all that predicts by them, read from a folder.

What goes on between a program and a file is not written again for them: modules of this package, and of those below it,
lie in every bundle as they lie here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
from jax import export

from jaxfuse.data.cases import CaseFiles, without_blank
from jaxfuse.data.facts import tuples
from jaxfuse.data.presence import ABSENT, REFUSE
from jaxfuse.data.slices import AXES
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.safetensors import read_safetensors
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.nn.onednn import convolutions as onednn
from jaxfuse.postprocessing.plan import read_plan
from jaxfuse.prediction.bundle_files import FORMAT, PLAN, PREPARATION, RECORD, WEIGHTS, damage_of
from jaxfuse.prediction.ensemble import Ensemble, Member
from jaxfuse.prediction.labeler import CaseLabeler
from jaxfuse.prediction.maker import Task, VolumeMaker
from jaxfuse.prediction.postprocessed import Postprocessing
from jaxfuse.prediction.predictor import CasePredictor, Network, Way
from jaxfuse.prediction.preparation import Preparation
from jaxfuse.prediction.programs import over_canvas
from jaxfuse.prediction.shown import told_of

# Kinds of programs: for cases that have all modalities, and for those that lack some.
WHOLE, INCOMPLETE = "whole", "incomplete"
# Of programs that call oneDNN.
_WITH_LIBRARY = "_onednn"
# What a bundle makes.
LABELS, MODALITY = "labels", "modality"


@dataclass(frozen=True)
class Kept:
    """How cases lie on disk, as of `jaxfuse.prediction.given_cases.Kept`."""

    source: str
    layout: str
    entities: str
    all_background: str

    def there(self, files: CaseFiles) -> CaseFiles:
        """Returns a case without the images that count as absent."""
        return without_blank(files) if self.all_background == ABSENT else files


@dataclass(frozen=True)
class ExportedPhase:
    """One network of a bundle, as its record tells it.

    Attributes:
        name: of the phase that it was exported from.
        programs: kind -> the file; also of those with oneDNN (`with_library`).
        primary: the output that is its result; of a network that makes modalities each target has its own.
        targets: modality -> the output that holds it.
        ranges: modality -> the stored values that 0 and 1 stand for.
        ndim, margin: of its geometry.
        axis: that of the slices which it was trained on.
        patch: sides of a tile in training.
        tile: output sides of a tile.
        tile_batch: how many tiles it predicts at once.
        any_batch: whether another number would do.
        other_batch: whether another number than in the run was asked for.
        centered: whether tiles lie around the middle of an image.
        overlap, weighting, mirror: as of `jaxfuse.prediction.predictor.Way`.
        shown: the subsets of modalities that its training showed it, by name.
        preparation: prepares an input for it.
    """

    name: str
    programs: Mapping[str, str]
    primary: str
    targets: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    ndim: int
    margin: int
    axis: str
    patch: tuple[int, ...]
    tile: tuple[int, ...]
    tile_batch: int
    any_batch: bool
    centered: bool
    overlap: float
    weighting: str
    mirror: tuple[int, ...]
    shown: tuple[str, ...]
    preparation: Preparation
    other_batch: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """All that its programs give."""
        return tuple(self.targets.values()) or (self.primary,)

    def output_of(self, target: str) -> str:
        """Names the output that holds a modality."""
        return self.targets[target]

    @property
    def takes_incomplete(self) -> bool:
        """Whether it is told which modalities a case lacks."""
        return INCOMPLETE in self.programs

    def program(self, kind: str, device: Any) -> str:
        """Names the file of a program for a device: on a CPU that with oneDNN, where it is installed and serves."""
        faster = with_library(kind)
        serves = faster in self.programs and not self.other_batch and device.platform == "cpu"
        return self.programs[faster if serves and onednn.available() else kind]

    def predictor(self, programs: Mapping[str, export.Exported]) -> CasePredictor:
        """Returns the prediction of whole cases by its programs."""

        def predict(weights: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            told = (inputs["presence"],) if "presence" in inputs else ()
            made: Any = programs[INCOMPLETE if told else WHOLE].call(weights, inputs["image"], *told)
            return made

        network = Network(
            predict=predict,
            primary=self.primary,
            ndim=self.ndim,
            margin=self.margin,
            tile_batch=self.tile_batch,
            centered=self.centered,
            over_canvas=partial(over_canvas, predict),
            memory_bytes=_memory_bytes,
        )
        way = Way(self.overlap, 0, self.weighting, self.mirror)
        return CasePredictor(network, AXES.get(self.axis, 0), way, lambda *_: self.tile)


@dataclass(frozen=True)
class Bundle:
    """An exported run, which predicts as the run does.

    Attributes:
        folder: where it lies.
        any_spacing: whether cases of other voxel sides than those of the training are taken.
        tile_batch: how many tiles are predicted at once; 0: as many as in the run.

    Raises:
        UserError: a file is missing or not as it was written, the bundle is of another form or has no program for this
            machine, or its tiles cannot be predicted so many at once.
    """

    folder: Path | str
    any_spacing: bool = False
    tile_batch: int = 0

    def __post_init__(self) -> None:
        if damage := damage_of(self.path):
            raise UserError(damage)
        if (form := self.record.get("format")) != FORMAT:
            raise UserError(
                f"{self.path} is a bundle of form {form}, and this reads form {FORMAT}; use the run.py that lies in it"
            )
        if self.tile_batch < 0:
            raise UserError(f"tile_batch is {self.tile_batch}; give a number above 0, or 0 for that of the run")
        if self.tile_batch and (fixed := [one for one in self.phases if not one.any_batch]):
            raise UserError(
                f"tile_batch is {self.tile_batch}, and the program of {fixed[0].name} takes {fixed[0].tile_batch} "
                "tiles at once; leave it out"
            )

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The content of the file that describes the bundle."""
        return json.loads((self.path / RECORD).read_text(encoding="utf-8"))

    @property
    def makes(self) -> str:
        """The kind of its result: "labels", or a "modality"."""
        return self.record["makes"]

    @property
    def kept(self) -> Kept:
        """How cases lie on disk."""
        return Kept(**self.record["cases"])

    @property
    def scheme(self) -> LabelScheme:
        """The scheme that it labels in."""
        return label_scheme(self.record["scheme"])

    @property
    def task(self) -> Task:
        """The modality that it makes, and its sources."""
        return Task(**tuples(self.record["task"]))

    @cached_property
    def phases(self) -> tuple[ExportedPhase, ...]:
        """Its networks, of which the mean is taken."""
        prepared = json.loads((self.path / PREPARATION).read_text(encoding="utf-8"))["networks"]
        found = []
        for document, preparation in zip(self.record["networks"], prepared, strict=True):
            own = Preparation.from_document(preparation)
            own = replace(own, spacing_range_mm=()) if self.any_spacing else own
            more = {"tile_batch": self.tile_batch, "other_batch": True} if self.tile_batch else {}
            found.append(ExportedPhase(**{**tuples(document), **more, "preparation": own}))
        return tuple(found)

    @property
    def takes_incomplete(self) -> bool:
        """Whether its networks are told which modalities a case lacks."""
        return all(one.takes_incomplete for one in self.phases)

    def told_of(self, files: Sequence[CaseFiles]) -> list[str]:
        """Says which cases lack modalities, and which have a subset that a network was never shown."""
        return told_of(files, self.phases[0].preparation.modalities, [(one.name, one.shown) for one in self.phases])

    @cached_property
    def postprocessing(self) -> Postprocessing | None:
        """The last work on label maps; None for nothing."""
        return Postprocessing(read_plan(self.path / PLAN)) if self.record["postprocessed"] else None

    def predict(
        self,
        given: Mapping[str, Any],
        *,
        affine: Any = None,
        spacing_mm: Sequence[float] = (),
        probabilities: bool = False,
        missing: str = REFUSE,
    ) -> Any:
        """Predicts one case, and returns a `jaxfuse.prediction.bundle_one.Predicted`.

        Programs are compiled for the first case, and serve those of like sides after it.

        Args:
            given: modality -> array, nibabel image, or path of a file.
            affine: of arrays, voxel to world in mm; without it their axes run to the right, to the front and up.
            spacing_mm: voxel sides of arrays where there is no affine; (): those of the training.
            probabilities: whether class probabilities are kept.
            missing: "zero" to label a case by the modalities that it has.

        Raises:
            UserError: the case is none that the bundle takes.

        Warns:
            UserWarning: the case has a subset of the modalities that a network was never shown in training.
        """
        return self._one_by_one.predict(given, affine, spacing_mm, probabilities=probabilities, missing=missing)

    @cached_property
    def _one_by_one(self) -> Any:
        from jaxfuse.prediction.bundle_one import loaded  # it is built on this class

        return loaded(self)

    def labeler(self, device: Any) -> CaseLabeler:
        """Returns what labels cases on a device."""
        made = self._loaded(device)
        members = {
            f"{number}: {one.name}": Member(predictor, weights, one.preparation.in_channels)
            for number, (one, predictor, weights) in enumerate(made)
        }
        first = self.phases[0].preparation
        return CaseLabeler(first, {device: Ensemble(members)}, self.record["masked"], self.postprocessing)

    def maker(self, device: Any) -> VolumeMaker[ExportedPhase]:
        """Returns what makes a modality of cases on a device."""
        predictors = [_bound(predictor, weights) for _, predictor, weights in self._loaded(device)]
        return VolumeMaker(self.phases, {device: predictors})

    def _loaded(self, device: Any) -> list[tuple[ExportedPhase, CasePredictor, Any]]:
        """Its networks, their predictions, and their weights on a device."""
        arrays = read_safetensors(self.path / WEIGHTS).arrays
        found = []
        for number, one in enumerate(self.phases):
            kinds = (WHOLE, INCOMPLETE) if one.takes_incomplete else (WHOLE,)
            programs = {kind: self._program(one.program(kind, device)) for kind in kinds}
            own = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{number}/")}
            found.append((one, one.predictor(programs), jax.device_put(own, device)))
        return found

    def _program(self, name: str) -> export.Exported:
        made, path = self.record["made"], self.path / name
        try:
            program = export.deserialize(bytearray(path.read_bytes()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise self._unreadable(path, str(error)) from error
        version = program.calling_convention_version
        oldest, newest = (
            export.minimum_supported_calling_convention_version,
            export.maximum_supported_calling_convention_version,
        )
        if not oldest <= version <= newest:
            raise self._unreadable(path, f"its calling convention is {version}, and {oldest} to {newest} are known")
        here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        if here not in program.platforms:
            raise UserError(
                f"{path} is for {' and '.join(program.platforms)}, and JAX runs on {here} here; set JAX_PLATFORMS=cpu, "
                f"or use another machine ({made['date']}, jax {made['jax']})"
            )
        return program

    def _unreadable(self, path: Path, why: str) -> UserError:
        made, told = self.record["made"], " ".join(why.split())[:160]
        return UserError(
            f"{path} was exported on {made['date']} by jax {made['jax']}, which jax {jax.__version__} cannot read "
            f"({told}); install jax=={made['jax']}, or export the run anew ({WEIGHTS} has its weights in any case)"
        )


def with_library(kind: str) -> str:
    """Names the kind of a program for CPUs with oneDNN."""
    return f"{kind}{_WITH_LIBRARY}"


def _bound(predictor: CasePredictor, weights: Any) -> Callable[[Any, Asked], Mapping[str, Any]]:
    return partial(predictor, weights)


def _memory_bytes() -> int | None:
    """The memory of the first device; None where it tells none."""
    stats: Any = jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def devices() -> Sequence[Any]:
    """Returns the device that works."""
    return (jax.local_devices()[0],)
