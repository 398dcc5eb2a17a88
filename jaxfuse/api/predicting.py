"""Predictions of cases by trained phases, one after the other, with programs that are compiled once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from jaxfuse.api.results import Place, Segmentation, Synthesis
from jaxfuse.api.sentences import in_python
from jaxfuse.case_by_case import raise_left_out
from jaxfuse.data.brain import untold
from jaxfuse.data.cases import CaseFiles, check_images
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.presence import REFUSE
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.completer import Lacking
from jaxfuse.engine.trained.incomplete import Missing, told
from jaxfuse.engine.trained.labeling import Labeling
from jaxfuse.engine.trained.missing_modality import volumes_ml
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.given import CASE, Given, Placing, case_of, is_folder
from jaxfuse.prediction.given_cases import GivenCases, given_cases, images_taken
from jaxfuse.prediction.labeler import Labeled, label_values
from jaxfuse.prediction.maker import Backgrounds, Synthesizing, Volume
from jaxfuse.prediction.postprocessed import warning_of
from jaxfuse.prediction.shown import WARNING

Made = TypeVar("Made", bound=Segmentation | Synthesis)


@dataclass(frozen=True)
class Segmenting:
    """Label maps of cases, of which some may lack modalities."""

    phases: Sequence[TrainedPhase]
    labeling: Labeling
    missing: Missing
    device: Any

    @property
    def reads(self) -> tuple[str, ...]:
        return self.labeling.completer.reads if self.labeling.completer else self.phases[0].preparation.modalities

    def checked(self, files: CaseFiles) -> CaseFiles:
        incomplete = self.missing.policy != REFUSE
        if not incomplete:
            check_images(files, self.reads)
        self.labeling.tasks(files)
        return _taken(files, self.phases[0], incomplete=incomplete)

    def found(self, root: Path, only: frozenset[str] | None) -> GivenCases:
        return self.missing.cases(self.labeling.completer, self.phases[0], root, warn, only)

    def work(self, *, keep: bool) -> Work[CaseFiles, Prepared | Lacking, Labeled, Segmentation]:
        def read(files: CaseFiles) -> Prepared | Lacking:
            for sentence in told([files], self.phases, self.labeling.completer):
                if sentence.startswith(WARNING):
                    warn(sentence)
            return self.labeling.read(files)

        return Work(read, partial(self.labeling.label, keep=keep), self._segmentation)

    def _segmentation(self, files: CaseFiles, made: Labeled) -> Segmentation:
        labeling, facts = self.labeling, made.case.facts
        after = labeling.labeler.postprocessing
        _warn_untold(files.id, facts.background)
        if after and after.chosen_on(facts):
            warn(warning_of([files.id]))
        kept = made.probabilities
        return Segmentation(
            files.id,
            labeling.scheme,
            volumes_ml(made.labels, labeling.scheme, facts.steps_mm),
            facts.lacks,
            labeling.description(files, made),
            Place.of(labeling.like(files), files),
            label_values(made.labels, made.case, labeling.scheme),
            partial(self._probabilities, files) if kept is None else lambda: kept,
        )

    def _probabilities(self, files: CaseFiles) -> Any:
        return self.labeling.label(self.labeling.read(files), self.device, keep=True).probabilities


@dataclass(frozen=True)
class Making:
    """One modality of cases, made of others."""

    synthesizing: Synthesizing
    passes: Passes

    @property
    def phases(self) -> Sequence[TrainedPhase]:
        return self.synthesizing.maker.phases

    @property
    def reads(self) -> tuple[str, ...]:
        return self.synthesizing.task.sources

    def checked(self, files: CaseFiles) -> CaseFiles:
        check_images(files, self.reads)
        return _taken(files, self.phases[0], incomplete=False)

    def found(self, root: Path, only: frozenset[str] | None) -> GivenCases:
        return given_cases(root, self.phases[0].data, self.reads, warn, only)

    def work(self, *, keep: bool) -> Work[CaseFiles, tuple[Prepared, Backgrounds], tuple[Volume, Backgrounds], Any]:
        if keep:
            raise UserError("probabilities are of runs that label, and these synthesize a modality; leave them out")
        return Work(self.synthesizing.read, self.synthesizing.make, self._synthesis)

    def _synthesis(self, files: CaseFiles, made: tuple[Volume, Backgrounds]) -> Synthesis:
        (volume, backgrounds), task = made, self.synthesizing.task
        _warn_untold(files.id, backgrounds)
        place = Place.of(files.images[task.sources[0]], files)
        return Synthesis(files.id, task.target, task.sources, place, volume, files, (self.phases, self.passes.whole))


@dataclass(frozen=True, eq=False)
class Predictions(Generic[Made]):
    """The predictions of several cases, each made when it is asked for; the next ones are read ahead.

    A case that cannot be done is named in a warning and left out; `refused` has its sentence. Whoever goes over the
    cases twice has them predicted twice.

    Attributes:
        refused: by case, those that were met so far.
    """

    refused: dict[str, str]
    _cases: Iterable[Case] = field(repr=False)
    _work: Work[CaseFiles, Any, Any, Made] = field(repr=False)
    _devices: Sequence[Any] = field(repr=False)
    _progress: bool = field(repr=False)

    def __len__(self) -> int:
        """Counts the cases, those included that cannot be done."""
        if not isinstance(self._cases, Sized):
            raise TypeError("cases that come one by one have no number")
        return len(self._cases)

    def __iter__(self) -> Iterator[Made]:
        """Yields the predictions in order.

        Raises:
            CasesLeftOut: no case could be done.
            UserError: there was none.
        """
        total, done = len(self._cases) if isinstance(self._cases, Sized) else 0, 0
        show = Display().report if self._progress and total else lambda *counts: None
        with closing(conveyed(self._cases, _opening(self._work), self._devices)) as belt:
            for number, (case, result) in enumerate(belt, start=1):
                try:
                    made = result()
                except UserError as error:
                    self.refused[case.name] = in_python(str(error))
                    warn(f"left out: {error}")
                else:
                    done += 1
                    yield made
                show("predicted", number, total)
        if not done and not self.refused:
            raise UserError("no case came; give one at least, and a list where cases are gone over twice")
        if not done:
            raise_left_out(self.refused, len(self.refused))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Predicts all cases and writes each below a folder, named as the command names it; returns the paths.

        Args:
            overwrite: replace files there that jaxfuse did not write.

        Raises:
            UserError: two cases have one name, or a file is not to be written (`save` of one prediction).
            CasesLeftOut: no case could be done.
        """
        paths = list[Path]()
        for one in self:
            path = Path(folder) / one.file_name
            if path in paths:
                raise UserError(f"two cases would be written to {path}; give them different names")
            paths.append(one.save(path, overwrite=overwrite))
        return paths


