"""The settings of the experiment, frozen before a held-out phantom was opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs import cmff
from jaxfuse.config import Experiment, parse
from jaxfuse.data.phantom.looks import PLAIN, Looks

# Rows of `configs/cmff.py`, and the row whose first phase each begins with.
PRETRAINED: Mapping[str, str] = {
    "random": "",
    "self": "self",
    "denoising": "denoising",
    "paired": "paired",
    "ours": "ours",
    "slow": "ours",
    "frozen": "ours",
}
ROWS = tuple(PRETRAINED)
MODALITIES = ("t1", "t1ce", "t2", "flair")
# Seeds of phantoms that nothing else in this repository uses.
POOL_SEED, VALIDATION_SEED, HELD_OUT_SEED = 41_001, 41_002, 41_003
# Times the rate of the recipe, of which each row has the one that is best on the validation phantoms.
FACTORS = (0.5, 1.0, 2.0)
# The draw of labeled cases, and the seed of their patches, by which rates are chosen and curves are followed.
CHOOSING_SUBSET, CHOOSING_SEED = 99, 99
# Harder phantoms by name.
HARDER: Mapping[str, Looks] = {
    "usual": PLAIN,
    "contrast": Looks(contrast=0.5),
    "noise": Looks(noise_scale=2.0),
    "small": Looks(lesion_mm=8.0),
    "mimics": Looks(mimics=3.0),
}


@dataclass(frozen=True)
class Protocol:
    """Everything that decides a score.

    Attributes:
        pool, validation, held_out: phantoms of each set; labels are drawn from the pool.
        base, levels, fusion_width, patch: of the networks; half of the default recipe's widths, on its patches.
        first_steps, first_rate: of what learns from images alone.
        steps, rate: of what learns from labels, before the factor of a row.
        labels: labeled cases; subsets: draws of them; seeds: of the networks and batches.
        choosing_labels: labeled cases in the choice of rates, and in curves.
        marks: steps at which curves are judged.
        harder_labels, harder_subsets, harder_seeds: of harder phantoms.
    """

    pool: int = 40
    validation: int = 4
    held_out: int = 12
    shape: tuple[int, int, int] = (64, 64, 48)
    spacing_mm: float = 3.0
    base: int = 4
    levels: int = 3
    fusion_width: int = 8
    patch: int = 24
    first_steps: int = 600
    first_rate: float = 1e-3
    steps: int = 300
    rate: float = 3e-3
    labels: tuple[int, ...] = (2, 4, 8)
    subsets: tuple[int, ...] = (0, 1, 2, 3, 4)
    seeds: tuple[int, ...] = (0, 1)
    choosing_labels: int = 4
    marks: tuple[int, ...] = (25, 50, 100, 200, 300, 500, 700, 1000)
    harder_labels: tuple[int, ...] = (4,)
    harder_subsets: tuple[int, ...] = (0, 1)
    harder_seeds: tuple[int, ...] = (0,)

    def experiment(self, row: str) -> Experiment:
        """Returns a row of the recipe at these sizes: its last phase learns from labels, one before it from images."""
        config: Any = cmff.get_config(f",row={row}")
        config.network.unet.base, config.network.unet.levels = self.base, self.levels
        for name in config.schedule:
            config[name].patch = (self.patch,) * 3
            config[name].validation.every = 0
        last = config[config.schedule[-1]]
        last.steps, last.args.fusion.fusion_width = self.steps, self.fusion_width
        last.optimizers.net.learning_rate = self.rate
        if len(config.schedule) > 1:
            first = config[config.schedule[0]]
            first.steps, first.sampling = self.first_steps, "brain"
            for player in first.optimizers.values():
                player.learning_rate = self.first_rate
            if "cycle" in first.args:
                first.args.cycle.critic_base = self.base
        return parse(config)


FROZEN = Protocol()
# For a look at whether all parts run; its scores say nothing.
SMOKE = Protocol(
    pool=3,
    validation=1,
    held_out=2,
    shape=(32, 32, 24),
    spacing_mm=6.0,
    base=2,
    levels=2,
    fusion_width=2,
    patch=16,
    first_steps=2,
    steps=2,
    labels=(1, 2),
    subsets=(0,),
    seeds=(0,),
    choosing_labels=1,
    marks=(1, 2),
    harder_labels=(1,),
    harder_subsets=(0,),
)


def labeled_places(pool: int, labels: int, subset: int) -> Sequence[int]:
    """Draws which cases of the pool have a label; those of fewer labels are among those of more."""
    return np.random.default_rng((POOL_SEED, subset)).permutation(pool)[:labels].tolist()
