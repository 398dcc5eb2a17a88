"""Fusion without labels on real pairs: MRI with CT, PET and SPECT, judged on heads that no training has seen.

    python -m experiments.harvard_pairs.run --input DIR [--kinds ct ...] [--rows fuse4seg ...]

DIR holds CT-MRI, PET-MRI and SPECT-MRI. Names begin with the number of a head and end with that of a slice; of the
heads of a kind in the order of their numbers every third is held out. Each row of configs/fusion.py is trained on the
rest by the command that a user would run, at the sizes of its default preset, on crops of 160 pixels. Nothing is chosen
by a validation: a training ends with its last step, whose weights are judged. All rows take as many steps in all, by
the one optimizer of that preset.

Held-out pairs are fused as `jaxfuse.fuse` does and scored by the eight metrics beside the mean and the maximum of their
images. Differences to the maximum are paired by picture; pictures of one head are not independent, so that intervals
over pictures are too narrow for other heads, and PET has one held-out head only.

Writes scores.json and table.md beside this file; below --folder the splits, the runs, and the held-out pairs in color.
A finished training is not repeated, and kinds and rows may be asked for one by one.
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared import train_once
from jaxfuse.data.facts import counted
from jaxfuse.data.registered import in_levels
from jaxfuse.data.slices import gray_levels
from jaxfuse.data.sources.pairs2d import Pair, find_pairs, load_pair
from jaxfuse.engine.trained.fused_files import ImageFuser, image_fuser
from jaxfuse.engine.trained.slice_fuser import load_fuser
from jaxfuse.io.png import write_png
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.metrics.comparison import compare
from jaxfuse.metrics.fusion import METRICS, score_fused

HERE = Path(__file__).parent
KINDS = ("ct", "pet", "spect")
ROWS = ("fuse4seg", "cddfuse", "didfuse", "tardal", "ddcgan", "u2fusion", "rfn_nest")
PLAIN = {"mean": np.mean, "maximum": np.max}
# The eight of published tables; the ninth is a variant of the last.
EIGHT = tuple(metric for metric in METRICS if metric.name != "ssim_255")
HELD_OUT_EVERY = 3

# Frozen before any held-out pair was fused: crops, examples of a step, and steps of first phases and of the last.
SIDE, BATCH = 160, 1
FIRST_STEPS, LAST_STEPS = 160, 280

Scores = dict[str, dict[str, list[float]]]


def head_of(name: str) -> str:
    """Returns the number of the head that a picture shows a slice of."""
    return name[:-3]


def sides_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Splits pictures by their heads, in the order of their numbers: every third head is held out."""
    heads = sorted({head_of(name) for name in names}, key=int)
    held_out = set(heads[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    return {
        "train": [name for name in names if head_of(name) not in held_out],
        "val": [],
        "test": [name for name in names if head_of(name) in held_out],
    }


def write_split(root: Path, kind: str, folder: Path) -> list[str]:
    """Writes the split file of a kind; returns the pictures that are held out."""
    sides = sides_of([one.id for one in find_pairs(root, ("mri", kind))])
    write_json(folder / kind / "split.json", sides)
    return sides["test"]


def options_of(row: str, kind: str) -> list[str]:
    """Returns the options of a training: crops, batch and steps of each phase."""
    argument = f",row={row}" + ("" if kind == "ct" else f",data={kind}")
    schedule = importlib.import_module("configs.fusion").get_config(argument).schedule
    *first, last = schedule
    steps = {name: FIRST_STEPS // len(first) for name in first}
    steps[last] = LAST_STEPS if first else FIRST_STEPS + LAST_STEPS
    options = [f"--config=configs/fusion.py:{argument}"]
    for name in schedule:
        given = {"patch": (SIDE, SIDE), "batch": BATCH, "steps": steps[name], "validation.every": 0}
        options += [f"--config.{name}.{option}={value}" for option, value in given.items()]
    return options


def train(root: Path, kind: str, row: str, folder: Path, further: Sequence[str]) -> float:
    """Trains a row on the pairs of a kind unless it was done before; returns the seconds of the training."""
    config, *options = options_of(row, kind)
    data = {"root": root, "split": folder / kind / "split.json"}
    given = [f"--config.data.{name}={value}" for name, value in data.items()]
    return train_once(config.removeprefix("--config="), folder / kind / row, *given, *options, *further)


def held_out_pairs(root: Path, kind: str, names: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    """Reads the pairs that are held out."""
    wanted = set(names)
    for files in find_pairs(root, ("mri", kind)):
        if files.id in wanted:
            yield files.id, load_pair(files, ("mri", kind))


def fused_by(fuser: ImageFuser, pair: Pair) -> np.ndarray:
    """Returns the fused picture (h w) in [0, 1]."""
    stack = np.clip(np.stack(list(pair.gray.values()), axis=-1), 0, 1)[None]
    return np.clip(fuser(stack, pair.shown[None])[0], 0, 1)


def judged(root: Path, kind: str, names: Sequence[str], row: str, folder: Path) -> dict[str, list[float]]:
    """Scores a row on held-out pairs, by metric in the order of `names`; writes its pictures in color."""
    fuser = None if row in PLAIN else image_fuser(load_fuser(str(folder / kind / row)), 2)
    scores: dict[str, list[float]] = {metric.name: [] for metric in METRICS}
    for name, pair in held_out_pairs(root, kind, names):
        sources = [gray_levels(np.clip(gray, 0, 1)).astype(np.float64) for gray in pair.gray.values()]
        if fuser is None:
            fused = np.asarray(PLAIN[row](sources, axis=0))
        else:
            picture = fused_by(fuser, pair)
            fused = gray_levels(picture)
            write_png(folder / kind / "looks" / row / f"{name}.png", in_levels(picture, list(pair.color.values())))
        for metric, value in score_fused(fused, sources).items():
            scores[metric].append(value)
    return scores


def table_of(scores: Scores) -> str:
    """Returns the means of each row, and of how many of the eight metrics it is ahead of, and behind, the maximum."""
    rows = []
    for row, found in scores.items():
        ahead, behind = (len(names) for names in against_maximum(found, scores["maximum"]))
        rows.append(
            {
                "Row": row,
                **{metric.title: metric.text(_mean(found[metric.name])) for metric in METRICS},
                "ahead of the maximum in": "" if row == "maximum" else f"{ahead} of 8",
                "behind in": "" if row == "maximum" else f"{behind} of 8",
            }
        )
    return render(rows, list(rows[0]))


def against_maximum(
    found: Mapping[str, Sequence[float]], maximum: Mapping[str, Sequence[float]]
) -> tuple[list[str], list[str]]:
    """Returns the metrics in which a row is ahead of the maximum, and behind it: the paired interval excludes 0."""
    ahead, behind = [], []
    for metric in EIGHT:
        paired = compare(np.array(found[metric.name]), np.array(maximum[metric.name]))
        sign = 1 if metric.larger_is_better else -1
        if paired.low > 0 or paired.high < 0:
            (ahead if sign * paired.difference > 0 else behind).append(metric.name)
    return ahead, behind


def _mean(values: Sequence[float]) -> float:
    return float(np.mean([value for value in values if math.isfinite(value)]))


def write_table(document: Mapping[str, Any]) -> str:
    """Writes table.md of all kinds that were judged; returns its text."""
    parts = ["# Fusion without labels on real pairs", ""]
    for kind, found in document.items():
        heads = sorted({head_of(name) for name in found["held_out"]}, key=int)
        told = (
            f"{counted(len(found['held_out']), 'held-out pair')} of {counted(len(heads), 'head')} ({', '.join(heads)})"
        )
        parts += [f"## MRI with {kind.upper()}", "", f"{told}.", "", table_of(found["scores"]), ""]
    text = "\n".join(parts)
    (HERE / "table.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="the folder that holds CT-MRI, PET-MRI and SPECT-MRI")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "harvard_pairs", help="splits, runs and pictures")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--rows", nargs="*", default=ROWS, help="of configs/fusion.py")
    parser.add_argument("options", nargs="*", help="further options of all trainings, behind --")
    asked = parser.parse_args()
    root, folder, path = asked.input.absolute(), asked.folder.absolute(), HERE / "scores.json"
    document = read_json(path) if path.is_file() else {}
    for kind in asked.kinds:
        names = write_split(root, kind, folder)
        known = document.setdefault(kind, {"held_out": names, "scores": {}, "training_s": {}})
        for row in (*PLAIN, *asked.rows):
            if row not in PLAIN:
                known["training_s"][row] = train(root, kind, row, folder, asked.options)
                print(f"{kind}, {row}: trained in {known['training_s'][row]:.0f} s", flush=True)
            known["scores"][row] = judged(root, kind, names, row, folder)
            write_json(path, document)
    print(write_table(document))


if __name__ == "__main__":
    main()
