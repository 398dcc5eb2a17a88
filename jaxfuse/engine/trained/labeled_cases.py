"""Label maps of all cases below a folder, as files and as one archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.facts import counted
from jaxfuse.data.prepared import Prepared
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.carried_out import Assignment, Call, Written
from jaxfuse.engine.trained.case_names import PLAIN, CaseNames, write_descriptions
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.completer import Lacking
from jaxfuse.engine.trained.incomplete import REFUSED, Missing, told
from jaxfuse.engine.trained.labeling import Labeling
from jaxfuse.engine.trained.passes import PATCHES, Passes
from jaxfuse.engine.trained.phases import TrainedPhase, one_kind, weights_digest
from jaxfuse.engine.trained.postprocessed import postprocessing_of
from jaxfuse.engine.trained.segmenter import case_labeler, check_labels
from jaxfuse.engine.trained.sides import cases_of_side
from jaxfuse.io.archive import check_name, write_zip
from jaxfuse.io.outputs import Outputs, Read, check_writable, keep_apart, open_outputs
from jaxfuse.postprocessing.option import AUTO
from jaxfuse.prediction.conveyor import Work
from jaxfuse.prediction.labeler import Labeled, write_labels
from jaxfuse.prediction.postprocessed import warning_of
from jaxfuse.prediction.probability_maps import write_maps


def label_cases(
    phases: Sequence[TrainedPhase],
    root: Path,
    output: Path,
    display: Display,
    *,
    passes: Passes = PATCHES,
    named: CaseNames = PLAIN,
    archive: Path | None = None,
    postprocessing: str = AUTO,
    missing: Missing = REFUSED,
    call: Call = Call(),  # noqa: B008 - it is frozen
) -> None:
    """Writes the label map of every case below `root`, as OUTPUT/<case>.nii.gz or as `named` has it.

    Args:
        named: the files of each case, maps of its probabilities among them.
        archive: zip file of all label maps, written where no case was left out.
        missing: what is done with cases that lack modalities.
        postprocessing: auto, none, or the file of a plan (`jaxfuse.engine.trained.postprocessed`).

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: some cases cannot be labeled; the others are.
    """
    one_kind(phases)
    scheme, after = check_labels(phases), postprocessing_of(phases, postprocessing)
    only, devices = cases_of_side(phases, call.side), call.devices or first_device()
    completer = missing.completer(phases, devices)
    given = missing.cases(completer, phases[0], root, display.say, only)
    named.check(given.layout)
    runs = ", ".join(one.name for one in phases)
    described = named.descriptions(scheme, runs)
    every = [*(name for one in given.files for name in named.of(one)), *described]
    outputs = open_outputs(output, "--output", reads=given.reads, names=every, overwrite=call.overwrite)
    zipped = _open_archive(archive, given.reads, call.overwrite) if archive else None
    labeler = case_labeler(phases, devices, passes=passes, postprocessing=after)
    display.say(f"{_told(given.files, call.side)} by {runs}; labels of scheme {scheme.name}")
    for sentence in told(given.files, phases, completer):
        display.say(sentence)
    if after:
        display.say(after.told())
    chosen_on: list[str] = []

    def close() -> None:
        write_descriptions(outputs, described)
        if zipped and archive:
            whole = [] if given.batch.refused else [outputs.folder / named.label_map(one) for one in given.files]
            display.say(_write_archive(archive, zipped, whole))
        if warning := warning_of(sorted(chosen_on)):
            display.say(warning)

    options: dict[str, Any] = {**asdict(passes), **asdict(named), "zip": archive and str(archive.absolute())}
    options |= {"spacing": labeler.preparation.spacing_range_mm, "missing": missing.policy}
    options["postprocessing"] = after and after.plan.digest
    if completer and call.shared:
        options["synthesis"] = [(one.name, weights_digest(one.weights())) for one in completer.maker.phases]
    stages = partial(_stages, Labeling(labeler, scheme, completer), named, chosen_on)
    Assignment(phases, root, output, given, outputs, options).carry_out(stages, call, devices, display, close)


def _stages(
    labeling: Labeling, named: CaseNames, chosen_on: list[str], outputs: Outputs
) -> Work[CaseFiles, Prepared | Lacking, Labeled, Written]:
    """The stages of each case; `chosen_on` takes those that the post-processing was chosen on."""
    after = labeling.labeler.postprocessing

    def write(files: CaseFiles, made: Labeled) -> Written:
        names, facts, like = named.of(files), made.case.facts, labeling.like(files)
        note = labeling.description(files, made)
        with outputs.together() as folder:
            (folder / names[0]).parent.mkdir(parents=True, exist_ok=True)
            write_labels(folder / names[0], made.labels, made.case, labeling.scheme, like=like, description=note)
            if made.probabilities is not None:
                paths = {one: folder / name for one, name in named.maps_of(files).items()}
                write_maps(paths, made.probabilities, like=like)
        if after and after.chosen_on(facts):
            chosen_on.append(files.id)
        return Written(names, facts.background)

    return Work(labeling.read, partial(labeling.label, keep=bool(named.maps)), write)


def _open_archive(archive: Path, reads: Sequence[Read], overwrite: bool) -> Outputs:
    """Checks what can be checked of the zip file; unlike a folder it may lie beside what is read, but not among it."""
    check_name(archive, "--zip")
    folder = archive.absolute().parent
    keep_apart(folder, "--zip", [one for one in reads if folder.resolve() not in one[1].resolve().parents])
    check_writable(folder, "--zip")
    zipped = Outputs(folder, "--zip", frozenset([archive.name]), overwrite)
    zipped.check()
    return zipped


def _write_archive(archive: Path, zipped: Outputs, files: Sequence[Path]) -> str:
    """Writes the zip file where there are files for it, and says what came of it."""
    if not files:
        return f"{archive} is not written, for cases were left out"
    with zipped.together() as folder:
        write_zip(folder / archive.name, files)
    return f"{len(files)} label maps in {archive}"


def _told(files: Sequence[CaseFiles], side: str) -> str:
    return counted(len(files), "case") + (f" of the side {side}" if side else "")
