"""Label maps of cases by networks, alone or averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.resample import as_acquired, on_acquired_grid, probabilities_on_acquired_grid
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.nifti import Grid, write_like
from jaxfuse.labels import LabelScheme
from jaxfuse.postprocessing.thresholds import most_probable
from jaxfuse.prediction.ensemble import Ensemble
from jaxfuse.prediction.postprocessed import Postprocessing
from jaxfuse.prediction.preparation import Preparation

Labels = UInt8[np.ndarray, "d h w"]

# Of a header's description.
_MOST_LETTERS = 80


@dataclass(frozen=True)
class Labeled:
    """A case with its labels.

    Attributes:
        case: the case on the grid that the labels lie on: that of the network, cropped, or where the case was resampled
            the whole grid of its files.
        labels: class indices.
        probabilities: on the whole grid of the files, where they were asked for; float32.
    """

    case: Prepared
    labels: Labels
    probabilities: Float[np.ndarray, "_ _ _ k"] | None = None


@dataclass(frozen=True)
class CaseLabeler:
    """Label maps of cases by the mean of trained networks, on any of several devices.

    Attributes:
        ensembles: by device or group of devices; threads may label at once, each on a device or group of its own.
        masked: whether label maps are background outside the brain.
        postprocessing: what is done with them at the end; None for nothing.
    """

    preparation: Preparation
    ensembles: Mapping[Any, Ensemble]
    masked: bool
    postprocessing: Postprocessing | None = None

    def read(self, files: CaseFiles) -> Prepared:
        """Reads and prepares a case; its label file, if there is one, is not opened.

        A prediction must not depend on it.
        """
        there = [name for name in self.preparation.modalities if name in files.images]
        return self.preparation.prepare(load_case(files, there, None))

    def labels(self, case: Prepared, device: Any) -> Labels:
        """Returns class indices on the network's grid, cropped."""
        ensemble, weights = self.ensembles[device], self._weights
        found = ensemble.labels(case) if weights is None else most_probable(ensemble.probabilities(case), weights)
        return self._finished(found, case)

    @property
    def _weights(self) -> Float[np.ndarray, " k"] | None:
        """The factors of classes that the post-processing asks for."""
        return self.postprocessing.plan.weights if self.postprocessing else None

    def labeled(self, case: Prepared, device: Any, *, keep: bool = False) -> Labeled:
        """Returns the labels as they are written, and their probabilities where these are to be kept.

        The labels are the most probable classes, by the factors of the post-processing if it has any; of a case that
        was resampled they are those on the grid of its files, on which probabilities are interpolated, as in nnU-Net.
        """
        resampled = bool(case.facts.acquired_shape)
        if not (keep or resampled):
            return Labeled(case, self.labels(case, device))
        own = self.ensembles[device].probabilities(case)
        whole = probabilities_on_acquired_grid(own, case)
        there = as_acquired(case) if resampled else case
        labels = most_probable(whole if resampled else own, self._weights)
        return Labeled(there, self._finished(labels, there), whole if keep else None)

    def _finished(self, labels: Labels, case: Prepared) -> Labels:
        """Masks and post-processes the most probable classes of a case, on any grid that it lies on."""
        labels = masked_labels(labels, case.brain) if self.masked else labels
        return self.postprocessing(labels, case) if self.postprocessing else labels


def label_values(labels: Labels, prepared: Prepared, scheme: LabelScheme) -> UInt8[np.ndarray, "_ _ _"]:
    """Returns class indices as the values of label files, on the whole canonical grid of a case's files."""
    decoded = np.array(scheme.decode, np.uint8)[labels]
    return on_acquired_grid(uncrop(decoded, prepared, 0), prepared.facts)


def write_labels(
    path: Path, labels: Labels, prepared: Prepared, scheme: LabelScheme, *, like: Image, description: str | None = None
) -> None:
    """Writes class indices as `label_values` has them, on the grid of the image `like`."""
    write_label_values(path, label_values(labels, prepared, scheme), like.grid, like.channel, description)


def write_label_values(path: Path, values: Labels, grid: Grid, channel: int | None, description: str | None) -> None:
    """Writes label values on a grid, with what the header says of them."""
    write_like(path, values, grid, channel=channel, dtype="uint8", description=description)


def description(lacks: Sequence[str], note: str | None = None) -> str | None:
    """Returns what the header of a label map says of its case; None where there is nothing to say."""
    parts = [f"without {', '.join(lacks)}" if lacks else "", note or ""]
    return "; ".join(filter(None, parts))[:_MOST_LETTERS] or None
