"""Ranges of a recipe's numbers: one that makes no sense is refused by its name before anything is read.

A range belongs to the name of an option, wherever it stands; where one name has two meanings, the longer one decides
(`options.width` before `width`). A number of a name that is not listed here must be finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxfuse.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, without either of them where it is `open`."""

    least: float = -math.inf
    most: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def __contains__(self, value: float) -> bool:
        """Tells whether a number lies in it; NaN and the infinities never do."""
        if not math.isfinite(value) or not self.least <= value <= self.most:
            return False
        return not (self.open_below and value == self.least) and not (self.open_above and value == self.most)

    def __str__(self) -> str:
        lower = f"{'above' if self.open_below else 'at least'} {self.least:g}"
        upper = f"{'below' if self.open_above else 'at most'} {self.most:.10g}"
        if math.isinf(self.most):
            return lower if math.isfinite(self.least) else "finite"
        return f"{lower} and {upper}"


FINITE = Range()
POSITIVE = Range(0, open_below=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
RATE = Range(0, 1, open_above=True)
# Steps are counted in 32 bits on the device; a network of 65,536 channels fits into no memory.
MOST, WIDEST = 2**31 - 1, 2**16
COUNT, COUNT_OR_NONE, SIZE = Range(1, MOST), Range(0, MOST), Range(1, WIDEST)
SEED = Range(0, 2**32 - 1)

_NAMES: Mapping[Range, str] = {
    SEED: "seed split_seed",
    COUNT_OR_NONE: (
        "steps epochs every every_epochs workers threads fold folds bootstrap memory_mb warmup_steps "
        "labeled labeled_draw inner_steps window share_every checkpoint_every steps_per_call deep_supervision "
        "patience prepare_workers"
    ),
    COUNT: "log_every prefetch cases options.steps accumulate space follower_steps leader_every",
    SIZE: (
        "batch tile_batch patch shape grid pool_size base levels width widths decoder_widths head heads hidden dim "
        "blocks convs_per_block decoder_blocks front high_nodes cell text_dim rounds downs latent widest mix_kernel "
        "most stem units train_side vit_depth vit_heads vit_hidden vit_width fusion_width critic_base "
        "critic_layers critic_width critic_widths growth layers narrowing enter depth stages depths sizes "
        "segmentation.window"
    ),
    Range(2, 3): "ndim",
    Range(1, 3): "image_channels",
    RATE: "b1 b2 momentum decay ema_decay norm_decay memory_decay overlap val_fraction dropout drop_path",
    SHARE: "trunk_rate probability modality_probability corruption slope correlation_weight alpha beta",
    Range(0, 1, open_below=True): "factor low_resolution.range",
    Range(0, 180): "degrees",
    POSITIVE: (
        "learning_rate clip_norm spacing_mm eps norm_eps critic_norm_eps expansion clamp coupling options.width "
        "options.entropy_weight frequencies range control_mm view_mm keeping.constant"
    ),
    Range(0, 2, open_below=True): "phantom.contrast",
    Range(0, 10): "noise_scale phantom.mimics",
    Range(0, 24): "lesion_mm",
    NOT_NEGATIVE: (
        "most_mm coefficient noise.sigma shift.most a b gamma kappa damping weight_decay cycle_weight "
        "identity_weight target_weight variance_weight "
        "segmentation_weight fusion_weight adversarial_weight penalty_weight gradient_weight "
        "intensity_weight likeness_weight detail_weight first_weight second_weight pixel_weight "
        "content_weight error_weight first_times second_times reconstruction_weight dice_weight "
        "entropy_weight ssim_weight difference_weight decomposition_weight checkpoint_minutes time_limit"
    ),
}
RANGES: Mapping[str, Range] = {name: one for one, names in _NAMES.items() for name in names.split()}


def range_of(option: str) -> Range | None:
    """Returns the declared range of an option by its dotted name; None where none is declared."""
    parts = option.split(".")
    names = (".".join(parts[start:]) for start in range(len(parts)))
    return next((RANGES[name] for name in names if name in RANGES), None)


def numbers(value: Any) -> Iterator[float]:
    """Yields the numbers of an option, which may be a tuple of them; True and False are none."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check_ranges(options: Mapping[str, Any]) -> None:
    """Refuses options, by their dotted names, of which a number lies outside of its range.

    Raises:
        UserError: names the option, its value and the range.
    """
    for name, value in options.items():
        allowed = range_of(name) or FINITE
        if any(number not in allowed for number in numbers(value)):
            each = "; each must be" if isinstance(value, tuple | list) else "; it must be"
            raise UserError(f"{name} is {value}{each} {allowed}")
