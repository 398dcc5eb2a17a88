"""Thresholds of class probabilities: a class counts as a factor says, and the largest product is the label.

Of a lesion and background a factor of 2 labels lesion where its probability passes 1/3, in place of 1/2. Moving the
threshold so is an old remedy where one class is rare (Zhou and Liu, IEEE Trans Knowl Data Eng 18:63, 2006). With
several classes each has a factor, and regions that are nested stay so, which a threshold for each would not keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme

# That are tried for each class, the mildest first.
FACTORS = (0.7, 1.4, 0.5, 2.0, 0.25, 4.0)
# Class -> factor, for those whose factor is not 1.
Factors = Mapping[str, float]
Probabilities = Float[np.ndarray, "*space k"]
Labels = UInt8[np.ndarray, "*space"]


@dataclass(frozen=True)
class Weigh:
    """A factor of one class, as it is tried and taken."""

    of: str
    factor: float
    kind: ClassVar[str] = "weigh"

    def told(self) -> str:
        """Says it in words."""
        return f"{self.of}: probability times {self.factor:g}"


@dataclass(frozen=True)
class Unsure:
    """The voxels of a case whose label may depend on factors, and their class probabilities.

    Attributes:
        places: flat indices, ascending.
    """

    places: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]

    def relabeled(self, labels: Labels, factors: Float[np.ndarray, " k"]) -> Labels:
        """Returns a label map with the labels of these voxels by factors; the given one stays as it is."""
        found = labels.copy()
        found.flat[self.places] = most_probable(self.probabilities, factors)
        return found

    def within(self, box: Sequence[slice], shape: Sequence[int]) -> Unsure:
        """Returns the same voxels, of a volume of this shape, by their places in a box of it that holds them all."""
        sides = [one.indices(length) for one, length in zip(box, shape, strict=True)]
        at = [place - first for place, (first, *_) in zip(np.unravel_index(self.places, shape), sides, strict=True)]
        return replace(self, places=np.ravel_multi_index(at, [stop - first for first, stop, _ in sides]))


def unsure_of(probabilities: Probabilities, inside: Bool[np.ndarray, "*space"] | None = None) -> Unsure:
    """Finds the voxels where another class can win by any `FACTORS`; `inside` marks those that are labeled at all."""
    second, first = np.moveaxis(np.partition(probabilities, -2, axis=-1)[..., -2:], -1, 0)
    close = (first > 0) & (second * (max(FACTORS) / min(FACTORS)) >= first)
    places = np.flatnonzero(close if inside is None else close & inside)
    return Unsure(places, probabilities.reshape(-1, probabilities.shape[-1])[places])


def most_probable(probabilities: Probabilities, factors: Float[np.ndarray, " k"] | None = None) -> Labels:
    """Returns the class of the largest probability, or of the largest product with its factor."""
    weighed = probabilities if factors is None else probabilities * factors.astype(np.float32)
    return weighed.argmax(-1).astype(np.uint8)


def by_class(factors: Factors, scheme: LabelScheme) -> Float[np.ndarray, " k"]:
    """Returns the factor of each class in the scheme's order."""
    return np.array([factors.get(name, 1.0) for name in scheme.classes], np.float32)


def read_factors(document: Any, scheme: LabelScheme, where: str) -> dict[str, float]:
    """Reads the factors of a plan.

    Raises:
        UserError: they are no object, name a class that the scheme lacks, or one is no positive number.
    """
    if not isinstance(document, dict):
        raise UserError(f"{where} has the factors {document!r}; give an object of classes, each with a positive number")
    for name, factor in document.items():
        if name not in scheme.classes:
            raise UserError(
                f"{where} has a factor of {name!r}, which the label scheme {scheme.name} lacks; choose one of "
                f"{', '.join(scheme.classes)}"
            )
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
            raise UserError(f"{where} has the factor {factor!r} of {name}; give a positive number")
    return {name: float(factor) for name, factor in document.items()}


def told_factors(factors: Factors) -> Sequence[str]:
    """Says what factors do, one by one."""
    return [Weigh(name, factor).told() for name, factor in factors.items()]
