"""The rows of the supervised comparison and their trainings; within a family all have the same share of their widths.

HyperFusionNet and its baseline have a sixth of the published widths, the preset of configs/hyperfusion.py for phantoms;
InfiNet and its U-Nets a quarter (16 of 64 channels, 4 of 16). The rate of each kind is one of half, once and twice its
recipe's, chosen by Dice on phantoms of `CHOICE_SEED` after the short training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.shared import train_once
from jaxfuse.data.phantom.infant import write_infant_phantoms
from jaxfuse.data.phantom.stroke import write_stroke_phantoms

# Phantoms on which rates were chosen, and those that are scored.
CHOICE_SEED, HELD_OUT_SEED = 30_403, 30_404
CHOICE_CASES, HELD_OUT = 4, 24
FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class Family:
    """Rows that are compared with each other.

    Attributes:
        reference: the row that differences are taken from.
        lengths: steps of the two trainings of each row.
        phases: that a training has.
        phantoms: the name of theirs, and of the folder that they lie in.
    """

    title: str
    reference: str
    lengths: tuple[int, int]
    phases: tuple[str, ...]
    phantoms: str


WRITERS = {"infant": write_infant_phantoms, "stroke": write_stroke_phantoms}
VIEWS = ("sagittal", "coronal", "axial")
INFANT = Family(
    "HyperFusionNet and HyperDense-Net, infant tissue",
    "HyperDense-Net",
    (350, 700),
    ("segmentation",),
    "infant",
)
SLICES = Family("InfiNet and its U-Nets, infant tissue", "InfiNet", (150, 300), VIEWS, "infant")
STROKE = Family(
    "HyperFusionNet in two dimensions, stroke",
    "baseline, cross-entropy",
    (500, 2000),
    ("segmentation",),
    "stroke",
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        config: the recipe that it is trained by.
        kind: those of one kind share a rate.
        rate: of the recipe.
        options: of the training.
        shown: the phases that label, of whose probabilities the mean is taken; all if none is named.
    """

    family: Family
    config: str
    kind: str
    rate: float
    options: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


def _infant(row: str, kind: str, *options: str) -> Row:
    return Row(INFANT, f"configs/hyperfusion.py:,row={row}", kind, 5e-4, options)


def _slices(row: str, kind: str, *options: str, shown: tuple[str, ...] = ()) -> Row:
    return Row(SLICES, f"configs/infinet.py:,row={row}", kind, 0.01, options, shown)


def _stroke(row: str, kind: str) -> Row:
    return Row(STROKE, f"configs/hyperfusion.py:,data=stroke,row={row}_2d", f"stroke, {kind}", 2e-4)


HEAD = "--config.network.form.head=(64, 32, 24)"
U_NET = "--config.network.form.base=4"
ROWS: Mapping[str, Row] = {
    "HyperDense-Net": _infant("baseline", "cross-entropy"),
    "HyperFusionNet, cross-entropy, the baseline's head": _infant("resfuse", "cross-entropy", HEAD),
    "HyperFusionNet, cross-entropy": _infant("resfuse", "cross-entropy"),
    "HyperFusionNet": _infant("full", "combo"),
    "U-Net, single arm, coronal": _slices("unet_single", "u-net", U_NET),
    "U-Net, double arm, coronal": _slices("unet_double", "u-net", U_NET),
    "InfiNet, coronal": _slices("aggregated", "infinet", shown=("coronal",)),
    "InfiNet": _slices("aggregated", "infinet"),
    "baseline, cross-entropy": _stroke("baseline", "cross-entropy"),
    "incremental filters": _stroke("incremental", "cross-entropy"),
    "ResFuse": _stroke("resfuse", "cross-entropy"),
    "ResFuse, Combo": _stroke("full", "combo"),
    "ResFuse, Dice": _stroke("dice", "dice"),
    "ResFuse, focal": _stroke("focal", "focal"),
    "ResFuse, Tversky": _stroke("tversky", "tversky"),
}
# Kind -> (the row by which its rate is chosen, the factor that was chosen).
KINDS: Mapping[str, tuple[str, float]] = {
    "cross-entropy": ("HyperDense-Net", 1.0),
    "combo": ("HyperFusionNet", 1.0),
    "u-net": ("U-Net, double arm, coronal", 1.0),
    "infinet": ("InfiNet, coronal", 1.0),
    "stroke, cross-entropy": ("baseline, cross-entropy", 1.0),
    "stroke, combo": ("ResFuse, Combo", 1.0),
    "stroke, dice": ("ResFuse, Dice", 1.0),
    "stroke, focal": ("ResFuse, focal", 1.0),
    "stroke, tversky": ("ResFuse, Tversky", 1.0),
}


@dataclass(frozen=True)
class Training:
    """One training of a row."""

    row: str
    steps: int
    seed: int
    factor: float

    @property
    def family(self) -> Family:
        return ROWS[self.row].family

    def phases(self) -> tuple[str, ...]:
        """The phases that are trained."""
        row = ROWS[self.row]
        return ("coronal",) if "unet" in row.config else row.family.phases

    def workdir(self, folder: Path) -> Path:
        """The run folder, which rows of one training share."""
        row = ROWS[self.row]
        recipe, _, call = row.config.removeprefix("configs/").partition(".py:,")
        name = "-".join((recipe, *call.replace("=", "_").split(",")))
        head = "-head" if HEAD in row.options else ""
        return folder / f"{name}{head}-{self.steps}-rate{self.factor:g}-seed{self.seed}"

    def runs(self, folder: Path) -> list[str]:
        """The trained phases that label, as commands name them."""
        return [f"{self.workdir(folder)}:{name}" for name in ROWS[self.row].shown or self.phases()]

    def run(self, folder: Path) -> float:
        """Trains unless it was done before; returns the seconds of that training."""
        row, options = ROWS[self.row], [f"--config.seed={self.seed}"]
        for phase in self.phases():
            own = {"steps": self.steps, "validation.every": 0, "optimizers.net.learning_rate": row.rate * self.factor}
            options += [f"--config.{phase}.{name}={value}" for name, value in own.items()]
        seconds = train_once(row.config, self.workdir(folder), *options, *row.options)
        print(f"{self.workdir(folder).name}: trained in {seconds:.0f} s", flush=True)
        return seconds


def trainings(seeds: Sequence[int]) -> list[Training]:
    """Returns all that are compared; a training that several rows share is named by each."""
    return [
        Training(name, steps, seed, KINDS[row.kind][1])
        for seed in seeds
        for name, row in ROWS.items()
        for steps in row.family.lengths
    ]


def choices() -> list[Training]:
    """Returns the short trainings by which rates are chosen."""
    rows = [row for row, _ in KINDS.values()]
    return [Training(row, ROWS[row].family.lengths[0], 0, factor) for row in rows for factor in FACTORS]
