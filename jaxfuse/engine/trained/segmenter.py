"""The networks that label cases, alone or averaged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxfuse.data.slices import AXES
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.trained.chosen_devices import first_device, weights_on
from jaxfuse.engine.trained.passes import PATCHES, Passes, each_of
from jaxfuse.engine.trained.phases import LABELS, TrainedPhase
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme
from jaxfuse.prediction.ensemble import Ensemble, Member
from jaxfuse.prediction.labeler import CaseLabeler
from jaxfuse.prediction.postprocessed import Postprocessing


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
        ensembles = {device: ensemble.on(partial(weights_on, device)) for device in devices or first_device()}
    return CaseLabeler(phases[0].preparation, ensembles, phases[0].phase.mask_to_brain, postprocessing)
