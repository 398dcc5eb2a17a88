"""Label maps of cases by trained networks, alone or averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxfuse.data.brain import untold
from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.facts import counted
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.slices import AXES
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.ensemble import Ensemble, Member
from jaxfuse.engine.trained.given_cases import cases_of_side, given_cases
from jaxfuse.engine.trained.phases import LABELS, TrainedPhase, one_kind
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.archive import check_name, write_zip
from jaxfuse.io.nifti import write_like
from jaxfuse.io.outputs import Outputs, Read, check_writable, keep_apart, open_outputs
from jaxfuse.labels import LabelScheme

Labels = UInt8[np.ndarray, "d h w"]


def check_labels(phases: Sequence[TrainedPhase]) -> LabelScheme:
    """Returns the scheme that all of these label in.

    Raises:
        UserError: one makes no label map, or their probabilities cannot be averaged: they label in other schemes, read
            other modalities, or want cases prepared in another way.
    """
    first, *_ = schemes = [one.scheme for one in phases]
    for one in phases:
        if one.makes != LABELS:
            raise UserError(
                f"phase {one.phase.name} of {one.workdir} makes {one.makes}, no label map; name another phase"
            )
    if len({one.phase.mask_to_brain for one in phases}) > 1:
        raise UserError(
            f"{', '.join(one.name for one in phases)} cannot be averaged: mask_to_brain is True for some of them and "
            "False for others; predict with each alone"
        )
    for other, scheme in zip(phases, schemes, strict=True):
        if (scheme, other.preparation) != (first, phases[0].preparation):
            raise UserError(f"{phases[0].name} and {other.name} cannot be averaged: {_difference(phases[0], other)}")
    return first


def _difference(first: TrainedPhase, other: TrainedPhase) -> str:
    one, two = first.preparation, other.preparation
    if (first.scheme.name, one.normalize) != (other.scheme.name, two.normalize):
        return (
            f"label schemes {first.scheme.name} and {other.scheme.name}, normalization {one.normalize} and "
            f"{two.normalize}"
        )
    if set(one.modalities) != set(two.modalities):
        return (
            f"they read the modalities {', '.join(one.modalities)} and {', '.join(two.modalities)}; predict with each "
            "alone"
        )
    return (
        "their intensities are matched to other landmarks, or their slices show other windows; predict with each alone"
    )


def ensemble_of(
    phases: Sequence[TrainedPhase], *, overlap: float | None = None, memory_mb: int | None = None
) -> Ensemble:
    """Returns the mean of the phases' class probabilities, of which all count equally.

    Networks of slices go over the volume each along the axis that it was trained on, so that phases trained on
    sagittal, coronal and axial slices give the aggregated views of the InfiNet paper. Each is given the case's channels
    in its own order. `overlap` and `memory_mb` replace those of the phases' validation.
    """
    members = {}
    for number, (one, limit) in enumerate(zip(phases, _limits(phases, memory_mb), strict=True)):
        axis = AXES[one.data.axis]
        predictor = case_predictor(one.system, one.phase, axis=axis, overlap=overlap, memory_mb=limit)
        members[f"{number}: {one.name}"] = Member(predictor, one.weights(), one.preparation.in_channels)
    return Ensemble(members)


def _limits(phases: Sequence[TrainedPhase], memory_mb: int | None) -> list[int | None]:
    """The limit for those phases whose tiles it can change; refused if there is none."""
    limits = [memory_mb if one.system.geometry.margin else None for one in phases]
    if memory_mb and not any(limits):
        raise UserError(
            f"memory_mb is {memory_mb}, but no network of {', '.join(one.name for one in phases)} has valid "
            "convolutions: they predict in tiles of their training patch; leave it out"
        )
    return limits


def case_labeler(
    phases: Sequence[TrainedPhase], *, overlap: float | None = None, memory_mb: int | None = None
) -> Callable[[CaseFiles], tuple[Prepared, Labels]]:
    """Returns a function from a case's files to the prepared case and its class indices on the cropped grid."""
    preparation, ensemble = phases[0].preparation, ensemble_of(phases, overlap=overlap, memory_mb=memory_mb)
    masked = phases[0].phase.mask_to_brain

    def label(files: CaseFiles) -> tuple[Prepared, Labels]:
        # The label file, if there is one, is not opened: a prediction must not depend on it.
        prepared = preparation.prepare(load_case(files, preparation.modalities, None))
        labels = ensemble.labels(prepared)
        return prepared, masked_labels(labels, prepared.brain) if masked else labels

    return label


def write_labels(
    path: Path, labels: Labels, prepared: Prepared, scheme: LabelScheme, *, like: Image, description: str | None = None
) -> None:
    """Writes class indices as the values of the scheme's label files, on the grid of the image `like`."""
    decoded = np.array(scheme.decode, np.uint8)[labels]
    volume = uncrop(decoded, prepared, 0)
    write_like(path, volume, like.path, channel=like.channel, dtype="uint8", description=description)


def label_cases(
    phases: Sequence[TrainedPhase],
    root: Path,
    output: Path,
    display: Display,
    *,
    overlap: float | None = None,
    memory_mb: int | None = None,
    overwrite: bool = False,
    side: str = "",
    archive: Path | None = None,
) -> None:
    """Writes the label map of every case below `root` as OUTPUT/<case>.nii.gz.

    Args:
        side: only the cases on this side of the runs' split; empty: all.
        archive: zip file of all label maps, written where no case was left out.

    Raises:
        UserError: nothing can be done, or an output is not to be written (`jaxfuse.io.outputs`).
        CasesLeftOut: some cases cannot be labeled; the others are.
    """
    one_kind(phases)
    scheme, modalities = check_labels(phases), phases[0].preparation.modalities
    only = cases_of_side(phases, side)
    given = given_cases(root, phases[0].data, modalities, display.say, only)
    names = [f"{one.id}.nii.gz" for one in given.files]
    outputs = open_outputs(output, "--output", reads=given.reads, names=names, overwrite=overwrite)
    zipped = _open_archive(archive, given.reads, overwrite) if archive else None
    label = case_labeler(phases, overlap=overlap, memory_mb=memory_mb)
    runs = ", ".join(one.name for one in phases)
    display.say(f"{_told(given.files, side)} by {runs}; labels of scheme {scheme.name}")
    backgrounds = {}
    for one, tell in display.counted(given.files):
        with given.batch.case(one.id):
            prepared, labels = label(one)
            backgrounds[one.id] = prepared.facts.background
            with outputs.together() as folder:
                write_labels(folder / f"{one.id}.nii.gz", labels, prepared, scheme, like=one.images[modalities[0]])
            tell(output / f"{one.id}.nii.gz")
    if warning := untold(backgrounds):
        display.say(f"Warning: {warning}")
    if zipped and archive:
        whole = [] if given.batch.refused else [output / name for name in names]
        display.say(_write_archive(archive, zipped, whole))
    given.batch.end()


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
