"""Cases of label maps as a page shows them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer, Shaped

Labels = Integer[np.ndarray, "d h w"]


@dataclass(frozen=True)
class Pictured:
    """A case on its canonical axes.

    Attributes:
        image: lies below the label maps; None where there is none.
        beneath: the modality of the image; or why there is none, as a sentence, or empty where none was expected.
        truth: class indices.
        predictions: method -> class indices.
    """

    image: Shaped[np.ndarray, "d h w"] | None
    beneath: str
    truth: Labels
    predictions: Mapping[str, Labels]
    spacing_mm: tuple[float, float, float]

    @property
    def marked(self) -> Bool[np.ndarray, "d h w"]:
        """The voxels that any label map marks."""
        return np.logical_or.reduce([self.truth > 0, *(labels > 0 for labels in self.predictions.values())])

    @property
    def shown(self) -> Bool[np.ndarray, "d h w"]:
        """The voxels of the head, as far as the image tells them from 0, or else those that are marked."""
        return self.marked if self.image is None else (self.image != 0) | self.marked


# Reads a case with the predictions of some methods.
Reader = Callable[[str, Collection[str]], Pictured]
