"""Commands that write, each on a small input of its own kind, by runs whose weights were drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import cmff, fuse4seg
from jaxfuse import evaluate, fuse, impute, predict
from jaxfuse.brats_fuse import __main__ as brats_fuse
from jaxfuse.engine.run import train
from jaxfuse.io.png import write_png
from tests.commands import call_here
from tests.made_cases import head, nested_cubes, save_volume, write_case
from tests.untrained_run import SCANNED, TRAIN, labeling_run, synthesis_run, write_untrained_run

SHAPE, CASES = (30, 26, 4), ("a", "b", "c")


@dataclass(frozen=True)
class Workshop:
    """Runs, and one folder of input for each kind of command, by its name below `data`."""

    labeling: Path
    synthesis: Path
    fusing: Path
    data: Path


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        given: name of its input below `Workshop.data`.
        option: the option that names its output.
        call: (workshop, input, output, **options); runs it in this process.
        file: one of the files that it writes into its output folder.
    """

    given: str
    option: str
    call: Callable[..., object]
    file: str


def make_workshop(folder: Path) -> Workshop:
    """Writes runs and inputs."""
    config, data = fuse4seg.get_config("tiny"), folder / "data"
    config.data.cache = str(folder / "cache")
    label = nested_cubes((8, 8, 8), {2: 3, 1: 2, 4: 1})
    for number, name in enumerate(CASES):
        write_case(data / "cases", name, head(SHAPE, number), **SCANNED)
        pixels = np.random.default_rng(number).integers(0, 256, (30, 28), np.uint8)
        for modality in ("MRI", "PET"):
            write_png(data / "pairs" / "MRI_PET" / modality / f"{name}.png", pixels)
        for side in ("pred", "ref"):
            save_volume(data / side / f"{name}.nii.gz", label)
    return Workshop(
        labeling_run(folder / "labeling", ("t1", "t2", "flair")),
        synthesis_run(folder / "synthesis", "tiny,row=mmsyns"),
        write_untrained_run(folder / "fusing", config, "cooperative", train=TRAIN),
        data,
    )


def _predict(run: str) -> Callable[..., object]:
    return lambda w, given, out, **options: call_here(
        predict, workdir=getattr(w, run), input=given, output=out, **options
    )


def _impute(w: Workshop, given: Path, out: Path, **options: Any) -> None:
    call_here(impute, synthesis=w.synthesis, segmentation=w.labeling, input=given, output=out, **options)


def _fuse(w: Workshop, given: Path, out: Path, **options: Any) -> None:
    call_here(fuse, run=w.fusing, pairs=given, output=out, **options)


def _brats_fuse(w: Workshop, given: Path, out: Path, **options: Any) -> None:
    call_here(brats_fuse, root=given, run=w.fusing, out=out, combos="t1+t2", one_per_case=True, **options)


def _evaluate(other: str) -> Callable[..., object]:
    def call(w: Workshop, given: Path, out: Path, **options: Any) -> None:
        folders = {"pred": given, "ref": given, other: w.data / other}
        call_here(evaluate, protocol="brats", labels="brats", out=out, pictures=0, **folders, **options)

    return call


def _train(w: Workshop, given: Path, out: Path, **options: Any) -> None:
    config = cmff.get_config("tiny")
    config.data.root, config.data.cache = str(given), str(w.data.parent / "cache")
    train(config, out, **options)


COMMANDS: Mapping[str, Command] = {
    "predict by a run that labels": Command("cases", "--output", _predict("labeling"), "b.nii.gz"),
    "predict by a run that synthesizes": Command("cases", "--output", _predict("synthesis"), "b_flair.json"),
    "impute": Command("cases", "--output", _impute, "report.html"),
    "fuse": Command("pairs", "--output", _fuse, "MRI_PET/b.png"),
    "evaluate, of predictions": Command("pred", "--out", _evaluate("ref"), "cases.csv"),
    "evaluate, of references": Command("ref", "--out", _evaluate("pred"), "summary.json"),
    "brats_fuse": Command("cases", "--out", _brats_fuse, "manifest.csv"),
    "train": Command("cases", "--workdir", _train, "config.json"),
}
# The commands that write file by file; the others own the whole folder.
BY_FILES = {name: command for name, command in COMMANDS.items() if name not in ("brats_fuse", "train")}