@dataclass(frozen=True)
class Case:
    """A case that is still to be opened.

    Attributes:
        files: refuses what is no case.
    """

    name: str
    files: Callable[[], CaseFiles]


@dataclass(frozen=True)
class Asked:
    """A request for predictions, whatever the cases are.

    Attributes:
        placing: the place of arrays.
        keep: whether labels come with their probabilities.
        progress: whether to say how far several cases are.
    """

    way: Segmenting | Making
    placing: Placing
    devices: Sequence[Any]
    keep: bool
    progress: bool

    def one(self, files: CaseFiles) -> Any:
        """Predicts one case."""
        work: Work[CaseFiles, Any, Any, Any] = self.way.work(keep=self.keep)
        return work.write(files, work.make(work.read(files), self.devices[0]))

    def several(self, cases: Iterable[Case], refused: Mapping[str, str]) -> Predictions[Any]:
        """Returns the predictions of several cases; those that are `refused` already are none of them."""
        return Predictions(dict(refused), cases, self.way.work(keep=self.keep), self.devices, self.progress)

    def opened(self, given: Any, name: str = "", unnamed: str = CASE) -> CaseFiles:
        """Returns one case that is given as images or as its folder."""
        if not is_folder(given):
            by = ", ".join(one.name for one in self.way.phases)
            return self.way.checked(case_of(given, self.way.reads, self.placing, name=name, unnamed=unnamed, by=by))
        found = self.way.found(Path(os.fspath(given)), None)
        if len(found.batch.names) > 1:
            raise UserError(f"{given} holds {len(found.batch.names)} cases; give the folder of one, or this one alone")
        return found.files[0]


