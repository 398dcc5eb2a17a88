"""Scores of a trained row on held-out slices, as they are and as a scanner or an absent sequence would change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from configs import fuse4seg
from experiments.fuse4seg_tradeoff import rows
from experiments.fuse4seg_tradeoff.training import Stage
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.prepared import PreparedSlice
from jaxfuse.data.slices import View, prepare_slices
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.fused_images import FusedImages, Levels, noting
from jaxfuse.engine.judging.segmentation import segmentation
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.labels import label_scheme
from jaxfuse.learning.state import State
from jaxfuse.learning.system import FUSED

REGIONS = ("WT", "TC", "ET")


class Changed:
    """A System that sees images times the factors in a state's memory, whatever else it is."""

    def __init__(self, system: Any):
        self.system = system

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)

    def predict(self, state: State, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return self.system.predict(state, {**inputs, "image": inputs["image"] * state.memory["factors"]})


def new_phantoms(count: int, seed: int, folder: Path) -> list[PreparedSlice]:
    """Picks the slice with the largest tumor of each of so many phantoms of a seed."""
    root, scheme, phantom = folder / f"phantoms-{seed}-{count}", label_scheme("brats"), fuse4seg.SIZES[""].phantom
    write_brats_phantoms(root, cases=count, seed=seed, shape=phantom["shape"], spacing_mm=phantom["spacing_mm"])
    files = SOURCE.find(root, fuse4seg.MODALITIES, labels_required=True)
    slices = prepare_slices(files, fuse4seg.MODALITIES, scheme, view=View(one_per_case=True), cache=folder / "cases")
    return [one for case in slices.values() for one in case]


@cache
def _predictor(stage: Stage) -> Any:
    changed: Any = Changed(stage.system)
    return case_predictor(changed, stage.phase)


def score(
    stage: Stage, state: State, cases: Sequence[PreparedSlice], conditions: Sequence[str] = tuple(rows.CONDITIONS)
) -> dict[str, dict[str, list[float]]]:
    """By condition: the Dice of each region, and Qabf where there is a fused image, of each slice."""
    judge = segmentation(Judged(label_scheme("brats"), stage.system.primary, stage.system.probabilities, (rows.PAIR,)))
    weights = state.replace(opt_state={}, memory={})
    found = {}
    for condition in conditions:
        each = dict(zip(rows.SOURCES, rows.CONDITIONS[condition], strict=True))
        given = jnp.asarray([each.get(name, 1.0) for name in fuse4seg.MODALITIES], jnp.float32)
        levels: Levels = {}
        predict = noting(partial(_predictor(stage), weights.replace(memory={"factors": given})), levels)
        judged, _, _ = judge.judge(predict, cases)
        scores = {region: [row["dice"] for row in judged if row["region"] == region] for region in REGIONS}
        if levels:
            images = FusedImages(rows.SOURCES).rows(cases, levels)
            scores["qabf"] = [row["qabf"] for row in images if row["output"] == FUSED]
        found[condition] = scores
    return found


def images_without_network(cases: Sequence[PreparedSlice]) -> dict[str, float]:
    """Mean Qabf of the mean and the maximum of the sources."""
    made = FusedImages(rows.SOURCES).rows(cases, {})
    by_image = {name: [row["qabf"] for row in made if row["output"] == name] for name in ("mean", "maximum")}
    return {name: float(np.mean(values)) for name, values in by_image.items()}
