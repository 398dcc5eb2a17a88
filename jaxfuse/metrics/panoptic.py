"""Panoptic quality of lesions: components of prediction and truth, matched one to one.

A component of the prediction and one of the truth are a match where their IoU exceeds 0.5, which no two can do with the
same one. Kirillov et al., CVPR 2019, equations 1 and 2. Components are connected by faces, edges and corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxfuse.errors import UserError
from jaxfuse.metrics.lesions import numbered
from jaxfuse.metrics.overlap import Mask, require_same_shape

HALF = 0.5


@dataclass(frozen=True)
class PanopticScores:
    """Matches of one region of a case.

    Attributes:
        ious: of each match.
        false_positives: components of the prediction without a match.
        false_negatives: components of the truth without one.
    """

    ious: tuple[float, ...]
    false_positives: int
    false_negatives: int

    @property
    def recognition(self) -> float:
        """RQ, the F1 of components; 1 where there are none."""
        whole = len(self.ious) + (self.false_positives + self.false_negatives) / 2
        return len(self.ious) / whole if whole else 1.0

    @property
    def segmentation(self) -> float:
        """SQ, the mean IoU of the matches; nan where there is none but components, 1 where there are no components."""
        if self.ious:
            return sum(self.ious) / len(self.ious)
        return float("nan") if self.false_positives or self.false_negatives else 1.0

    @property
    def quality(self) -> float:
        """PQ, the sum of the IoU over the number of matches and half of that of all others; 1 where there are none."""
        whole = len(self.ious) + (self.false_positives + self.false_negatives) / 2
        return sum(self.ious) / whole if whole else 1.0


def panoptic_scores(pred: Mask, truth: Mask, *, above: float = HALF) -> PanopticScores:
    """Matches the components of two masks (*space) of one case.

    Args:
        above: the IoU that a match exceeds; below 0.5 a component might have two.

    Raises:
        UserError: shapes differ, or `above` is below 0.5.
    """
    require_same_shape(pred, truth)
    if not HALF <= above < 1:
        raise UserError(f"above is {above}; give an IoU from 0.5 to below 1, so that matches are one to one")
    (made, count), (real, number) = numbered(pred), numbered(truth)
    shared = np.bincount(
        (made.astype(np.int64) * (number + 1) + real).ravel(), minlength=(count + 1) * (number + 1)
    ).reshape(count + 1, number + 1)
    both = shared[1:, 1:]
    either = shared[1:].sum(1)[:, None] + shared[:, 1:].sum(0) - both
    ious = both / np.maximum(either, 1)
    matched = ious[ious > above]
    return PanopticScores(tuple(map(float, matched)), count - len(matched), number - len(matched))