def predict_given(asked: Asked, given: Given | Iterable[Given], *, name: str, only: frozenset[str] | None) -> Any:
    """Predicts what is given: one case, a folder of cases, or a sequence of single ones.

    Args:
        name: that of a single case of images.
        only: the cases of a folder that are wanted; None: all.
    """
    if isinstance(given, Mapping) or is_folder(given):
        asked.placing.check(given)
    if name in (".", "..") or {"/", os.sep} & set(name):
        raise UserError(f"name is {name!r}, which cannot be that of a file; leave the folder out")
    if isinstance(given, Mapping):
        return asked.one(asked.opened(given, name))
    if name:
        raise UserError("name is that of a single case of images, and others came; leave it out")
    if not isinstance(given, str | os.PathLike):
        return asked.several(_cases(given, asked), {})
    root = Path(os.fspath(given))
    found = asked.way.found(root, only)
    if only is None and _is_case(root, found):
        return asked.one(found.files[0])
    refused = {case: in_python(sentence) for case, sentence in found.batch.refused.items()}
    return asked.several([Case(one.id, partial(_same, one)) for one in found.files], refused)


def _cases(given: Iterable[Given], asked: Asked) -> Iterable[Case]:
    """The cases of a sequence, in a list where their number is known, else one by one."""
    if not isinstance(given, Iterable):
        raise UserError(
            f"cases came as {type(given).__name__}; give a dictionary, modality -> image, the path of a folder, or a "
            "sequence of these"
        )
    numbered = enumerate(given, start=1)
    cases = (Case(f"case {n}", partial(asked.opened, one, unnamed=f"case {n}")) for n, one in numbered)
    return list(cases) if isinstance(given, Sized) else cases


def _is_case(root: Path, found: GivenCases) -> bool:
    """Tells whether a folder is that of its one case: it bears its name, or holds its images itself."""
    if len(found.batch.names) != 1:
        return False
    root = root.absolute()
    beside = [image.path.absolute().parent == root for one in found.files for image in one.images.values()]
    return root.name == found.batch.names[0] or all(beside)


def _same(files: CaseFiles) -> CaseFiles:
    return files


def _opening(work: Work[CaseFiles, Any, Any, Made]) -> Work[Case, Any, Any, Made]:
    """Returns stages that open a case first."""

    def read(case: Case) -> tuple[CaseFiles, Any]:
        files = case.files()
        return files, work.read(files)

    def make(given: tuple[CaseFiles, Any], device: Any) -> tuple[CaseFiles, Any]:
        return given[0], work.make(given[1], device)

    return Work(read, make, lambda _, made: work.write(*made))


def _taken(files: CaseFiles, phase: TrainedPhase, *, incomplete: bool) -> CaseFiles:
    return images_taken(files, phase.data, incomplete=incomplete)


def _warn_untold(case: str, backgrounds: Sequence[float | None] | None) -> None:
    if backgrounds is not None and (sentence := untold({case: backgrounds})):
        warn(sentence)


def warn(sentence: str) -> None:
    """Warns as the command does in a line of its output, in the words of Python."""
    warnings.warn(in_python(sentence.removeprefix(WARNING)), stacklevel=2)
