"""Intensities of a volume: by mean and deviation, or scaled to [0, 1] with the background at exactly 0, and back.

The rules that scale to [0, 1]:

* "minmax": a straight line from the background, or without one the least value, to the greatest value of the whole
  volume; what is darker than the background becomes 0 ("Hi-Net: Hybrid-fusion Network
  for Multi-modal MR Image Synthesis", section IV; its network takes [0, 1] to [-1, 1] by itself).
* "histmatch": the brain's percentiles onto landmarks, straight lines between, so that all brains have one histogram.
  The landmarks of T1, contrast-enhanced T1, T2 and FLAIR are those of the images published with that paper, whose
  brains were matched so although the text does not say it; others are learned from a reference volume.
* "percentiles": between two percentiles of the brain, apart from the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from jaxfuse.data.brain import TOLD, Background, BackgroundRule, find_brain, low_end
from jaxfuse.data.cases import Case
from jaxfuse.data.facts import CaseFacts, Scaling
from jaxfuse.errors import UserError

# Percentiles of the brain's voxels between which intensities are scaled.
PERCENTILES = (0.5, 99.5)
# Level of the least bright voxel of the brain then: 1 of 255, apart from the background.
DARKEST = 1 / 255
# Percentiles of the brain's voxels that are matched to landmarks.
MATCHED = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)

# Values whose distances from their mean are held in memory.
_AT_ONCE = 1 << 16

Landmarks = Mapping[str, tuple[float, ...]]
# Levels of the images published with Hi-Net at the percentiles `MATCHED` of the brain.
LANDMARKS: Landmarks = {
    modality: tuple(level / 255 for level in levels)
    for modality, levels in {
        "t1": (28, 105, 138, 166, 190, 215, 231, 235, 243, 255),
        "t1ce": (4, 16, 40, 89, 113, 130, 138, 146, 202, 255),
        "t2": (45, 53, 57, 65, 77, 109, 162, 198, 239, 255),
        "flair": (28, 73, 109, 146, 162, 178, 190, 198, 223, 255),
    }.items()
}


def moments(case_id: str, modality: str, values: Shaped[np.ndarray, ...]) -> tuple[float, float]:
    """Mean and standard deviation (of the population) in double precision; `UserError` for constant values."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise UserError(
            f"case {case_id}: modality {modality} is {low:g} everywhere; replace the file or leave the case out"
        )
    mean = values.mean(dtype=np.float64)
    return float(mean), float(np.sqrt(_squares(np.ravel(values), mean) / values.size))


def _squares(values: Shaped[np.ndarray, " n"], mean: np.float64) -> np.float64:
    """Sums squared distances from the mean, in halves as NumPy does, whose deviation holds all of them at once."""
    if values.size <= _AT_ONCE:
        apart = values - mean
        return np.add.reduce(np.multiply(apart, apart, out=apart))
    half = values.size // 2
    half -= half % 8
    return _squares(values[:half], mean) + _squares(values[half:], mean)


