"""The mean of the class probabilities of several networks, taken on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.inference.members import Axis
from jaxfuse.inference.tiling import Asked
from jaxfuse.prediction.predictor import CasePredictor, OnDevice
from jaxfuse.prediction.programs import Adding, adding

Case = PreparedCase | Prepared


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, with its weights; its result counts.

    Attributes:
        own: a case -> the case in the network's own channels.
    """

    predictor: CasePredictor
    weights: Any
    own: Callable[[Any], Case]

    @property
    def primary(self) -> str:
        """The output that is its result, class probabilities."""
        return self.predictor.network.primary

    def on_device(self, case: Case) -> OnDevice:
        """Predicts its class probabilities and leaves them on the device."""
        return self.predictor.on_device(self.weights, self.own(case), Asked(values=(self.primary,)))

    def labels(self, case: Case) -> UInt8[np.ndarray, "*space"]:
        """Predicts its most probable classes."""
        return self.predictor(self.weights, self.own(case), Asked(labels=(self.primary,)))[self.primary]


@dataclass(frozen=True)
class Ensemble:
    """Networks whose class probabilities are averaged; all count equally.

    Networks of slices go over a volume each along the axis that it was trained on.

    Attributes:
        members: by the names of their results.
    """

    members: Mapping[str, Member]
    _adding: dict[Axis, Adding] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def on(self, lay: Callable[[Any], Any]) -> Ensemble:
        """Returns the networks with weights that `lay` has put on a device; all programs are shared."""
        members = {name: replace(one, weights=lay(one.weights)) for name, one in self.members.items()}
        return replace(self, members=members)

    def probabilities(self, case: Case) -> Float[np.ndarray, "*space k"]:
        """Returns the mean of the class probabilities on the case's cropped grid."""
        total, adding = self._summed(case)
        return _cut(adding.mean(total, len(self.members)), case)

    def labels(self, case: Case) -> UInt8[np.ndarray, "*space"]:
        """Returns the most probable classes by the mean."""
        if len(self.members) == 1:
            return next(iter(self.members.values())).labels(case)
        total, adding = self._summed(case)
        return _cut(adding.labels(total, len(self.members)), case)

    def all_labels(self, case: Case) -> list[UInt8[np.ndarray, "*space"]]:
        """Returns the most probable classes by each member, in order, and last by their mean."""
        found: list[jax.Array] = []
        total, adding = self._summed(case, found)
        found.append(adding.labels(total, len(self.members)))
        for one in found:
            one.copy_to_host_async()
        return [_cut(one, case) for one in found]

    def _summed(self, case: Case, labels: list[jax.Array] | None = None) -> tuple[jax.Array, Adding]:
        """The sum of all members' probabilities, the volume at its origin, and what it was added by.

        No member's canvas is kept beyond the next one. Those classes that each finds are put into `labels`.
        """
        total = None
        for member in self.members.values():
            made = member.on_device(case)
            shift, adding = made.shift if made.shift.any() else None, self._adding_of(made.axis)
            still = shift is None and made.axis is None
            part = made.outputs[member.primary] if still else adding.upright(made.outputs[member.primary], shift)
            del made
            if labels is not None:
                labels.append(adding.labels(part, 1))
            total = part if total is None else adding.added(total, part)
            del part
        if total is None:
            raise ValueError("an ensemble has a member at least")
        return total, adding

    def _adding_of(self, axis: Axis) -> Adding:
        with self._lock:
            if axis not in self._adding:
                self._adding[axis] = adding(axis)
            return self._adding[axis]


def _cut(canvas: Any, case: Case) -> np.ndarray:
    return np.asarray(canvas)[tuple(map(slice, case.facts.shape))]
