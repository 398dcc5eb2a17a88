"""The rows of Hi-Net's comparison, all at half of their published widths, and their trainings.

Published widths: Hi-Net 32 channels, its critic too; pix2pix and CycleGAN 64, 6 blocks; MM-Syns 32, a latent space of
16. On patches of 64^2 pix2pix halves 6 times where the paper halves 128^2 7 times. All have Adam and a cosine schedule;
the rate of each kind is one of half, once and twice `RATE`, chosen by PSNR on phantoms of `CHOICE_SEED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from experiments.shared import train_once

# Phantoms on which rates were chosen, and those that are scored.
CHOICE_SEED, HELD_OUT_SEED = 30_401, 30_402
CHOICE_CASES, HELD_OUT = 6, 24
LENGTHS = (1000, 4000)
RATE = 2e-3
FACTORS = (0.5, 1.0, 2.0)
# Kind -> the factor of `RATE` that was chosen. CycleGAN, which takes half an hour for 1,000 steps, has that of pix2pix:
# both were published with one rate and one optimizer. PSNR in dB at half, once and twice: Hi-Net 23.56, 23.42, 23.27;
# MM-Syns 23.45, 23.72, 9.57; pix2pix 20.12, 21.577, 21.584.
CHOSEN: Mapping[str, float] = {"hinet": 0.5, "pix2pix": 2.0, "cyclegan": 2.0, "mmsyns": 1.0}


@dataclass(frozen=True)
class Row:
    """A network of configs/hinet.py.

    Attributes:
        title: in the tables.
        kind: those of one kind share a rate.
        form: its widths, half of what was published.
        players: whose rates are set.
        lengths, seeds: of its trainings.
    """

    title: str
    kind: str
    form: Mapping[str, int]
    players: tuple[str, ...] = ("generator", "discriminator")
    lengths: tuple[int, ...] = LENGTHS
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class HiNet(Row):
    """Hi-Net and its ablations."""

    kind: str = "hinet"
    form: Mapping[str, int] = field(default_factory=lambda: {"width": 16, "critic_width": 16})


PIX2PIX = {"width": 32, "critic_width": 32}
SEVERAL = (0, 1, 2)
# The two that the claim rests on have three seeds, the others one.
ROWS: Mapping[str, Row] = {
    "full": HiNet("Hi-Net", seeds=SEVERAL),
    "mmsyns": Row("MM-Syns", "mmsyns", {"width": 16, "latent": 8}, ("net",), seeds=SEVERAL),
    "degraded1": HiNet("both networks concatenate"),
    "degraded2": HiNet("synthesis concatenates"),
    "degraded3": HiNet("fusion concatenates"),
    "early": HiNet("early fusion"),
    "late": HiNet("late fusion"),
    "pix2pix": Row("pix2pix from T1", "pix2pix", PIX2PIX),
    "pix2pix_second": Row("pix2pix from T2", "pix2pix", PIX2PIX),
    "cyclegan": Row(
        "CycleGAN from T1",
        "cyclegan",
        {**PIX2PIX, "blocks": 6},
        ("generators", "discriminators"),
        lengths=LENGTHS[:1],
    ),
}


@dataclass(frozen=True)
class Training:
    """One training of a row."""

    row: str
    steps: int
    seed: int
    factor: float

    def workdir(self, folder: Path) -> Path:
        return folder / f"{self.row}-{self.steps}-rate{self.factor:g}-seed{self.seed}"

    def run(self, folder: Path) -> float:
        """Trains unless it was done before; returns the seconds of that training."""
        row, phase = ROWS[self.row], "--config.synthesis"
        options = [f"{phase}.args.form.{name}={value}" for name, value in row.form.items()]
        options += [f"{phase}.optimizers.{one}.learning_rate={RATE * self.factor}" for one in row.players]
        options += [f"{phase}.steps={self.steps}", f"{phase}.validation.every=0", f"--config.seed={self.seed}"]
        seconds = train_once(f"configs/hinet.py:,row={self.row}", self.workdir(folder), *options)
        print(f"{self.workdir(folder).name}: trained in {seconds:.0f} s", flush=True)
        return seconds


def trainings() -> list[Training]:
    """Returns all that are compared, those of several seeds first."""
    return [
        Training(name, steps, seed, CHOSEN[row.kind])
        for name, row in ROWS.items()
        for seed in row.seeds
        for steps in row.lengths
    ]


def choices() -> list[Training]:
    """Returns the short trainings by which rates are chosen, one row of a kind."""
    return [Training(name, LENGTHS[0], 0, factor) for name in ("full", "mmsyns", "pix2pix") for factor in FACTORS]
