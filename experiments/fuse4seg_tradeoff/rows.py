"""The rows and all settings, frozen before the held-out phantoms are opened.

Everything is that of the recipe configs/fuse4seg.py for phantoms (800 steps of pre-training, 900 of cooperation or of
segmentation alone), on the pair T1c and FLAIR alone, but for what a row changes: the weight of the fusion loss, and of
the gradient term in it, and the channels of the fused image. Pre-training is shared by the rows of a seed that fuse
into as many channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HELD_OUT_SEED, HELD_OUT = 20_468, 24
# Phantoms of validation, on which the default weight of the recipe is chosen.
VALIDATION_SEED, VALIDATION = 20_470, 96
SEEDS = (0, 1, 2)
PAIR = "t1ce+flair"
SOURCES = tuple(PAIR.split("+"))
LAMBDAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.0)
# Moves of the leader between two measurements of the terms' shares.
SHARE_EVERY = 50
FROZEN = "experiments.fuse4seg_tradeoff.frozen:frozen"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        part: of the experiment, that a command may ask for.
        recipe: the row of configs/fuse4seg.py that it departs from.
        scheme: the bi-level scheme; "" for segmentation alone.
        gradient_weight, fusion_weight: of the fusion loss, and of the gradient term in it.
        donor: the row whose fusion network is frozen; "" where none is.
    """

    part: str
    recipe: str
    scheme: str = ""
    gradient_weight: float = 20.0
    fusion_weight: float = 1.0
    donor: str = ""


def _rows() -> dict[str, Row]:
    titles = {"t1ce": "T1c", "flair": "FLAIR", "mean": "mean", "maximum": "maximum", "both_channels": "both channels"}
    rows = {title: Row("alone", recipe) for recipe, title in titles.items()}
    rows["detached"] = Row("joint", "full", "detached")
    for weight in LAMBDAS:
        rows[f"joint, {weight:g}"] = Row("joint", "full", "joint", fusion_weight=weight)
    donors = [name for name, row in rows.items() if row.scheme]
    for weight in LAMBDAS:
        rows[f"without gradient, {weight:g}"] = Row("without gradient", "full", "joint", 0.0, weight)
    for channels, recipe in (("two", "two_colors"), ("three", "color")):
        rows[f"{channels} channels, 1"] = Row("color", recipe, "joint")
    # Critics have nothing to do where the image stays as it is.
    rows |= {f"frozen {name}": Row("frozen", "wo_adv_coop", FROZEN, donor=name) for name in donors}
    return rows


ROWS: Mapping[str, Row] = _rows()
PARTS = ("alone", "joint", "without gradient", "frozen", "color")
# Differences are taken from these; `better single` is the better of T1c and FLAIR by its mean.
REFERENCES = ("better single", "detached", "both channels")
AS_TRAINED = "as trained"
# Condition at test time -> factors of T1c and FLAIR: as in training, with another gain, and without one of them.
CONDITIONS: Mapping[str, tuple[float, float]] = {
    AS_TRAINED: (1.0, 1.0),
    "T1c x 0.8": (0.8, 1.0),
    "FLAIR x 0.8": (1.0, 0.8),
    "without T1c": (0.0, 1.0),
    "without FLAIR": (1.0, 0.0),
}
