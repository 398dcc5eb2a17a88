"""Cases that may lack modalities: what is missing is synthesized, then all are segmented."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from jaxfuse.case_by_case import CaseByCase
from jaxfuse.data.brain import untold
from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.resample import on_networks_grid
from jaxfuse.data.sources.case_folders import Finding
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.case_names import CaseNames, write_descriptions
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.completer import Completer, Lacking, completer_for, synthesized_note
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.segmenter import case_labeler, check_labels
from jaxfuse.engine.trained.synthesizer import check_skills
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.io.tables import write_rows
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.distances import Spacing, voxel_size
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.given_cases import reads_of
from jaxfuse.prediction.labeler import Labels, write_labels
from jaxfuse.prediction.maker import Task, origin_file, write_synthesized
from jaxfuse.report import figures
from jaxfuse.report.completed import CompletedCase, write_completed_report

# What is written of a case, and the backgrounds of its images.
Completed = tuple[CompletedCase, Sequence[float | None]]
_TABLE, _REPORT = _OF_ALL = ("cases.csv", "report.html")


@dataclass(frozen=True)
class Completion:
    """One case to be segmented.

    Attributes:
        files: its images as they are.
        tasks: how each modality that it lacks is made; none for a case that has all.
        places: of the missing images among the outputs, by modality.
        label_map, panel: their places among the outputs.
    """

    files: CaseFiles
    tasks: tuple[Task, ...]
    places: Mapping[str, str]
    label_map: str
    panel: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that are made of the case, relative to the output folder."""
        return (self.label_map, self.panel, *(name for one in self.places.values() for name in (one, origin_file(one))))

    @property
    def synthesized(self) -> tuple[str, ...]:
        """The modalities that it lacks."""
        return tuple(task.target for task in self.tasks)

    def completed(self, folder: Path) -> CaseFiles:
        """Returns the files with the images that were missing, below the folder of the outputs."""
        made = {name: Image(folder / place) for name, place in self.places.items()}
        return replace(self.files, images={**self.files.images, **made})


def cases_to_complete(
    root: Path, completer: Completer, segmenter: TrainedPhase, display: Display, *, bids: bool = False
) -> tuple[list[Completion], CaseByCase]:
    """Finds the cases below `root`, in a settled order; one that lacks what cannot be made is left out.

    `bids` names what is made of them as derivatives of BIDS.

    Returns:
        Those to be completed, and the batch of all.

    Raises:
        UserError: there is no case, or it has no names of BIDS.
    """
    data = segmenter.data
    cases = volume_root(root, source=data.source, layout=data.layout, entities=data.entities)
    names = CaseNames(bids=bids)
    names.check(cases.layout)

    def completion(one: Finding) -> Completion:
        files = data.there(CaseFiles(one.id, one.images, group=one.group))
        tasks = completer.tasks(one.id, files.images)
        places = {task.target: names.synthesized(files, task.target, cases.place) for task in tasks}
        panel = f"figures/{one.id}.png" if bids else f"{one.id}.png"
        return Completion(files, tasks, places, names.label_map(files), panel)

    found = cases.survey(completer.reads)
    batch = CaseByCase([one.id for one in found], display.say)
    return list(batch.sound({one.id: one for one in found}, completion).values()), batch


def summary(cases: Sequence[Completion], makes: Sequence[str]) -> str:
    """Says how many cases there are, and how many of them lack something."""
    lacking, what = sum(bool(case.tasks) for case in cases), ", ".join(makes)
    some = what if len(makes) == 1 else f"some of {what}"
    return f"{len(cases)} cases, {lacking} without {some}, {len(cases) - lacking} segmented as they are"


def impute(
    makers: Sequence[TrainedPhase],
    segmenters: Sequence[TrainedPhase],
    root: Path,
    output: Path,
    display: Display,
    *,
    overwrite: bool = False,
    devices: Sequence[Any] = (),
    bids: bool = False,
) -> Path:
    """Completes and segments all cases below `root`; returns the path of the report, which lies in `output`.

    Args:
        bids: names label maps and synthesized volumes as derivatives of BIDS.
        devices: they share the cases; none: the first one does them all.

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: some cases cannot be done; the others are, and the report names those left out.
    """
    check_skills(makers)
    scheme = check_labels(segmenters)
    devices = devices or first_device()
    completer = completer_for(makers, segmenters[0], devices)
    cases, batch = cases_to_complete(root, completer, segmenters[0], display, bids=bids)
    described = CaseNames(bids=bids).descriptions(scheme, f"{completer.name}, {_names(segmenters)}")
    reads, names = reads_of(root, (case.files for case in cases)), [name for case in cases for name in case.outputs]
    names += [*described, *_OF_ALL]
    outputs = open_outputs(output, "--output", reads=reads, names=names, overwrite=overwrite)
    makes = completer.makes
    display.say(f"{completer.skill} by {completer.name}, labels by {_names(segmenters)}")
    display.say(summary(cases, makes))
    for sentence in (said for case in cases for said in completer.never_shown(case.files.id, case.tasks)):
        display.say(sentence)
    backgrounds, done = dict[str, Sequence[float | None]](), list[CompletedCase]()
    tell = display.tally(len(cases))
    with closing(conveyed(cases, _work(completer, segmenters, outputs, devices), devices)) as belt:
        for number, (case, result) in enumerate(belt, start=1):
            with batch.case(case.files.id):
                one, backgrounds[case.files.id] = result()
                done.append(replace(one, panel=outputs.folder / case.panel))
                tell(f"{output / case.label_map}, {_used(one, makes)}", number)
    if warning := untold(backgrounds):
        display.say(f"Warning: {warning}")
    if done:
        facts = [("Synthesis", _names(makers)), ("Segmentation", _names(segmenters)), ("Input", str(root))]
        write_descriptions(outputs, described)
        with outputs.together() as folder:
            write_rows(folder / _TABLE, _rows(done, batch.refused, makes))
            sources = "the others" if completer.skill.any_of else " and ".join(completer.skill.sources)
            shown = {"targets": makes, "sources": sources, "facts": facts, "left_out": batch.refused}
            write_completed_report(folder / _REPORT, done, **shown)
    batch.end()
    return outputs.folder / _REPORT


