"""Trained runs, read back from their folders: what they are, what they scored, and their predictions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from jaxfuse.api.history import History, history_of
from jaxfuse.api.predicting import Asked, Making, Segmenting, predict_given, warn
from jaxfuse.api.results import Fusion
from jaxfuse.api.scores import Scores, scores_of
from jaxfuse.api.sentences import told_in_python
from jaxfuse.api.ways import Options, check_options, plans_of, way_of
from jaxfuse.data.brain import AUTO
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.engine.trained import phases as trained
from jaxfuse.engine.trained.chosen_devices import chosen_devices
from jaxfuse.engine.trained.fused_files import given_images, image_fuser
from jaxfuse.engine.trained.phases import MODALITIES, TrainedPhase, one_kind
from jaxfuse.engine.trained.sides import cases_of_side
from jaxfuse.engine.trained.slice_fuser import the_fuser
from jaxfuse.engine.trained.synthesizer import skill_of
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme
from jaxfuse.learning.system import FusingSystem
from jaxfuse.prediction.given import Given, Placing, is_folder
from jaxfuse.report.notebook import table

SEGMENTATION, SYNTHESIS = "segmentation", "synthesis"


class Label(NamedTuple):
    """One class of a label map.

    Attributes:
        name: its name.
        value: its value in label maps.
        color: the color that figures give it, such as "#D55E00".
    """

    name: str
    value: int
    color: str


@dataclass(frozen=True, eq=False)
class Run:
    """One trained run, or several whose predictions are averaged, as `jaxfuse.load` reads them.

    Programs are compiled when the first case is predicted, and serve all later ones of the same tiles.

    Attributes:
        phases: the networks that make the result.
        devices: each predicts one case at a time.
    """

    phases: tuple[TrainedPhase, ...]
    devices: tuple[Any, ...]
    _ways: dict[Any, Any] = field(default_factory=dict, repr=False)
    _runs: dict[Any, Run] = field(default_factory=dict, repr=False)
    _any_spacing: bool = field(default=False, repr=False)

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.task} of {', '.join(self.modalities)}>"

    # --- what it is ---------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The names of its networks, RUN:PHASE each."""
        return ", ".join(one.name for one in self.phases)

    @property
    def workdir(self) -> Path:
        """The folder of the run; refuses several runs."""
        first, *others = dict.fromkeys(one.workdir for one in self.phases)
        if others:
            raise UserError(f"{self.name} are several runs, each with a folder of its own; load one alone")
        return first

    @property
    def task(self) -> str:
        """The kind of its result: "segmentation", or "synthesis" of a modality."""
        return SYNTHESIS if self.phases[0].makes in MODALITIES else SEGMENTATION

    @property
    def fuses(self) -> bool:
        """Whether it also makes fused images (`fuse`)."""
        return any(isinstance(one.system, FusingSystem) for one in self.phases)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that a case must have."""
        return self.phases[0].preparation.modalities

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities that it makes; none of a segmentation."""
        return skill_of(self.phases[0]).targets if self.task == SYNTHESIS else ()

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes of its label maps, background first; none of a synthesis."""
        if self.task == SYNTHESIS:
            return ()
        from jaxfuse.report.canvas import CLASS_COLORS

        scheme = self.scheme
        colors = (*CLASS_COLORS, *("#808080" for _ in scheme.classes))
        return tuple(map(Label, scheme.classes, scheme.decode, colors))

    @property
    def scheme(self) -> LabelScheme:
        """The label scheme; refuses a run that has none."""
        return self.phases[0].scheme

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recipe that it was trained by, as nested dictionaries."""
        return read_config(self.workdir).to_dict()

    @property
    def facts(self) -> DatasetFacts:
        """The facts of its training data: the split, the voxel sides, the ranges."""
        return self.phases[0].facts

    @property
    def scores(self) -> Mapping[str, Scores]:
        """The scores of each phase that was judged in validation, the result last."""
        return scores_of(self.workdir, self.config)

    @property
    def history(self) -> History:
        """The rows of metrics that training wrote, by phase and side: `history["fusion"]["train"]["net/loss"]`."""
        return history_of(self.workdir)

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"run": self.name, "task": self.task, "modalities": ", ".join(self.modalities)}
        if self.targets:
            facts["makes"] = ", ".join(self.targets)
        for label in self.labels[1:]:
            facts[f"label {label.value}"] = label.name
        return table([{"": name, " ": value} for name, value in facts.items()])

    # --- predictions --------------------------------------------------------------------------------------------

    def predict(
        self,
        given: Given | Iterable[Given],
        *,
        affine: Any = None,
        spacing_mm: Sequence[float] = (),
        name: str = "",
        probabilities: bool = False,
        side: str = "",
        progress: bool = True,
        **options: Unpack[Options],
    ) -> Any:
        """Predicts one case, or several one after the other.

        The labels are those of `python -m jaxfuse.predict`, bit for bit: both go the same way.

            seg = jaxfuse.load("runs/cmff").predict({"t1": "a_t1.nii.gz", "t1ce": ..., "t2": ..., "flair": ...})
            seg.labels, seg.probabilities, seg.volumes_ml
            seg.save("a.nii.gz")

        Args:
            given: one case as modality -> path of a file, nibabel image, or array (d h w) as it is stored; or the
                folder of one. Several cases as a folder of them, of the layouts that the command reads, or as any
                sequence of single ones.
            affine: of arrays, voxel to world in mm; it tells their orientation, too. Without it the axes of an array
                run to the patient's right, front and top.
            spacing_mm: voxel sides of arrays, where there is no affine. Without either they are taken for those of the
                training; a run that resamples (`data.resample_mm`) asks for one.
            name: that of a single case, for sentences.
            probabilities: compute class probabilities with the labels, not when they are first looked at.
            side: of a folder: only the cases on this side, "val" or "test", of the split that the run was made by.
            progress: say how far a folder or a sequence is.
            options: as of `Options`.

        Returns:
            A `Segmentation`, or of a run that synthesizes a `Synthesis`; `Predictions` of them for several cases.

        Raises:
            UserError: a case cannot be done, in the words of the command; of several it is left out and named.
            TypeError: an option is not known.
        """
        if side and not is_folder(given):
            raise UserError("side chooses cases of a folder, and other cases came; leave it out")
        placing = Placing(affine, tuple(spacing_mm), self.phases[0].preparation.assumed_mm)
        with told_in_python():
            asked = Asked(self._way(options), placing, self.devices, probabilities, progress)
            return predict_given(asked, given, name=name, only=cases_of_side(self.phases, side))

    def fuse(
        self,
        images: Sequence[str | os.PathLike[str]],
        *,
        color: Sequence[str] = (),
        axis: str | None = None,
        background: str = AUTO,
        by_network: bool = False,
    ) -> Fusion:
        """Fuses registered images of one subject, as `python -m jaxfuse.fuse` does, by a run that can (`fuses`).

            fused = jaxfuse.load("runs/fuse4seg").fuse(["t1.nii.gz", "pet.nii.gz"])
            fused.save("fused.nii.gz")

        Args:
            images: 2 to 4 files: PNG pictures, or NIfTI volumes on one grid. They stand in the network's slots in this
                order, whatever modality the run had there.
            color: color maps of gray images: NUMBER=MAP or NAME=MAP, such as "2=hot".
            axis: which slices of volumes are fused: "axial" (if None), "coronal" or "sagittal".
            background: the stored value around the head: "auto", "none", a number, or NAME=NUMBER,...
            by_network: the image of the network itself, of runs whose scheme settles another one.

        Raises:
            UserError: the run makes no fused images, or these cannot be fused.
        """
        phase, paths = the_fuser(self.phases, self.name), [Path(os.fspath(one)) for one in images]
        key = "fuse", len(paths), by_network
        with told_in_python():
            if key not in self._ways:
                self._ways[key] = image_fuser(phase, len(paths), by_network=by_network, devices=self.devices)
            fuser, given = self._ways[key], given_images(phase, paths, color=color, axis=axis, background=background)
            for sentence in given.remarks(phase):
                warn(sentence)
            return Fusion(given.images.names, fuser.name, given, given.fused(fuser))

    def _way(self, options: Options) -> Segmenting | Making:
        """Returns the way in which cases are predicted; it is kept, with its programs."""
        check_options(options)
        named = options.get("synthesis")
        makers = self._run_of(named).phases if named else ()
        key = (
            tuple(sorted((name, value) for name, value in options.items() if name != "synthesis")),
            tuple(map(id, makers)),
            plans_of(self.phases, options),
        )
        if key not in self._ways:
            self._ways[key] = way_of(self.phases, self.devices, options, makers)
        return self._ways[key]

    def _run_of(self, named: Any) -> Run:
        """Returns a run that an option names, which is read once."""
        if isinstance(named, Run):
            return named
        if not is_folder(named):
            raise UserError(f"synthesis came as {type(named).__name__}; give a run that was loaded, or its folder")
        if named not in self._runs:
            self._runs[named] = load(named, any_spacing=self._any_spacing)
        return self._runs[named]


def load(*runs: str | os.PathLike[str], any_spacing: bool = False, devices: int | str = 1) -> Run:
    """Reads a trained run, or several whose predictions are averaged.

        run = jaxfuse.load("runs/cmff")
        ensemble = jaxfuse.load("runs/fold0", "runs/fold1@best")

    Args:
        runs: RUN, RUN:PHASE or RUN:PHASE@best; without PHASE all phases that make the run's result. RUN may be a
            pattern for several.
        any_spacing: take cases of other voxel sides than those of the training.
        devices: how many devices of this machine share the cases of a folder, or "all".

    Raises:
        UserError: there is no such run, or the runs do not go together.
    """
    if not runs:
        raise UserError("no run was named; give the folder that training printed")
    phases = trained.load([os.fspath(run) for run in runs], any_spacing=any_spacing)
    one_kind(phases)
    return Run(phases, tuple(chosen_devices(str(devices))), _any_spacing=any_spacing)
