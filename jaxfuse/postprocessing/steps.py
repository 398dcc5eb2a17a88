"""Steps of a post-processing: each changes a map of class indices where a rule of its own says so.

A step is a record that survives JSON. It is about `of`: a region of the label scheme, a class by its name, or
`foreground`, all classes but the background; a region counts before a class of the same name. `changed` marks the
voxels that it changes, given a mask of those that it is about and the volume of a voxel; these become the class
`becomes`. A step that `grows` adds voxels to what it is about, any other takes some away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, UInt8

from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme
from jaxfuse.postprocessing.components import CONNECTIVITIES, holes_of, largest_part, small_parts
from jaxfuse.postprocessing.thresholds import Weigh

FOREGROUND = "foreground"
# Share by which a volume may fall short: sides in headers are floats of 32 bits.
_ROUNDING = 1e-5

Labels = UInt8[np.ndarray, "d h w"]


@dataclass(frozen=True)
class KeepLargest:
    """All connected parts but the largest change; of equal ones the first on the canonical axes stays.

    nnU-Net does so where it pays on the cases that validate (Isensee et al., Nat Methods 18:203, 2021).
    """

    of: str
    becomes: str
    connectivity: int = 26
    kind: ClassVar[str] = "keep_largest"
    grows: ClassVar[bool] = False

    def changed(self, mask: Bool[np.ndarray, "d h w"], voxel_mm3: float) -> Bool[np.ndarray, "d h w"]:
        return mask & ~largest_part(mask, self.connectivity)

    def told(self) -> str:
        return f"{self.of}: largest part{_others(self.becomes)}"


@dataclass(frozen=True)
class RemoveSmall:
    """Connected parts of less than a volume in mm3 change."""

    of: str
    becomes: str
    below_mm3: float
    connectivity: int = 26
    kind: ClassVar[str] = "remove_small"
    grows: ClassVar[bool] = False

    def changed(self, mask: Bool[np.ndarray, "d h w"], voxel_mm3: float) -> Bool[np.ndarray, "d h w"]:
        return small_parts(mask, self.connectivity, self.below_mm3 * (1 - _ROUNDING) / voxel_mm3)

    def told(self) -> str:
        return f"{self.of}: parts of {self.below_mm3:g} mm3 and more{_others(self.becomes)}"


@dataclass(frozen=True)
class FillHoles:
    """Whatever a region encloses becomes one of its classes; holes end at faces."""

    of: str
    becomes: str
    kind: ClassVar[str] = "fill_holes"
    grows: ClassVar[bool] = True

    def changed(self, mask: Bool[np.ndarray, "d h w"], voxel_mm3: float) -> Bool[np.ndarray, "d h w"]:
        return holes_of(mask)

    def told(self) -> str:
        return f"{self.of}: holes become {self.becomes}"


@dataclass(frozen=True)
class ReplaceSmallTotal:
    """All of a region changes where it has less than a volume in mm3 in all.

    With enhancing tumor that becomes necrosis it is the rule of nnU-Net at BraTS 2020 (Isensee et al., arXiv
    2011.00848), whose scores give 0 where some enhancing tumor is found and none is there, and 1 where none is found.
    """

    of: str
    becomes: str
    below_mm3: float
    kind: ClassVar[str] = "replace_small_total"
    grows: ClassVar[bool] = False

    def changed(self, mask: Bool[np.ndarray, "d h w"], voxel_mm3: float) -> Bool[np.ndarray, "d h w"]:
        small = np.count_nonzero(mask) * voxel_mm3 < self.below_mm3 * (1 - _ROUNDING)
        return mask if small else np.zeros_like(mask)

    def told(self) -> str:
        return f"{self.of}: {self.below_mm3:g} mm3 in all and more, or none{_others(self.becomes)}"


def _others(becomes: str) -> str:
    return "" if becomes == "background" else f", the rest becomes {becomes}"


Step = KeepLargest | RemoveSmall | FillHoles | ReplaceSmallTotal
# By their names in files.
STEPS: Mapping[str, Any] = {kind.kind: kind for kind in (KeepLargest, RemoveSmall, FillHoles, ReplaceSmallTotal)}


def members_of(name: str, scheme: LabelScheme) -> tuple[int, ...]:
    """Returns the class indices of a region, a class or the foreground; empty for a name that the scheme lacks."""
    if name in scheme.regions:
        return scheme.regions[name]
    if name in scheme.classes[1:]:
        return (scheme.classes.index(name),)
    return tuple(range(1, len(scheme.classes))) if name == FOREGROUND else ()


def check_step(step: Step, scheme: LabelScheme, where: str) -> None:
    """Refuses a step whose names the scheme lacks, or that changes a class into itself."""
    members = members_of(step.of, scheme)
    if not members or step.becomes not in scheme.classes:
        strange = step.becomes if members else step.of
        known = scheme.classes if members else (*scheme.regions, *scheme.classes[1:], FOREGROUND)
        raise UserError(
            f"{where}: the step {step.kind} names {strange!r}, which the label scheme {scheme.name} lacks; choose one "
            f"of {', '.join(dict.fromkeys(known))}"
        )
    if (scheme.classes.index(step.becomes) in members) != step.grows:
        kind = "a class of it" if step.grows else "a class outside of it"
        raise UserError(f"{where}: the step {step.kind} of {step.of} becomes {step.becomes}; name {kind}")


def applied(step: Step, labels: Labels, scheme: LabelScheme, voxel_mm3: float) -> Labels:
    """Returns a map of class indices as a step leaves it; the given one stays as it is."""
    inside = np.zeros(256, bool)
    inside[list(members_of(step.of, scheme))] = True
    changed = step.changed(inside[labels], voxel_mm3)
    return np.where(changed, np.uint8(scheme.classes.index(step.becomes)), labels)


def step_document(step: Step | Weigh) -> dict[str, Any]:
    """Returns a step as JSON."""
    return {"step": step.kind, **asdict(step)}


def read_step(document: Any, where: str) -> Step:
    """Reads what `step_document` has made.

    Raises:
        UserError: it is no step, has another option than those of its kind, lacks one, or a value makes no sense.
    """
    if not isinstance(document, dict) or document.get("step") not in STEPS:
        named = document.get("step") if isinstance(document, dict) else document
        raise UserError(f"{where} has the step {named!r}; choose one of {', '.join(STEPS)}")
    kind = STEPS[document["step"]]
    given = {name: value for name, value in document.items() if name != "step"}
    known = {one.name for one in fields(kind)}
    # The connectivity alone has a value that goes without saying.
    if (odd := sorted(set(given) - known)) or (odd := sorted(known - {"connectivity"} - set(given))):
        lacks = "has no option" if odd[0] in given else "lacks"
        raise UserError(f"{where}: the step {kind.kind} {lacks} {odd[0]}; its options are {', '.join(sorted(known))}")
    _check_values(kind.kind, given, where)
    return kind(**given)


def _check_values(kind: str, given: Mapping[str, Any], where: str) -> None:
    for name, value in given.items():
        if name in ("of", "becomes"):
            right, expected = isinstance(value, str), "a name"
        elif name == "connectivity":
            right, expected = type(value) is int and value in CONNECTIVITIES, "6, 18 or 26"
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            right, expected = number and 0 < value < float("inf"), "a positive number"
        if not right:
            raise UserError(f"{where}: the step {kind} has {name} {value!r}; give {expected}")
