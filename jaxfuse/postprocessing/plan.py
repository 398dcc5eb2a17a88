"""Plans of post-processing: steps in order on the label maps of one scheme, and the files that hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.metrics.distances import Spacing, voxel_size
from jaxfuse.postprocessing.steps import Labels, Step, applied, check_step, read_step, step_document
from jaxfuse.postprocessing.thresholds import Factors, by_class, read_factors, told_factors

KIND = "post-processing"
# Modality -> moments of its image: what tells a case from another that bears its name.
Images = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Plan:
    """Factors of class probabilities, whose most probable classes are the labels, and steps on these in order.

    Attributes:
        scheme: name of the label scheme whose classes and regions they name.
        factors: of `jaxfuse.postprocessing.thresholds`, which whoever makes label maps heeds.
    """

    scheme: str
    steps: tuple[Step, ...] = ()
    factors: Factors = field(default_factory=dict)

    def __call__(self, labels: Labels, spacing_mm: Spacing) -> Labels:
        """Returns the label map, made by the factors, after all steps; the given one stays as it is.

        Args:
            labels: class indices on a whole grid; of a single slice one axis has one voxel.
            spacing_mm: the sides of a voxel, or its steps in the world.
        """
        box = box_of(labels)
        if not self.steps or box is None:
            return labels
        within, voxel_mm3 = labels[box], voxel_size(spacing_mm)
        for step in self.steps:
            within = applied(step, within, self._labels, voxel_mm3)
        found = labels.copy()
        found[box] = within
        return found

    @cached_property
    def _labels(self) -> LabelScheme:
        return label_scheme(self.scheme)

    def check(self, scheme: LabelScheme, where: str) -> None:
        """Refuses label maps of a scheme with other classes or regions."""
        own = self._labels
        if (own.classes, dict(own.regions)) != (scheme.classes, dict(scheme.regions)):
            raise UserError(
                f"{where} is for label maps of the scheme {self.scheme}, and these are of {scheme.name}; choose it "
                "anew by jaxfuse.postprocess, or pass --postprocessing none"
            )

    def document(self) -> dict[str, Any]:
        """Returns the plan as JSON."""
        factors = {"factors": dict(self.factors)} if self.factors else {}
        return {"kind": KIND, "scheme": self.scheme, **factors, "steps": [step_document(step) for step in self.steps]}

    @property
    def does_something(self) -> bool:
        """Whether a label map may change."""
        return bool(self.steps or self.factors)

    @property
    def weights(self) -> Float[np.ndarray, " k"] | None:
        """The factor of each class, in the scheme's order; None where all are 1."""
        return by_class(self.factors, self._labels) if self.factors else None

    @property
    def digest(self) -> str:
        """A short name of all that decides what it does."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()[:8]

    def told(self) -> str:
        """Says what is done, in one line."""
        return "; ".join([*told_factors(self.factors), *(step.told() for step in self.steps)]) or "no step"


@dataclass(frozen=True)
class StoredPlan:
    """A plan in a file, and what it was chosen on.

    Attributes:
        plan: what is applied.
        path: the file, for sentences.
        networks: digests of the weights that it was chosen for; those in one group were averaged. Empty: for any.
        images: of the cases that it was chosen on, by name: modality -> what was measured of its image.
    """

    plan: Plan
    path: Path
    networks: tuple[tuple[str, ...], ...] = ()
    images: Mapping[str, Images] = field(default_factory=dict)


def box_of(labels: Labels) -> tuple[slice, ...] | None:
    """Returns the box of all that is not background, a voxel wider where there is one; None where there is nothing.

    All steps stay within it, and what is enclosed there is enclosed in the whole.
    """
    found = ndimage.find_objects((labels > 0).view(np.uint8))
    if not found or found[0] is None:
        return None
    sides = zip(found[0], labels.shape, strict=True)
    return tuple(slice(max(0, one.start - 1), min(length, one.stop + 1)) for one, length in sides)


def read_plan(path: Path) -> StoredPlan:
    """Reads a plan that was chosen, or written by hand: JSON with `scheme`, `steps` and perhaps `factors`.

    Raises:
        UserError: it cannot be read, is no plan, or names what its scheme lacks.
    """
    document, where = read_json(path), str(path)
    if not (isinstance(document, dict) and isinstance(document.get("steps"), list) and "scheme" in document):
        raise UserError(f"{path} is no plan of post-processing; a JSON object with scheme and a list of steps is one")
    if not isinstance(document["scheme"], str):
        raise UserError(f"{path} has the label scheme {document['scheme']!r}; the name of one is expected")
    steps = tuple(read_step(one, where) for one in document["steps"])
    scheme = label_scheme(document["scheme"])
    for step in steps:
        check_step(step, scheme, where)
    factors = read_factors(document.get("factors", {}), scheme, where)
    return StoredPlan(Plan(document["scheme"], steps, factors), path, *_chosen_on(document, path))


def _chosen_on(document: Mapping[str, Any], path: Path) -> tuple[tuple[tuple[str, ...], ...], dict[str, Images]]:
    """The digests of networks and what was measured of images; both empty in a plan that was written by hand."""
    try:
        groups = tuple(tuple(str(one["weights"]) for one in group) for group in document.get("networks", ()))
        images: dict[str, Images] = {
            str(case["case"]): {str(name): tuple(map(float, of)) for name, of in case["images"].items()}
            for case in document.get("cases", ())
        }
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} tells networks or cases otherwise than jaxfuse.postprocess writes them; choose it anew, or leave "
            "both out of a plan of your own"
        ) from error
    return groups, images
