"""Scores lesion by lesion, as BraTS has ranked since 2023: a miss and a false alarm cost as much as a bad outline.

Every lesion of the truth is compared with all components of the prediction that touch its surroundings; missed lesions
and components that touch nothing enter the means as failures. Moawad et al., arXiv:2306.00838, 2023, and the public
code of the challenge. Components are connected by faces, edges and corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32
from scipy import ndimage

from jaxfuse.metrics.distances import BoolMask, Spacing, box_of, in_plane, voxel_size
from jaxfuse.metrics.overlap import Mask, dice
from jaxfuse.metrics.surfels import surfel_hd95_mm

Box = tuple[slice, ...]
Center = tuple[float, ...]


@dataclass(frozen=True)
class Matching:
    """How lesions are told apart and counted.

    Attributes:
        dilations: steps by which lesions of the truth are widened, by faces and edges, before parts of them are joined
            and components of the prediction are sought in their surroundings.
        smallest_mm3: lesions of the truth up to this volume do not count, nor what was found of them.
        miss_mm: the distance that stands for a missed lesion or a false alarm.
    """

    dilations: int = 3
    smallest_mm3: float = 50.0
    miss_mm: float = 374.0


# Those of the tasks of BraTS 2023.
GLIOMA = Matching()
MENINGIOMA = Matching(dilations=1)
METASTASES = Matching(dilations=1, smallest_mm3=2.0)
# Those of ISLES 2022: components as they are, of any size.
STROKES = Matching(dilations=0, smallest_mm3=0.0)


@dataclass(frozen=True)
class Lesion:
    """One lesion of the truth that counts.

    Attributes:
        volume_mm3: its volume.
        found_mm3: volume of all components that touch its surroundings; 0 where it was missed.
        dice: of these and the lesion.
        hd95_mm: of these and the lesion, by surfels; the matching's `miss_mm` where it was missed.
        center: mean of its voxels' indices, per array axis.
    """

    volume_mm3: float
    found_mm3: float
    dice: float
    hd95_mm: float
    center: Center

    @property
    def missed(self) -> bool:
        return self.found_mm3 == 0


@dataclass(frozen=True)
class FalseAlarm:
    """A component of the prediction that touches no lesion, not even one that does not count.

    Attributes:
        volume_mm3: its volume.
        center: mean of its voxels' indices, per array axis.
    """

    volume_mm3: float
    center: Center


@dataclass(frozen=True)
class LesionScores:
    """The lesions of one region of a case.

    Attributes:
        lesions: those of the truth that count.
        false_alarms: components of the prediction that touch none.
        miss_mm: the distance that stands for each of these.
        components: how many the prediction has.
    """

    lesions: tuple[Lesion, ...]
    false_alarms: tuple[FalseAlarm, ...]
    miss_mm: float
    components: int

    @property
    def true_positives(self) -> int:
        """How many lesions were found, in part at least."""
        return sum(not one.missed for one in self.lesions)

    @property
    def false_negatives(self) -> int:
        """How many lesions were missed."""
        return sum(one.missed for one in self.lesions)

    @property
    def false_positives(self) -> int:
        """How many components of the prediction are no lesion."""
        return len(self.false_alarms)

    @property
    def dice(self) -> float:
        """The mean Dice of lesions and false alarms, which count 0; 1 where there are none."""
        number = len(self.lesions) + len(self.false_alarms)
        return sum(one.dice for one in self.lesions) / number if number else 1.0

    @property
    def hd95_mm(self) -> float:
        """The mean distance of lesions and false alarms in mm; 0 where there are none."""
        number = len(self.lesions) + len(self.false_alarms)
        whole = sum(one.hd95_mm for one in self.lesions) + self.miss_mm * len(self.false_alarms)
        return whole / number if number else 0.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) of lesions; 1 where there are none."""
        whole = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / whole if whole else 1.0


