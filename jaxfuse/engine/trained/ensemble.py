"""The mean of the class probabilities of several networks, taken on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import jax
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Float, UInt8

from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.engine.programs import over_members
from jaxfuse.engine.trained.chosen_devices import weights_on
from jaxfuse.engine.trained.predictor import CasePredictor, OnDevice
from jaxfuse.inference.members import Axis
from jaxfuse.inference.tiling import Asked
from jaxfuse.learning.state import State

Case = PreparedCase | Prepared


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, with its weights; its result counts.

    Attributes:
        own: a case -> the case in the network's own channels.
    """

    predictor: CasePredictor
    weights: State
    own: Callable[[Any], Case]

    @property
    def primary(self) -> str:
        """The output that is its result, class probabilities."""
        return self.predictor.programs.system.primary

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
    _compiled: dict[tuple[Axis, ...], tuple[Wrapped, Wrapped]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def on(self, device: jax.Device) -> Ensemble:
        """Returns the networks with their weights on this device; all programs are shared."""
        members = {name: replace(one, weights=weights_on(device, one.weights)) for name, one in self.members.items()}
        return replace(self, members=members)

    def probabilities(self, case: Case) -> Float[np.ndarray, "*space k"]:
        """Returns the mean of the class probabilities on the case's cropped grid."""
        (mean, _), parts, shifts = self._joined(case)
        return _cut(mean(parts, shifts), case)

    def labels(self, case: Case) -> UInt8[np.ndarray, "*space"]:
        """Returns the most probable classes by the mean."""
        if len(self.members) == 1:
            return next(iter(self.members.values())).labels(case)
        return self.all_labels(case)[-1]

    def all_labels(self, case: Case) -> list[UInt8[np.ndarray, "*space"]]:
        """Returns the most probable classes by each member, in order, and last by their mean."""
        (_, labels), parts, shifts = self._joined(case)
        found = labels(parts, shifts)
        for one in found:
            one.copy_to_host_async()
        return [_cut(one, case) for one in found]

    def _joined(self, case: Case) -> tuple[tuple[Wrapped, Wrapped], list[Any], list[np.ndarray]]:
        """The programs for such a case, the canvases of all members, and where the volume lies there."""
        each = [(member.primary, member.on_device(case)) for member in self.members.values()]
        axes = tuple(made.axis for _, made in each)
        with self._lock:
            if axes not in self._compiled:
                self._compiled[axes] = over_members(axes)
        return self._compiled[axes], [made.outputs[name] for name, made in each], [made.shift for _, made in each]


def _cut(canvas: Any, case: Case) -> np.ndarray:
    return np.asarray(canvas)[tuple(map(slice, case.facts.shape))]
