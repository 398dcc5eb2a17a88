"""The preparation of cases for networks, as a record that survives JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from jaxfuse.data.brain import AUTO, background_rule
from jaxfuse.data.cases import Case
from jaxfuse.data.facts import tuples
from jaxfuse.data.intensities import Landmarks, Normalization, normalization
from jaxfuse.data.prepared import Prepared, with_absent
from jaxfuse.data.resample import prepare_resampled
from jaxfuse.data.slices import AXES, View, Window
from jaxfuse.errors import UserError
from jaxfuse.prediction.spacing import Range, axes_across, check_spacing


@dataclass(frozen=True, eq=False)
class Preparation:
    """The settings that prepare a case for a network; a record that survives JSON.

    Two are equal if they prepare a case alike, so that the outputs of both networks may be averaged. The order of
    modalities, the channels and the spacing do not count; the axis counts only with a window or with blank slices.

    Attributes:
        modalities: images that a case must have.
        channels: modalities in the order of the network's input channels; 0 stands for those not in `modalities`.
        normalize: the name of a rule of `jaxfuse.data.intensities`.
        landmarks: modality -> levels that percentiles of the brain are mapped onto, with "histmatch"; else empty.
        axis: of slices: "axial", "coronal" or "sagittal"; "" for volumes.
        window: of slices: the range of voxels that pictures show; () for the box of the brain.
        blank_slices: of slices: whether those without brain are kept.
        background: what is said of the background, as `jaxfuse.data.settings.Data` has it.
        resample_mm: voxel sides to which volumes are brought; () for none.
        spacing_mm: median voxel sides of the training cases, after that.
        spacing_range_mm: least and greatest voxel side of the training volumes per canonical axis; cases beyond it are
            refused (`jaxfuse.prediction.spacing`). Empty where any case is taken.
    """

    modalities: tuple[str, ...]
    channels: tuple[str, ...]
    normalize: str
    landmarks: Landmarks = field(default_factory=dict)
    axis: str = ""
    window: Window = ()
    blank_slices: bool = False
    background: str = AUTO
    spacing_mm: tuple[float, ...] = ()
    spacing_range_mm: Range = ()
    resample_mm: tuple[float, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preparation) and self._deciding() == other._deciding()

    def _deciding(self) -> tuple[Any, ...]:
        extent = (self.window, self.blank_slices, self.axis) if self.window or self.blank_slices else ()
        return set(self.modalities), self.normalize, dict(self.landmarks), extent, self.background, self.resample_mm

    @property
    def normalization(self) -> Normalization:
        """The rule that `normalize` names."""
        return normalization(self.normalize)

    @property
    def assumed_mm(self) -> tuple[float, ...]:
        """The voxel sides of arrays that come without any; none where volumes are resampled."""
        known = self.spacing_mm if len(self.spacing_mm) == 3 else (1.0, 1.0, 1.0)
        return () if self.resample_mm else known

    def document(self) -> dict[str, Any]:
        """Returns the settings as JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Preparation:
        """Reads what `document` has made."""
        return cls(**{name: tuples(value) for name, value in document.items()})

    def prepare(self, case: Case) -> Prepared:
        """Crops and normalizes a case of these modalities, or of some of them, as the training cases were.

        The image of those that the case lacks is 0. Slices keep their window, from the brain's first slice to its last,
        or all of them where blank ones are kept.

        Raises:
            UserError: the case has other voxel sides than the training, or cannot be prepared.
        """
        if not self.resample_mm:
            check_spacing(f"case {case.id}", case.spacing_mm, case.shape, self.spacing_range_mm)
        rule = self.normalization
        if rule.needs_landmarks and not self.landmarks:
            raise UserError("the run's dataset.json has no landmarks to match intensities to; train it again")
        extent = View(AXES[self.axis], self.window, self.blank_slices).extent if self.axis else ()
        background = background_rule(self.background)
        given = {"normalize": rule, "landmarks": self.landmarks or None, "extent": extent, "background": background}
        return with_absent(prepare_resampled(case, self.resample_mm, **given), self.modalities)

    def check_shown(self, what: str, spacing_mm: Sequence[float], shape: Sequence[int], axis: int) -> None:
        """Refuses volumes whose slices across `axis` have other sides than the slices of the training."""
        axes = axes_across(AXES[self.axis], axis) if self.axis else (0, 1, 2)
        check_spacing(what, spacing_mm, shape, self.spacing_range_mm, axes)

    def in_channels(self, prepared: Prepared) -> Prepared:
        """Returns a prepared case with the network's channels in place of its own; refuses other voxel sides."""
        facts = prepared.facts
        if not self.resample_mm:
            check_spacing(f"case {facts.id}", facts.spacing_mm, facts.original_shape, self.spacing_range_mm)
        if prepared.facts.modalities == self.channels:
            return prepared
        image = np.zeros((*facts.shape, len(self.channels)), np.float32)
        for channel, modality in enumerate(facts.modalities):
            image[..., self.channels.index(modality)] = prepared.image[..., channel]
        # Of channels that the network does not read nothing is absent.
        presence = tuple(name not in facts.lacks for name in self.channels) if facts.presence else ()
        return replace(prepared, image=image, facts=replace(facts, presence=presence))
