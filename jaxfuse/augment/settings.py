"""Settings of augmentation: each random change with its published range, and presets that switch several on.

A change acts on an example with its `probability`; 0 leaves it out of the compiled step. Ranges are those of nnU-Net's
trainer (nnunetv2, class nnUNetTrainer; Isensee et al., Nature Methods 18:203, 2021) where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from jaxfuse.errors import UserError

# Smaller and greater end of what is drawn.
Ends = tuple[float, float]


@dataclass(frozen=True)
class Flip:
    """Mirroring along each spatial axis, independently, with this probability; nnU-Net: 0.5.

    It is part of the draw of an example (`jaxfuse.data.pipeline`): a mirrored patch is only read the other way round.
    """

    probability: float = 0.0


@dataclass(frozen=True)
class QuarterTurn:
    """Turns by 90, 180 or 270 degrees in a plane of two equal sides (RandRotate90 of MONAI); voxels keep their values.

    The thick axis of thick slices is not turned.
    """

    probability: float = 0.0


@dataclass(frozen=True)
class Rotation:
    """Rotation in each plane by an angle of up to `degrees` to either side.

    None: 30 where three axes turn; where two do, 180, or 15 where one side of the patch is over 1.5 times the other.
    """

    probability: float = 0.0
    degrees: float | None = None


@dataclass(frozen=True)
class Scaling:
    """Magnification by one factor for all axes, below 1 and above it equally often."""

    probability: float = 0.0
    range: Ends = (0.7, 1.4)


@dataclass(frozen=True)
class Elastic:
    """Displacement by cubic B-splines of random nodes, each up to `most_mm` along each axis, `control_mm` apart.

    TorchIO's RandomElasticDeformation moves nodes by up to 7.5 mm; its 7 of them along a head lie some 40 mm apart.
    """

    probability: float = 0.0
    most_mm: float = 7.5
    control_mm: float = 40.0


@dataclass(frozen=True)
class BiasField:
    """Multiplication by exp(p), p a polynomial of third order over a field of view, its coefficients up to this size.

    RandomBiasField of TorchIO (Van Leemput et al., IEEE Trans Med Imaging 18:885, 1999), whose field of view is the
    whole image. The patch is taken to lie anywhere in one of `view_mm`, so that a small patch sees a small part of it.
    """

    probability: float = 0.0
    coefficient: float = 0.5
    view_mm: float = 240.0


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, its standard deviation drawn from 0 to `sigma`, the same for all modalities.

    nnU-Net calls 0.1 a variance, and its code draws a standard deviation up to it.
    """

    probability: float = 0.0
    sigma: float = 0.1


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of each modality with `modality_probability`, by a sigma of `range` in voxels."""

    probability: float = 0.0
    modality_probability: float = 0.5
    range: Ends = (0.5, 1.0)


@dataclass(frozen=True)
class LowResolution:
    """Resolution of each modality, with `modality_probability`, lowered to a share of `range` along each axis.

    Nearest voxels of the coarser grid are taken, and what lies between them is interpolated.
    """

    probability: float = 0.0
    modality_probability: float = 0.5
    range: Ends = (0.5, 1.0)


@dataclass(frozen=True)
class Brightness:
    """Multiplication of each modality by a factor, below 1 and above it equally often."""

    probability: float = 0.0
    range: Ends = (0.75, 1.25)


@dataclass(frozen=True)
class Shift:
    """Addition of a value up to `most` in either direction to each modality (RandShiftIntensity of MONAI for BraTS)."""

    probability: float = 0.0
    most: float = 0.1


@dataclass(frozen=True)
class Contrast:
    """Stretching of each modality about its mean, below 1 and above it equally often; its range is kept."""

    probability: float = 0.0
    range: Ends = (0.75, 1.25)


@dataclass(frozen=True)
class Gamma:
    """Power of each modality, scaled to [0, 1] for it; exponents below and above 1 equally often.

    Mean and standard deviation are then made what they were.
    """

    probability: float = 0.0
    range: Ends = (0.7, 1.5)


@dataclass(frozen=True)
class InvertedGamma(Gamma):
    """`Gamma` of the negative: it spreads bright values where that spreads dark ones."""


@dataclass(frozen=True)
class Augment:
    """The random changes of a phase's examples, in the order in which they act.

    Their places decide their random numbers: one that is switched on leaves those of the others alone.
    """

    flip: Flip = field(default_factory=Flip)
    quarter_turn: QuarterTurn = field(default_factory=QuarterTurn)
    rotation: Rotation = field(default_factory=Rotation)
    scaling: Scaling = field(default_factory=Scaling)
    elastic: Elastic = field(default_factory=Elastic)
    bias_field: BiasField = field(default_factory=BiasField)
    noise: Noise = field(default_factory=Noise)
    blur: Blur = field(default_factory=Blur)
    low_resolution: LowResolution = field(default_factory=LowResolution)
    brightness: Brightness = field(default_factory=Brightness)
    shift: Shift = field(default_factory=Shift)
    contrast: Contrast = field(default_factory=Contrast)
    inverted_gamma: InvertedGamma = field(default_factory=InvertedGamma)
    gamma: Gamma = field(default_factory=Gamma)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the changes that are switched on."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name).probability)

    @property
    def resamples(self) -> bool:
        """Whether voxels are moved to places between those of the grid."""
        return bool({"rotation", "scaling", "elastic"} & set(self.active))

    @property
    def in_step(self) -> tuple[str, ...]:
        """The names of those that act in the compiled step: all but mirroring."""
        return tuple(name for name in self.active if name != "flip")


PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    # The transforms of MONAI's segmentation of BraTS (tutorials, 3d_segmentation/brats_segmentation_3d).
    "light": {
        "flip": {"probability": 0.5},
        "brightness": {"probability": 1.0, "range": (0.9, 1.1)},
        "shift": {"probability": 1.0},
    },
    # nnUNetTrainer of nnU-Net v2.
    "nnunet": {
        "flip": {"probability": 0.5},
        "rotation": {"probability": 0.2},
        "scaling": {"probability": 0.2},
        "noise": {"probability": 0.1},
        "blur": {"probability": 0.2},
        "low_resolution": {"probability": 0.25},
        "brightness": {"probability": 0.15},
        "contrast": {"probability": 0.15},
        "inverted_gamma": {"probability": 0.1},
        "gamma": {"probability": 0.3},
    },
}


def augment_from(options: Any) -> Augment:
    """Reads the group `augment` of a phase; an option that is None, or left out, is that of the preset.

    Raises:
        UserError: a preset, a change or an option is not known, or a range is none.
    """
    preset = options.get("preset", "none")
    if preset not in PRESETS:
        raise UserError(f"augment.preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    known = {one.name: one.default_factory for one in fields(Augment)}
    if wrong := sorted(set(options) - set(known) - {"preset"}):
        raise UserError(f"augment has no {', '.join(wrong)}; choose from {', '.join(known)}")
    chosen = {}
    for name, make in known.items():
        group = {key: value for key, value in dict(options.get(name) or {}).items() if value is not None}
        chosen[name] = _read(name, make, {**PRESETS[preset].get(name, {}), **group})
    return Augment(**chosen)


def _read(name: str, make: Any, options: Mapping[str, Any]) -> Any:
    """Returns one change with these options."""
    known = [one.name for one in fields(make)]
    if wrong := sorted(set(options) - set(known)):
        raise UserError(f"augment.{name} has no option {', '.join(wrong)}; it has {', '.join(known)}")
    values = {key: tuple(value) if key == "range" else value for key, value in options.items()}
    ends = values.get("range", (0, 0))
    if len(ends) != 2 or ends[0] > ends[1]:
        raise UserError(f"augment.{name}.range is {ends}; it must be the smaller and the greater end")
    return make(**values)
