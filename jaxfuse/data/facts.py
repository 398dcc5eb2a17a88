"""Facts of prepared cases and of a split of them, as records that survive JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxfuse.io.geometry import Steps, is_sheared, steps_of

# Stored values and what they became, ascending in both; straight lines lie between.
Scaling = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CaseFacts:
    """Facts of a prepared case besides its arrays; the content of `case.json`.

    Attributes:
        affine: voxel to world in mm of the canonical grid before cropping, by rows; empty for a 2D image, but for the
            slice of a volume whose axes in its plane are not at right angles (4 x 3).
        spacing_mm: voxel sides per axis; pixels of a photograph count 1.
        original_shape, crop_start, shape: spatial; the crop is `original[start : start + shape]`.
        voxels_per_class: over the crop, by class index; empty for an unlabeled case.
        mean, std: moments of each modality as stored, over the voxels that were normalized together.
        slices: for a stack, per slice: pixels of the brain, then pixels per class if labeled; else empty.
        scaling: per modality the scaling to [0, 1]; empty where intensities were normalized otherwise.
        background: per modality the stored value around the head, None where it cannot be told; empty where it was not
            asked for.
        acquired_shape: of the canonical grid of the files, where the case was resampled from it; else empty.
        presence: which of the modalities the case has; empty where it has all. Of one that it lacks the image is 0, and
            mean, std and scaling say nothing.
    """

    id: str
    group: str
    modalities: tuple[str, ...]
    affine: tuple[tuple[float, ...], ...]
    spacing_mm: tuple[float, ...]
    original_shape: tuple[int, ...]
    crop_start: tuple[int, ...]
    shape: tuple[int, ...]
    voxels_per_class: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    slices: tuple[tuple[int, ...], ...] = ()
    scaling: tuple[Scaling, ...] = ()
    background: tuple[float | None, ...] = ()
    acquired_shape: tuple[int, ...] = ()
    presence: tuple[bool, ...] = ()

    @property
    def lacks(self) -> tuple[str, ...]:
        """The modalities that the case lacks."""
        return tuple(m for m, there in zip(self.modalities, self.presence, strict=False) if not there)

    @property
    def steps_mm(self) -> Steps:
        """Sides, or steps of axes that are not at right angles, by which distances and volumes are measured."""
        affine = np.array(self.affine)
        return steps_of(affine) if affine.size and is_sheared(affine) else self.spacing_mm


@dataclass(frozen=True)
class DatasetFacts:
    """Constants that the training split decides; the content of a run's `dataset.json`.

    Attributes:
        scheme: name of the label scheme, empty where the data set has classes of its own.
        spacing_mm: median over the training cases, per axis.
        train, val, test: case ids; those of test are held out, and never prepared.
        subjects: side -> the number of subjects whose cases these are; empty where names tell none.
        keys: case id -> cache key, which stands for the content of its files and the preparation.
        voxels_per_class: sum over the labeled training cases, by class index; empty where there is none.
        train_shapes: sides of the labeled training cases as cropped, each with the number of cases that have them.
        ranges: modality -> the stored values that the ends of [0, 1] stand for, in the files' units: medians over the
            training volumes. Empty where intensities were not scaled to [0, 1].
        landmarks: modality -> levels that the brains' percentiles were mapped onto; empty where none were.
        spacing_range_mm: least and greatest side of the voxels of the training volumes, per canonical axis, also where
            slices of them were cut; empty for pictures, which have no size.
        subsets: the subsets of modalities that training cases have, such as "t1+flair".
    """

    modalities: tuple[str, ...]
    scheme: str
    classes: tuple[str, ...]
    spacing_mm: tuple[float, ...]
    train: tuple[str, ...]
    val: tuple[str, ...]
    keys: Mapping[str, str]
    voxels_per_class: tuple[int, ...]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    landmarks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    test: tuple[str, ...] = ()
    subjects: Mapping[str, int] = field(default_factory=dict)
    spacing_range_mm: tuple[tuple[float, float], ...] = ()
    train_shapes: tuple[tuple[tuple[int, ...], int], ...] = ()
    subsets: tuple[str, ...] = ()

    def told(self, side: str) -> str:
        """Says how many cases a side has and of how many subjects, for a person; empty for a side without cases."""
        cases = {"train": self.train, "val": self.val, "test": self.test}[side]
        if not cases:
            return ""
        drawn = f" ({len(set(cases))} different)" if len(set(cases)) < len(cases) else ""
        return f"{counted(len(cases), 'case')}{drawn}" + (
            f" of {counted(self.subjects[side], 'subject')}" if side in self.subjects else ""
        )

    def to_json(self) -> str:
        """Returns the facts as JSON, keys sorted."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetFacts:
        """Reads what `to_json` has made."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{name: tuples(value) for name, value in fields.items()})


def counted(number: int, what: str) -> str:
    """Says a number of things: 1 case, 2 cases."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def tuples(value: Any) -> Any:
    """Returns JSON with its lists as tuples; the records know no lists."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