def percentile_limits(case_id: str, modality: str, values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The `PERCENTILES` of the brain's values; `UserError` where they are equal."""
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    if low == high:
        raise _no_range(case_id, modality, low)
    return low, high


def scaled_between(values: Float[np.ndarray, " n"], scaling: Scaling) -> Float[np.ndarray, " n"]:
    """Values clipped to the ends of a scaling and scaled from there to [1/255, 1]."""
    low, high = scaling[0][0], scaling[-1][0]
    share = (np.clip(values, low, high) - np.float32(low)) / np.float32(high - low)
    return (np.float32(DARKEST) + np.float32(1 - DARKEST) * np.clip(share, 0, 1)).astype(np.float32)


def between_percentiles(case_id: str, modality: str, values: Float[np.ndarray, " n"]) -> Scaling:
    """The straight line from the lower of the brain's `PERCENTILES` to the upper; `UserError` where they are equal."""
    low, high = percentile_limits(case_id, modality, values)
    return ((low, DARKEST), (high, 1.0))


def whole_range(volume: Shaped[np.ndarray, "*space"], background: Background | None = None) -> Scaling:
    """The straight line from the dark end of a volume that is not constant (`brain.low_end`) to its greatest value."""
    volume = volume.astype(np.float32, copy=False)
    low, high = low_end(volume, background), float(volume.max())
    return ((low if low < high else float(volume.min()), 0.0), (high, 1.0))


def matched(case_id: str, modality: str, values: Float[np.ndarray, " n"], landmarks: Sequence[float]) -> Scaling:
    """The scaling that maps the percentiles `MATCHED` of the brain onto the landmarks, and its least value onto 0.

    Voxels above the last percentile share its landmark. Where percentiles fall together, the highest of their
    landmarks counts.

    Raises:
        UserError: where all do.
    """
    stored = (float(values.min()), *(float(v) for v in np.percentile(values, MATCHED)))
    at = dict(zip(stored, (0.0, *landmarks), strict=True))
    if len(at) == 1:
        raise _no_range(case_id, modality, stored[0])
    return tuple(sorted(at.items()))


def apply_scaling(values: Float[np.ndarray, " n"], scaling: Scaling) -> Float[np.ndarray, " n"]:
    """Stored values -> [0, 1], float32; values beyond the ends become the ends."""
    stored, levels = zip(*scaling, strict=True)
    return np.interp(values, stored, levels).astype(np.float32)


@dataclass(frozen=True)
class Stored:
    """The intensities of one modality as stored: its whole volume, its background and the voxels of its brain."""

    volume: Shaped[np.ndarray, "d h w"]
    background: Background | None
    brain: Shaped[np.ndarray, ...]

    @property
    def levels(self) -> Float[np.ndarray, ...]:
        """The voxels of the brain in single precision."""
        return self.brain.astype(np.float32, copy=False)


# (case id, modality, its intensities, its landmarks) -> its scaling to [0, 1].
Fit = Callable[[str, str, Stored, Sequence[float]], Scaling]


@dataclass(frozen=True)
class Normalization:
    """One way in which intensities become what a network sees.

    Attributes:
        name: by which a config asks for it.
        whole_volume: whether mean and deviation are taken over the background too, which then is not 0: all of the
            volume is kept.
        needs_landmarks: whether it maps percentiles of the brain onto landmarks.
        picture_levels: whether gray levels of image files look to a network as its own intensities do.
        darkest: level of the least bright voxel of the brain, where intensities are scaled to [0, 1].
        fit: finds the scaling of one modality of a case to [0, 1]; None where intensities get mean 0 and deviation 1.
        apply: scales stored values.
    """

    name: str
    whole_volume: bool = False
    needs_landmarks: bool = False
    picture_levels: bool = False
    darkest: float = 0.0
    fit: Fit | None = None
    apply: Callable[[Float[np.ndarray, " n"], Scaling], Float[np.ndarray, " n"]] = apply_scaling

    def __reduce__(self) -> tuple[Callable[[str], Normalization], tuple[str]]:
        return _named, (self.name,)  # other processes have the rules themselves


BRAIN = Normalization("brain")
NORMALIZATIONS: Mapping[str, Normalization] = {
    one.name: one
    for one in (
        BRAIN,
        Normalization("volume", whole_volume=True),
        Normalization(
            "percentiles",
            picture_levels=True,
            darkest=DARKEST,
            fit=lambda case, modality, stored, marks: between_percentiles(case, modality, stored.levels),
            apply=scaled_between,
        ),
        Normalization(
            "minmax", fit=lambda case, modality, stored, marks: whole_range(stored.volume, stored.background)
        ),
        Normalization(
            "histmatch",
            needs_landmarks=True,
            fit=lambda case, modality, stored, marks: matched(case, modality, stored.levels, marks),
        ),
    )
}
# Levels of pictures, divided by 255.
LEVELS = Normalization("levels", picture_levels=True)


def _named(name: str) -> Normalization:
    return LEVELS if name == LEVELS.name else NORMALIZATIONS[name]


def normalization(name: str) -> Normalization:
    """The rule for volumes that is called `name`; refuses an unknown name."""
    if name not in NORMALIZATIONS:
        raise UserError(
            f"normalize is {name!r}; choose brain or volume, or percentiles, minmax or histmatch for [0, 1]"
        )
    return NORMALIZATIONS[name]


def landmarks_of(modalities: Sequence[str]) -> Landmarks:
    """The known `LANDMARKS` of these modalities; `UserError` for one that has none."""
    if unknown := [modality for modality in modalities if modality not in LANDMARKS]:
        raise UserError(
            f"normalize='histmatch' has no landmarks for {', '.join(unknown)}, only for {', '.join(LANDMARKS)}; name a "
            "case to match by data.reference, or normalize otherwise"
        )
    return {modality: LANDMARKS[modality] for modality in modalities}


def learned_landmarks(case: Case, background: BackgroundRule = TOLD) -> Landmarks:
    """The percentiles `MATCHED` of a case's own brain, scaled so that its dark end is 0 and the last of them 1."""
    brain = find_brain(case.channels, case.modalities, background)
    found = {}
    for channel, (modality, own) in enumerate(zip(case.modalities, brain.backgrounds, strict=True)):
        volume = case.channels[channel].astype(np.float32, copy=False)
        if not brain.mask.any() or volume.min() == volume.max():
            value = float(volume.min())
            raise UserError(f"case {case.id}: {modality} is {value:g} everywhere and nothing can be matched to it")
        low, marks = low_end(volume, own), np.percentile(volume[brain.mask], MATCHED)
        if marks[0] == marks[-1]:
            raise _no_range(case.id, modality, float(marks[0]))
        found[modality] = tuple(float(v) for v in np.maximum(marks - low, 0) / (marks[-1] - low))
    return found


def scaling_of(facts: CaseFacts, modality: str) -> Scaling:
    """The scaling of one modality of a case to [0, 1]; `UserError` where there was none."""
    if modality not in facts.modalities:
        raise UserError(f"case {facts.id} has no {modality}; it has {', '.join(facts.modalities)}")
    place = facts.modalities.index(modality)
    if not facts.scaling:
        raise UserError(
            f"case {facts.id} was not scaled to [0, 1]; normalize by one of percentiles, minmax and histmatch"
        )
    return facts.scaling[place]


def restore(levels: Float[np.ndarray, "*space"], facts: CaseFacts, modality: str) -> Float[np.ndarray, "*space"]:
    """Intensities in [0, 1] of one modality of this case in the units of its file, float32.

    The exact inverse for "minmax", up to rounding; for the other rules within the ends of their percentiles, as what
    lies beyond was cut off. The background, which is 0 in [0, 1], is the caller's to fill in.
    """
    stored, marks = zip(*scaling_of(facts, modality), strict=True)
    return np.interp(levels, marks, stored).astype(np.float32)


def stored_range(facts: CaseFacts, modality: str) -> tuple[float, float]:
    """The stored values that were scaled to the ends of [0, 1]."""
    scaling = scaling_of(facts, modality)
    return scaling[0][0], scaling[-1][0]


def _no_range(case_id: str, modality: str, value: float) -> UserError:
    return UserError(
        f"case {case_id}: modality {modality} is {value:g} in nearly all of the brain, so that there is no range to "
        "scale; replace the file or leave the case out"
    )
