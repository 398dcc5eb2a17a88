"""Cases that may lack one modality: it is synthesized where it is missing, then all are segmented."""

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
from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.resample import on_networks_grid
from jaxfuse.data.sources.case_folders import Finding
from jaxfuse.data.sources.volumes import source_of, volume_root
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.conveyor import Work, conveyed
from jaxfuse.engine.trained.given_cases import reads_of
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.segmenter import Labels, case_labeler, check_labels, write_labels
from jaxfuse.engine.trained.synthesizer import (
    DESCRIPTION,
    check_synthesis,
    origin_file,
    task_of,
    volume_maker,
    write_synthesized,
)
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.io.tables import write_rows
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.distances import Spacing, voxel_size
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
        lacks: place of the missing image in the case's folder; None for a case that has it.
    """

    files: CaseFiles
    lacks: Path | None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that are made of the case, relative to the output folder."""
        named = (f"{self.files.id}.nii.gz", f"{self.files.id}.png")
        if self.lacks is None:
            return named
        volume = f"{self.files.id}/{self.lacks.as_posix()}"
        return (*named, volume, origin_file(volume))

    def completed(self, modality: str, path: Path) -> CaseFiles:
        """Returns the files with the image that was missing."""
        return replace(self.files, images={**self.files.images, modality: Image(path)})


def check_runs(maker: TrainedPhase, segmenter: TrainedPhase) -> None:
    """Refuses runs on two kinds of data, and a segmentation that has no use for what is synthesized."""
    made_of, labeled = source_of(maker.data.source), source_of(segmenter.data.source)
    target, read = task_of(maker).target, segmenter.preparation.modalities
    if made_of.name != labeled.name:
        raise UserError(
            f"{maker.name} was trained on cases of the kind {made_of.name!r} and {segmenter.name} on {labeled.name!r}; "
            "name two runs on one kind"
        )
    if target not in read:
        raise UserError(
            f"{maker.name} makes {target}, which {segmenter.name} does not read (it reads {', '.join(read)}); name a "
            "run that makes one of these, or segment without"
        )


def cases_to_complete(
    root: Path, maker: TrainedPhase, segmenter: TrainedPhase, display: Display
) -> tuple[list[Completion], CaseByCase]:
    """Finds the cases below `root`, in a settled order; one that lacks more than the synthesized modality is left out.

    Returns:
        Those to be completed, and the batch of all.

    Raises:
        UserError: the runs do not go together, or there is no case.
    """
    check_runs(maker, segmenter)
    task, read = task_of(maker), segmenter.preparation.modalities
    data = segmenter.data
    cases = volume_root(root, source=data.source, layout=data.layout, entities=data.entities)

    def completion(one: Finding) -> Completion:
        lacking = task.target in one.missing
        needed = {*read, *task.sources} if lacking else set(read)
        if others := [name for name in one.missing if name in needed and name != task.target]:
            raise UserError(
                f"case {one.id} has no {' and no '.join(others)} image, and {maker.name} makes {task.target} alone; "
                "add the file or leave the case out"
            )
        files = CaseFiles(one.id, one.images, group=one.group)
        return Completion(files, cases.place(one.id, task.target) if lacking else None)

    found = cases.survey(tuple(dict.fromkeys((*read, *task.sources))))
    batch = CaseByCase([one.id for one in found], display.say)
    return list(batch.sound({one.id: one for one in found}, completion).values()), batch


def summary(cases: Sequence[Completion], target: str) -> str:
    """Says how many cases there are, and how many of them lack the modality."""
    lacking = sum(case.lacks is not None for case in cases)
    return f"{len(cases)} cases, {lacking} without {target}, {len(cases) - lacking} segmented as they are"


def impute(
    makers: Sequence[TrainedPhase],
    segmenters: Sequence[TrainedPhase],
    root: Path,
    output: Path,
    display: Display,
    *,
    overwrite: bool = False,
    devices: Sequence[Any] = (),
) -> Path:
    """Completes and segments all cases below `root`; returns the path of the report, which lies in `output`.

    Args:
        devices: they share the cases; none: the first one does them all.

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: some cases cannot be done; the others are, and the report names those left out.
    """
    task, _ = check_synthesis(makers), check_labels(segmenters)
    cases, batch = cases_to_complete(root, makers[0], segmenters[0], display)
    reads, names = reads_of(root, (case.files for case in cases)), [name for case in cases for name in case.outputs]
    outputs = open_outputs(output, "--output", reads=reads, names=[*names, *_OF_ALL], overwrite=overwrite)
    display.say(f"{task} by {_names(makers)}, labels by {_names(segmenters)}")
    display.say(summary(cases, task.target))
    backgrounds, done = dict[str, Sequence[float | None]](), list[CompletedCase]()
    devices, tell = devices or first_device(), display.tally(len(cases))
    with closing(conveyed(cases, _work(makers, segmenters, outputs, devices), devices)) as belt:
        for number, (case, result) in enumerate(belt, start=1):
            with batch.case(case.files.id):
                one, backgrounds[case.files.id] = result()
                done.append(replace(one, panel=outputs.folder / one.panel.name))
                used = f"{task.target} synthesized" if one.synthesized else f"with its own {task.target}"
                tell(f"{output / case.files.id}.nii.gz, {used}", number)
    if warning := untold(backgrounds):
        display.say(f"Warning: {warning}")
    if done:
        facts = [("Synthesis", _names(makers)), ("Segmentation", _names(segmenters)), ("Input", str(root))]
        with outputs.together() as folder:
            write_rows(folder / _TABLE, _rows(done, batch.refused, task.target))
            shown = {"target": task.target, "sources": task.sources, "facts": facts, "left_out": batch.refused}
            write_completed_report(folder / _REPORT, done, **shown)
    batch.end()
    return outputs.folder / _REPORT