def lesion_scores(pred: Mask, truth: Mask, *, spacing_mm: Spacing, matching: Matching = GLIOMA) -> LesionScores:
    """Scores every lesion of one region.

    Args:
        pred, truth: masks (*space) of one case, 2D or 3D.
        spacing_mm: the side of a voxel, or the step in the world, per array axis.
        matching: the rules of a task.

    Raises:
        UserError: different shapes, or a spacing that does not fit.
    """
    voxel_mm3, shape = voxel_size(spacing_mm), pred.shape
    pred, truth, spacing = in_plane(pred, truth, spacing_mm)
    if not pred.any() and not truth.any():
        return LesionScores((), (), matching.miss_mm, 0)
    box = box_of(pred | truth, margin=matching.dilations + 1)
    parts, joined = _Parts.of(pred[box]), _Parts.of(_widened(truth[box], matching.dilations))
    lesions, touched = [], set[int]()
    for index, near in enumerate(joined.boxes, start=1):
        # What joined the parts of a lesion is what its surroundings are.
        around = joined.numbers[near] == index
        matched = [int(one) for one in np.unique(parts.numbers[near][around]) if one]
        touched.update(matched)
        volume_mm3 = float(np.count_nonzero(truth[box][near] & around) * voxel_mm3)
        if volume_mm3 > matching.smallest_mm3:
            whole = _union([near, *(parts.boxes[one - 1] for one in matched)])
            lesion = truth[box][whole] & (joined.numbers[whole] == index)
            made = np.isin(parts.numbers[whole], matched)
            center = _center(lesion, [box, whole], shape)
            lesions.append(_lesion(made, lesion, spacing, voxel_mm3, matching.miss_mm, center))
    false = []
    for number in sorted({*range(1, len(parts.boxes) + 1)} - touched):
        near = parts.boxes[number - 1]
        alarm = parts.numbers[near] == number
        volume_mm3 = float(np.count_nonzero(alarm) * voxel_mm3)
        false.append(FalseAlarm(volume_mm3, _center(alarm, [box, near], shape)))
    return LesionScores(tuple(lesions), tuple(false), matching.miss_mm, len(parts.boxes))


def numbered(mask: Mask, steps: int | None = None) -> tuple[Int32[np.ndarray, ...], int]:
    """Returns the components of a mask by numbers from 1, 0 outside, and how many there are.

    Args:
        steps: along how many axes neighbors may lie apart: 1 connects by faces; None, all of them, by corners too.
    """
    numbers = np.empty(mask.shape, np.int32)
    neighbors = ndimage.generate_binary_structure(mask.ndim, mask.ndim if steps is None else steps)
    count: Any = ndimage.label(mask, neighbors, output=numbers)
    return numbers, int(count)


def volume_ml(mask: Mask, *, spacing_mm: Spacing) -> float:
    """Returns the volume of a mask in ml; of a 2D case as if it were 1 mm thick."""
    return float(np.count_nonzero(mask) * voxel_size(spacing_mm) / 1000)


class _Parts(NamedTuple):
    """Connected components: their numbers from 1 (*space), 0 outside, and the box of each."""

    numbers: Int32[np.ndarray, ...]
    boxes: list[Box]

    @classmethod
    def of(cls, mask: BoolMask) -> _Parts:
        numbers, count = numbered(mask)
        return cls(numbers, ndimage.find_objects(numbers, count))


def _widened(mask: BoolMask, steps: int) -> BoolMask:
    if not steps:
        return mask
    return ndimage.binary_dilation(mask, ndimage.generate_binary_structure(mask.ndim, 2), iterations=steps)


def _union(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in zip(*boxes, strict=True)
    )


def _center(mask: BoolMask, boxes: Sequence[Box], shape: tuple[int, ...]) -> Center:
    """The center of a mask in boxes within one another, in an array of this shape, which may be a single slice."""
    starts = np.sum([[side.start for side in box] for box in boxes], axis=0)
    found = iter((np.argwhere(mask).mean(axis=0) + starts).tolist())
    return tuple(0.0 if side == 1 and mask.ndim < len(shape) else next(found) for side in shape)


def _lesion(
    made: BoolMask, lesion: BoolMask, spacing: Spacing, voxel_mm3: float, miss_mm: float, center: Center
) -> Lesion:
    """One lesion and what was found of it, in a box that holds both; padded, so that no box is a single slice."""
    made, lesion = np.pad(made, 1), np.pad(lesion, 1)
    real_mm3, made_mm3 = (float(np.count_nonzero(one) * voxel_mm3) for one in (lesion, made))
    hd95_mm = surfel_hd95_mm(made, lesion, spacing_mm=spacing, one_empty=miss_mm)
    return Lesion(real_mm3, made_mm3, dice(made, lesion), hd95_mm, center)
