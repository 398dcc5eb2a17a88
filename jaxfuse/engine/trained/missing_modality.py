"""Cases that may lack one modality: it is synthesized where it is missing, then all are segmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.sources.volumes import VolumeSource, source_of
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.segmenter import Labels, case_labeler, check_labels, write_labels
from jaxfuse.engine.trained.synthesizer import (
    DESCRIPTION,
    check_synthesis,
    task_of,
    volume_maker,
    write_synthesized,
)
from jaxfuse.errors import UserError
from jaxfuse.io.folders import writable_folder
from jaxfuse.io.tables import write_rows
from jaxfuse.labels import LabelScheme
from jaxfuse.metrics.distances import Spacing, voxel_size
from jaxfuse.report import figures
from jaxfuse.report.completed import CompletedCase, write_completed_report


@dataclass(frozen=True)
class Completion:
    """One case to be segmented.

    Attributes:
        files: its images as they are.
        lacks: place of the missing image in the case's folder; None for a case that has it.
    """

    files: CaseFiles
    lacks: Path | None

    def completed(self, modality: str, path: Path) -> CaseFiles:
        """Returns the files with the image that was missing."""
        return replace(self.files, images={**self.files.images, modality: Image(path)})


def check_runs(maker: TrainedPhase, segmenter: TrainedPhase) -> VolumeSource:
    """Returns the kind of data set of both; refuses a segmentation that has no use for what is synthesized."""
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
    return labeled


def cases_to_complete(root: Path, maker: TrainedPhase, segmenter: TrainedPhase) -> tuple[Completion, ...]:
    """Finds the cases below `root`, in a settled order.

    Raises:
        UserError: the runs do not go together, there is no case, or one lacks more than the synthesized modality.
    """
    source, task, read = check_runs(maker, segmenter), task_of(maker), segmenter.preparation.modalities
    layout = segmenter.data.layout or source.detect(root)
    found = []
    for one in source.survey(root, tuple(dict.fromkeys((*read, *task.sources))), layout):
        lacking = task.target in one.missing
        needed = {*read, *task.sources} if lacking else set(read)
        if others := [name for name in one.missing if name in needed and name != task.target]:
            raise UserError(
                f"case {one.id} has no {' and no '.join(others)} image, and {maker.name} makes {task.target} alone; "
                "add the file or leave the case out"
            )
        files = CaseFiles(one.id, one.images, group=one.group)
        found.append(Completion(files, source.place(one.id, task.target, layout) if lacking else None))
    return tuple(found)


def check_output(root: Path, output: Path) -> None:
    """Refuses to write among the cases, where a synthesized image would later pass for a real one."""
    if output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--output {output} lies within --input {root}, among real images; name a folder elsewhere")


def summary(cases: Sequence[Completion], target: str) -> str:
    """Says how many cases there are, and how many of them lack the modality."""
    lacking = sum(case.lacks is not None for case in cases)
    return f"{len(cases)} cases, {lacking} without {target}, {len(cases) - lacking} segmented as they are"


def impute(
    makers: Sequence[TrainedPhase], segmenters: Sequence[TrainedPhase], root: Path, output: Path, display: Display
) -> Path:
    """Completes and segments all cases below `root`; returns the path of the report, which lies in `output`."""
    check_output(root, output)
    task, scheme = check_synthesis(makers), check_labels(segmenters)
    cases = cases_to_complete(root, makers[0], segmenters[0])
    output = writable_folder(output, "--output")
    display.say(f"{task} by {_names(makers)}, labels by {_names(segmenters)}")
    display.say(summary(cases, task.target))
    complete, label, done = _completer(makers, output), case_labeler(segmenters), []
    for case, tell in display.counted(cases):
        path, made = output / f"{case.files.id}.nii.gz", case.lacks is not None
        # Read back from the file: labels are those that anyone gets from the volumes as written.
        prepared, labels = label(complete(case))
        like = next(case.files.images[name] for name in prepared.facts.modalities if name in case.files.images)
        description = f"{task.target} {DESCRIPTION}" if made else None
        write_labels(path, labels, prepared, scheme, like=like, description=description)
        origin = f"{task}, synthesized by {makers[0].name}" if made else "as it was taken"
        panel = path.with_name(f"{case.files.id}.png")
        _draw(panel, prepared, labels, scheme, f"{case.files.id}: {origin}", synthesized=task.target if made else "")
        done.append(CompletedCase(case.files.id, made, volumes_ml(labels, scheme, prepared.facts.steps_mm), panel))
        tell(f"{path}, " + (f"{task.target} synthesized" if made else f"with its own {task.target}"))
    write_rows(output / "cases.csv", [_row(one, task.target) for one in done])
    facts = [("Synthesis", _names(makers)), ("Segmentation", _names(segmenters)), ("Input", str(root))]
    report = output / "report.html"
    write_completed_report(report, done, target=task.target, sources=task.sources, facts=facts)
    return report


def volumes_ml(labels: Labels, scheme: LabelScheme, spacing_mm: Spacing) -> dict[str, float]:
    """Measures the volume of each region of the scheme, in ml; `labels` are class indices."""
    voxel_ml = voxel_size(spacing_mm) / 1000
    return {region: int(np.isin(labels, classes).sum()) * voxel_ml for region, classes in scheme.regions.items()}


def _names(phases: Sequence[TrainedPhase]) -> str:
    return ", ".join(one.name for one in phases)


def _row(one: CompletedCase, target: str) -> dict[str, str | float]:
    volumes = {f"{region}_ml": volume for region, volume in one.volumes_ml.items()}
    return {"case": one.id, target: "synthesized" if one.synthesized else "own", **volumes}


def _completer(makers: Sequence[TrainedPhase], output: Path) -> Callable[[Completion], CaseFiles]:
    """A function from a case to its files, with the missing one written if there is one."""
    make, task = volume_maker(makers), task_of(makers[0])

    def complete(case: Completion) -> CaseFiles:
        if case.lacks is None:
            return case.files
        path = output / case.files.id / case.lacks
        write_synthesized(path, make(load_case(case.files, task.sources, None)), case.files, makers)
        return case.completed(task.target, path)

    return complete


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
