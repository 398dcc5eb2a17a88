"""All cases below a folder, by an exported bundle: the files that `jaxfuse.predict` writes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.data.brain import untold
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.facts import counted
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.presence import MISSING, REFUSE, ZERO
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.prediction.bundle import LABELS, Bundle, ExportedPhase, devices
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.given_cases import given_cases
from jaxfuse.prediction.labeler import CaseLabeler, Labeled, description, write_labels
from jaxfuse.prediction.maker import Backgrounds, Synthesizing, Volume, origin_file, write_synthesized
from jaxfuse.prediction.postprocessed import warning_of
from jaxfuse.prediction.probability_maps import write_maps

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """The wishes of a call.

    Attributes:
        maps: those of `jaxfuse.prediction.probability_maps.MAPS` that are written beside each label map.
        missing: "refuse", or "zero" to label cases by the modalities that they have.
        overwrite: replace files that are not our own.
    """

    maps: tuple[str, ...] = ()
    missing: str = REFUSE
    overwrite: bool = False


@dataclass(frozen=True)
class Labeling:
    """Label maps of cases, and maps of their probabilities."""

    bundle: Bundle
    labeler: CaseLabeler
    maps: tuple[str, ...]
    chosen_on: list[str]

    @property
    def reads(self) -> Sequence[str]:
        return self.labeler.preparation.modalities

    def names(self, files: CaseFiles) -> tuple[str, ...]:
        return f"{files.id}.nii.gz", *(f"{one}/{files.id}.nii.gz" for one in self.maps)

    def work(self, outputs: Outputs) -> Work[CaseFiles, Prepared, Labeled, Backgrounds]:
        after, scheme = self.labeler.postprocessing, self.bundle.scheme

        def label(case: Prepared, device: object) -> Labeled:
            return self.labeler.labeled(case, device, keep=bool(self.maps))

        def write(files: CaseFiles, made: Labeled) -> Backgrounds:
            facts, names = made.case.facts, self.names(files)
            like = next(files.images[name] for name in self.reads if name in files.images)
            note = description(facts.lacks, (after.note(facts) if after else None) or "")
            with outputs.together() as folder:
                write_labels(folder / names[0], made.labels, made.case, scheme, like=like, description=note)
                if made.probabilities is not None:
                    paths = {one: folder / name for one, name in zip(self.maps, names[1:], strict=True)}
                    write_maps(paths, made.probabilities, like=like)
            if after and after.chosen_on(facts):
                self.chosen_on.append(files.id)
            return facts.background

        return Work(self.labeler.read, label, write)


@dataclass(frozen=True)
class Making:
    """A modality of cases, made of others."""

    synthesizing: Synthesizing[ExportedPhase]

    @property
    def reads(self) -> Sequence[str]:
        return self.synthesizing.task.sources

    def names(self, files: CaseFiles) -> tuple[str, ...]:
        volume = f"{files.id}_{self.synthesizing.task.target}.nii.gz"
        return volume, origin_file(volume)

    def work(self, outputs: Outputs) -> Work[CaseFiles, tuple[Prepared, Backgrounds], Any, Backgrounds]:
        def write(files: CaseFiles, made: tuple[Volume, Backgrounds]) -> Backgrounds:
            (volume, backgrounds), made_by = made, self.synthesizing
            with outputs.together() as folder:
                write_synthesized(folder / self.names(files)[0], volume, files, made_by.task, made_by.maker.phases)
            return backgrounds

        return Work(self.synthesizing.read, self.synthesizing.make, write)


def predict_folder(bundle: Bundle, root: Path, output: Path, asked: Asked, say: Say) -> None:
    """Predicts every case below `root`, and writes it below `output` under the names of `jaxfuse.predict`.

    Raises:
        UserError: nothing can be done, an output is not to be written, or what is asked is not what the bundle makes.
        CasesLeftOut: some cases cannot be done; the others are.
    """
    _check(bundle, asked)
    (device,), chosen_on = devices(), list[str]()
    if bundle.makes == LABELS:
        way: Labeling | Making = Labeling(bundle, bundle.labeler(device), asked.maps, chosen_on)
    else:
        way = Making(Synthesizing(bundle.maker(device), bundle.task))
    given = given_cases(root, bundle.kept, way.reads, say, incomplete=asked.missing == ZERO)
    every = [name for one in given.files for name in way.names(one)]
    outputs = open_outputs(output, "--output", reads=given.reads, names=every, overwrite=asked.overwrite)
    say(f"{counted(len(given.files), 'case')} by {', '.join(one.name for one in bundle.phases)}, exported")
    if bundle.postprocessing:
        say(bundle.postprocessing.told())
    if bundle.makes == LABELS:
        for sentence in bundle.told_of(given.files):
            say(sentence)
    notes: dict[str, Backgrounds] = {}
    work: Work[CaseFiles, Any, Any, Any] = way.work(outputs)
    with closing(conveyed(given.files, work, [device])) as belt:
        for done, (one, result) in enumerate(belt, start=1):
            with given.batch.case(one.id):
                notes[one.id] = result()
                say(f"{done} of {len(given.files)}: {output / way.names(one)[0]}")
    if warning := untold({case: note for case, note in notes.items() if note is not None}):
        say(f"Warning: {warning}")
    if warning := warning_of(sorted(chosen_on)):
        say(warning)
    given.batch.end()


def _check(bundle: Bundle, asked: Asked) -> None:
    """Refuses what means nothing to a bundle."""
    if bundle.makes != LABELS and (asked.maps or asked.missing != REFUSE):
        option = asked.maps[0] if asked.maps else MISSING
        raise UserError(f"--{option} is for bundles that label, and this one makes {bundle.task}; leave it out")
    if asked.missing == ZERO and not bundle.takes_incomplete:
        raise UserError(
            f"--{MISSING} is {ZERO}, and the networks of {bundle.path} label cases that have all modalities; leave it "
            "out, or use a bundle of another run"
        )