def volumes_ml(labels: Labels, scheme: LabelScheme, spacing_mm: Spacing) -> dict[str, float]:
    """Measures the volume of each region of the scheme, in ml; `labels` are class indices."""
    voxel_ml = voxel_size(spacing_mm) / 1000
    return {region: int(np.isin(labels, classes).sum()) * voxel_ml for region, classes in scheme.regions.items()}


def _names(phases: Sequence[TrainedPhase]) -> str:
    return ", ".join(one.name for one in phases)


def _rows(done: Sequence[CompletedCase], left_out: Mapping[str, str], target: str) -> list[dict[str, str | float]]:
    """One row per case; the volumes of one that was left out are not known."""
    regions = list(done[0].volumes_ml)
    rows = [
        (one.id, "synthesized" if one.synthesized else "own", [one.volumes_ml[region] for region in regions], "")
        for one in done
    ]
    rows += [(case, "", [math.nan] * len(regions), sentence) for case, sentence in left_out.items()]
    names = [f"{region}_ml" for region in regions]
    return [
        {"case": case, target: used, **dict(zip(names, volumes, strict=True)), "left_out": sentence}
        for case, used, volumes, sentence in rows
    ]


def _work(
    makers: Sequence[TrainedPhase], segmenters: Sequence[TrainedPhase], outputs: Outputs, devices: Sequence[Any]
) -> Work[Completion, tuple[Completion, Prepared], Completed, Completed]:
    """A case is read ahead; what comes after that needs the device twice, and stays together."""
    maker, labeler, task = volume_maker(makers, devices=devices), case_labeler(segmenters, devices), task_of(makers[0])
    scheme, drawing = segmenters[0].scheme, Lock()

    def read(case: Completion) -> tuple[Completion, Prepared]:
        if case.lacks is not None:
            return case, maker.prepare(load_case(case.files, task.sources, None))
        _check_taken(case.files, task.target)
        return case, labeler.read(case.files)

    def make(given: tuple[Completion, Prepared], device: object) -> Completed:
        with outputs.together() as folder:
            return complete(*given, device, folder)

    def complete(case: Completion, prepared: Prepared, device: object, folder: Path) -> Completed:
        files, made = case.files, case.lacks is not None
        if case.lacks is not None:
            path = folder / files.id / case.lacks
            write_synthesized(path, maker.make(prepared, device), files, makers)
            # Read back from the file: labels are those that anyone gets from the volumes as written.
            prepared = labeler.read(case.completed(task.target, path))
        found = labeler.labeled(prepared, device)
        labels = on_networks_grid(found.labels, prepared) if found.case is not prepared else found.labels
        like = next(files.images[name] for name in labeler.preparation.modalities if name in files.images)
        description = f"{task.target} {DESCRIPTION}" if made else None
        write_labels(
            folder / f"{files.id}.nii.gz", found.labels, found.case, scheme, like=like, description=description
        )
        origin = f"{task}, synthesized by {makers[0].name}" if made else "as it was taken"
        panel, marked = folder / f"{files.id}.png", task.target if made else ""
        with drawing:  # Matplotlib is not made for threads
            _draw(panel, prepared, labels, scheme, f"{files.id}: {origin}", synthesized=marked)
        volumes = volumes_ml(found.labels, scheme, found.case.facts.steps_mm)
        return CompletedCase(files.id, made, volumes, panel), prepared.facts.background

    return Work(read, make, lambda case, completed: completed)


def _check_taken(files: CaseFiles, target: str) -> None:
    """Refuses an image that is 0 everywhere, as some data sets have in place of one that was not taken."""
    image = files.images[target]
    if not image.read().array.any():
        raise UserError(
            f"case {files.id}: {target} is 0 everywhere; if it was not taken, remove {image.path}, and it will be "
            "synthesized"
        )


def _draw(path: Path, prepared: Prepared, labels: Labels, scheme: LabelScheme, title: str, *, synthesized: str) -> None:
    """Draws a case and its labels; the modality that was `synthesized`, if there is one, is marked."""
    figures.segmentation_panel(
        path,
        image=prepared.image,
        modalities=[f"{m} (synthesized)" if m == synthesized else m for m in prepared.facts.modalities],
        truth=None,
        predictions={"segmentation": labels},
        classes=scheme.classes,
        title=title,
        spacing_mm=prepared.facts.spacing_mm,
    )
