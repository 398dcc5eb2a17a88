"""Label maps of cases by trained networks, alone or averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.resample import as_acquired, on_acquired_grid, probabilities_on_acquired_grid
from jaxfuse.data.slices import AXES
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.ensemble import Ensemble, Member
from jaxfuse.engine.trained.passes import PATCHES, Passes, each_of
from jaxfuse.engine.trained.phases import LABELS, Preparation, TrainedPhase
from jaxfuse.engine.trained.postprocessed import Postprocessing
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.nifti import Grid, write_like
from jaxfuse.labels import LabelScheme
from jaxfuse.postprocessing.thresholds import most_probable

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
    phases: Sequence[TrainedPhase], *, passes: Passes = PATCHES, where: Placement | None = None
) -> Ensemble:
    """Returns the mean of the phases' class probabilities, of which all count equally.

    Networks of slices go over the volume each along the axis that it was trained on, so that phases trained on
    sagittal, coronal and axial slices give the aggregated views of the InfiNet paper. Each is given the case's channels
    in its own order. `passes` replace the settings of the phases' validation, of each as far as it means something
    there. `where` are devices that share each tile.
    """
    where, members = where or one_device(), {}
    each = each_of(passes, [(one.name, one.phase, one.system.geometry, AXES[one.data.axis]) for one in phases])
    for number, (one, own) in enumerate(zip(phases, each, strict=True)):
        predictor = case_predictor(one.system, one.phase, axis=AXES[one.data.axis], passes=own, where=where)
        weights = one.weights() if where.mesh is None else where.keep(one.weights())
        members[f"{number}: {one.name}"] = Member(predictor, weights, one.preparation.in_channels)
    return Ensemble(members)


@dataclass(frozen=True)
class Labeled:
    """A case with its labels.

    Attributes:
        case: the case on the grid that the labels lie on: that of the network, cropped, or where the case was resampled
            the whole grid of its files.
        labels: class indices.
        probabilities: on the whole grid of the files, where they were asked for; float32.
    """

    case: Prepared
    labels: Labels
    probabilities: Float[np.ndarray, "_ _ _ k"] | None = None


@dataclass(frozen=True)
class CaseLabeler:
    """Label maps of cases by the mean of trained networks, on any of several devices.

    Attributes:
        ensembles: by device or group of devices; threads may label at once, each on a device or group of its own.
        masked: whether label maps are background outside the brain.
        postprocessing: what is done with them at the end; None for nothing.
    """

    preparation: Preparation
    ensembles: Mapping[Any, Ensemble]
    masked: bool
    postprocessing: Postprocessing | None = None

    def read(self, files: CaseFiles) -> Prepared:
        """Reads and prepares a case; its label file, if there is one, is not opened.

        A prediction must not depend on it.
        """
        there = [name for name in self.preparation.modalities if name in files.images]
        return self.preparation.prepare(load_case(files, there, None))

    def labels(self, case: Prepared, device: Any) -> Labels:
        """Returns class indices on the network's grid, cropped."""
        ensemble, weights = self.ensembles[device], self._weights
        found = ensemble.labels(case) if weights is None else most_probable(ensemble.probabilities(case), weights)
        return self._finished(found, case)

    @property
    def _weights(self) -> Float[np.ndarray, " k"] | None:
        """The factors of classes that the post-processing asks for."""
        return self.postprocessing.plan.weights if self.postprocessing else None

    def labeled(self, case: Prepared, device: Any, *, keep: bool = False) -> Labeled:
        """Returns the labels as they are written, and their probabilities where these are to be kept.

        The labels are the most probable classes, by the factors of the post-processing if it has any; of a case that
        was resampled they are those on the grid of its files, on which probabilities are interpolated, as in nnU-Net.
        """
        resampled = bool(case.facts.acquired_shape)
        if not (keep or resampled):
            return Labeled(case, self.labels(case, device))
        own = self.ensembles[device].probabilities(case)
        whole = probabilities_on_acquired_grid(own, case)
        there = as_acquired(case) if resampled else case
        labels = most_probable(whole if resampled else own, self._weights)
        return Labeled(there, self._finished(labels, there), whole if keep else None)

    def _finished(self, labels: Labels, case: Prepared) -> Labels:
        """Masks and post-processes the most probable classes of a case, on any grid that it lies on."""
        labels = masked_labels(labels, case.brain) if self.masked else labels
        return self.postprocessing(labels, case) if self.postprocessing else labels


def case_labeler(
    phases: Sequence[TrainedPhase],
    devices: Sequence[Any] = (),
    *,
    passes: Passes = PATCHES,
    postprocessing: Postprocessing | None = None,
) -> CaseLabeler:
    """Returns the labels by the mean of these phases, on these devices or groups; by default on the first one."""
    groups = [one for one in devices if isinstance(one, Placement)]
    ensembles = {one: ensemble_of(phases, passes=passes, where=one) for one in groups}
    if not groups:
        ensemble = ensemble_of(phases, passes=passes)
        ensembles = {device: ensemble.on(device) for device in devices or first_device()}
    return CaseLabeler(phases[0].preparation, ensembles, phases[0].phase.mask_to_brain, postprocessing)


def label_values(labels: Labels, prepared: Prepared, scheme: LabelScheme) -> UInt8[np.ndarray, "_ _ _"]:
    """Returns class indices as the values of label files, on the whole canonical grid of a case's files."""
    decoded = np.array(scheme.decode, np.uint8)[labels]
    return on_acquired_grid(uncrop(decoded, prepared, 0), prepared.facts)


def write_labels(
    path: Path, labels: Labels, prepared: Prepared, scheme: LabelScheme, *, like: Image, description: str | None = None
) -> None:
    """Writes class indices as `label_values` has them, on the grid of the image `like`."""
    write_label_values(path, label_values(labels, prepared, scheme), like.grid, like.channel, description)


def write_label_values(path: Path, values: Labels, grid: Grid, channel: int | None, description: str | None) -> None:
    """Writes label values on a grid, with what the header says of them."""
    write_like(path, values, grid, channel=channel, dtype="uint8", description=description)