def volumes_ml(labels: Labels, scheme: LabelScheme, spacing_mm: Spacing) -> dict[str, float]:
    """Measures the volume of each region of the scheme, in ml; `labels` are class indices."""
    voxel_ml = voxel_size(spacing_mm) / 1000
    return {region: int(np.isin(labels, classes).sum()) * voxel_ml for region, classes in scheme.regions.items()}


def _names(phases: Sequence[TrainedPhase]) -> str:
    return ", ".join(one.name for one in phases)


def _used(case: CompletedCase, makes: Sequence[str]) -> str:
    if case.synthesized:
        return f"{', '.join(case.synthesized)} synthesized"
    return f"with its own {makes[0]}" if len(makes) == 1 else "as it is"


def _rows(
    done: Sequence[CompletedCase], left_out: Mapping[str, str], makes: Sequence[str]
) -> list[dict[str, str | float]]:
    """One row per case; the volumes of one that was left out are not known."""
    regions = list(done[0].volumes_ml)
    rows = [
        {
            "case": one.id,
            **{name: "synthesized" if name in one.synthesized else "own" for name in makes},
            **{f"{region}_ml": one.volumes_ml[region] for region in regions},
            "left_out": "",
        }
        for one in done
    ]
    nothing = {**dict.fromkeys(makes, ""), **{f"{region}_ml": math.nan for region in regions}}
    return rows + [{"case": case, **nothing, "left_out": sentence} for case, sentence in left_out.items()]


def _work(
    completer: Completer, segmenters: Sequence[TrainedPhase], outputs: Outputs, devices: Sequence[Any]
) -> Work[Completion, tuple[Completion, Prepared | Lacking], Completed, Completed]:
    """A case is read ahead; what comes after that needs the device twice, and stays together."""
    labeler, makers = case_labeler(segmenters, devices), completer.maker.phases
    scheme, drawing = segmenters[0].scheme, Lock()

    def read(case: Completion) -> tuple[Completion, Prepared | Lacking]:
        for target in completer.makes:
            if target in case.files.images:
                _check_taken(case.files, target)
        return case, completer.read(case.files) if case.tasks else labeler.read(case.files)

    def make(given: tuple[Completion, Prepared | Lacking], device: object) -> Completed:
        with outputs.together() as folder:
            return complete(*given, device, folder)

    def complete(case: Completion, given: Prepared | Lacking, device: object, folder: Path) -> Completed:
        files = case.files
        if isinstance(given, Lacking):
            volumes = given.volumes(device)
            for task in case.tasks:
                path = folder / case.places[task.target]
                path.parent.mkdir(parents=True, exist_ok=True)
                write_synthesized(path, volumes[task.target], files, task, makers)
            # Read back from the files: labels are those that anyone gets from the volumes as written.
            given = labeler.read(case.completed(folder))
        prepared = given
        found = labeler.labeled(prepared, device)
        labels = on_networks_grid(found.labels, prepared) if found.case is not prepared else found.labels
        like = next(files.images[name] for name in completer.reads if name in files.images)
        note = synthesized_note(case.tasks) or None
        for name in (case.label_map, case.panel):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_labels(folder / case.label_map, found.labels, found.case, scheme, like=like, description=note)
        panel = folder / case.panel
        with drawing:  # Matplotlib is not made for threads
            title = f"{files.id}: {_origin(case.tasks, makers[0].name)}"
            _draw(panel, prepared, labels, scheme, title, synthesized=case.synthesized)
        measured = volumes_ml(found.labels, scheme, found.case.facts.steps_mm)
        return CompletedCase(files.id, case.synthesized, measured, panel), prepared.facts.background

    return Work(read, make, lambda case, completed: completed)


def _origin(tasks: Sequence[Task], maker: str) -> str:
    if not tasks:
        return "as it was taken"
    made = ", ".join(task.target for task in tasks)
    return f"{made} from {' and '.join(tasks[0].sources)}, synthesized by {maker}"


def _check_taken(files: CaseFiles, target: str) -> None:
    """Refuses an image that is 0 everywhere, as some data sets have in place of one that was not taken."""
    image = files.images[target]
    if not image.read().array.any():
        raise UserError(
            f"case {files.id}: {target} is 0 everywhere; if it was not taken, remove {image.path}, and it will be "
            "synthesized"
        )


def _draw(
    path: Path, prepared: Prepared, labels: Labels, scheme: LabelScheme, title: str, *, synthesized: Sequence[str]
) -> None:
    """Draws a case and its labels; modalities that were `synthesized` are marked."""
    figures.segmentation_panel(
        path,
        image=prepared.image,
        modalities=[f"{m} (synthesized)" if m in synthesized else m for m in prepared.facts.modalities],
        truth=None,
        predictions={"segmentation": labels},
        classes=scheme.classes,
        title=title,
        spacing_mm=prepared.facts.spacing_mm,
    )
