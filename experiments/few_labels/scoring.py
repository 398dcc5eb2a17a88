"""Phantoms of the experiment, and Dice of their regions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.few_labels.protocol import MODALITIES, Protocol
from experiments.few_labels.training import Cases
from jaxfuse.data.cache import prepare
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.phantom.looks import Looks
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.labels import LabelScheme, label_scheme
from jaxfuse.metrics.overlap import dice

SCHEME = label_scheme("brats")


def opened(root: Path, count: int, seed: int, protocol: Protocol, looks: Looks) -> Cases:
    """Returns prepared phantoms of a seed, which are written unless they were before."""
    write_brats_phantoms(
        root, cases=count, seed=seed, shape=protocol.shape, spacing_mm=protocol.spacing_mm, looks=looks
    )
    return prepare(SOURCE.find(root, MODALITIES, labels_required=True), MODALITIES, SCHEME, cache=root.parent / "cases")


def dices(labels: np.ndarray, case: PreparedCase, scheme: LabelScheme = SCHEME) -> dict[str, float]:
    """Dice of the regions that a case has, within its brain."""
    found, truth = masked_labels(labels, case.brain), np.asarray(case.label)
    masks = {name: [np.isin(one, members) for one in (found, truth)] for name, members in scheme.regions.items()}
    return {name: round(dice(*pair), 5) for name, pair in masks.items() if pair[1].any()}


def case_score(regions: Mapping[str, float]) -> float:
    """The score of a case: the mean Dice of the regions that it has."""
    return float(np.mean(list(regions.values())))
