"""The rows and all settings, frozen before the held-out pictures are opened.

Every row makes 1,000 steps on pictures that are drawn anew at each, 4 at a time, with one update of segmentation in a
step; the row of 10 follower steps alone makes ten, on the same pictures. Schemes that hold half of a batch out have
batches of 8, so that their follower sees 4 as well, and `joint, batch of 8` shows what the other 4 are worth. Rates,
schedule and loss are those of configs/fuse4seg.py; there are no critics, and the content term weighs 1 for intensity
and 20 for gradient, as in its preset for phantoms. Schemes other than joint stand at 0.01, the weight at which joint
came out best in a trial of 300 steps; the part "weights" has some at others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HELD_OUT_SEED, HELD_OUT = 20_467, 64
SEEDS = (0, 1, 2, 3, 4)
STEPS, BATCH = 1_000, 4
FUSION_RATE, SEGMENTATION_RATE, CLIP_NORM = 1e-3, 3e-3, 1.0
GRADIENT_WEIGHT, SHARE_EVERY = 20.0, 20
LAMBDAS = (1.0, 0.1, 0.01, 0.001, 0.0)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        part: of the experiment, that a command may ask for.
        reads: what segmentation reads where no fusion network learns beside it; of a row that starts with "frozen", the
            image of the network that the row of the rest of its name has trained.
        scheme, options, fusion_weight, follower_steps: of cooperative training.
        batch: pictures at a step.
        channels: of the fused image. The fusion loss and Qabf see its luminance, the task all of it.
    """

    part: str
    reads: str = ""
    scheme: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    fusion_weight: float = 1.0
    follower_steps: int = 1
    batch: int = BATCH
    channels: int = 1


# Schemes that hold out have twice the batch.
_SCHEMES = {"pixel": 1, "fusion_leader": 2, "rank_one": 2, "unrolled": 2, "weights": 1}


def _rows() -> dict[str, Row]:
    alone = ("A", "B", "mean", "maximum", "(A - B) / 2", "both channels")
    rows = {name: Row("joint", reads=name) for name in alone}
    rows["detached"] = Row("joint", scheme="detached")
    rows |= {f"joint, {weight:g}": Row("joint", scheme="joint", fusion_weight=weight) for weight in LAMBDAS}
    frozen = ("detached", *(f"joint, {weight:g}" for weight in LAMBDAS))
    rows |= {f"frozen {name}": Row("joint", reads=f"frozen {name}") for name in frozen}
    rows["joint, 0.01, batch of 8"] = Row("joint", scheme="joint", fusion_weight=0.01, batch=2 * BATCH)
    for name, times in _SCHEMES.items():
        rows[f"{name}, 0.01"] = Row("schemes", scheme=name, fusion_weight=0.01, batch=times * BATCH)
    fisher = {"curvature": "fisher"}
    held_out: dict[str, Any] = {"scheme": "fusion_leader", "fusion_weight": 0.01, "batch": 2 * BATCH}
    rows["fusion_leader, 0.01, Fisher"] = Row("schemes", options=fisher, **held_out)
    rows["fusion_leader, 0.01, 10 follower steps"] = Row("schemes", follower_steps=10, **held_out)
    for name in ("pixel", "fusion_leader", "rank_one"):
        for weight in (0.1, 0.001):
            batch = _SCHEMES[name] * BATCH
            rows[f"{name}, {weight:g}"] = Row("weights", scheme=name, fusion_weight=weight, batch=batch)
    for channels, name in enumerate(("two channels", "three channels"), start=2):
        rows[f"{name}, 1"] = Row("color", scheme="joint", channels=channels)
    return rows


ROWS: Mapping[str, Row] = _rows()
PARTS = ("joint", "schemes", "weights", "color")
# Differences are taken from these; `better single` is the better of A and B by its mean.
REFERENCES = ("better single", "detached", "both channels")
