"""HyperFusionNet beside HyperDense-Net, and InfiNet's views beside their aggregation, on held-out phantoms.

    python -m experiments.supervised_rows.run

Per seed: trains each network by its default recipe, labels phantoms of a seed that no training has seen, and scores
them, all by the commands that a user would run. Writes table.md and scores.json beside this file. Finished trainings
and scores are not repeated.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared import HELD_OUT_SEED, command, spread, train_all, train_once
from jaxfuse.data.phantom.infant import write_infant_phantoms
from jaxfuse.data.phantom.stroke import write_stroke_phantoms
from jaxfuse.io.tables import read_json, render, write_json

HERE = Path(__file__).parent

TISSUES, LESION = ("CSF", "GM", "WM"), ("lesion",)
METRICS = ("dice", "hd_mm")


@dataclass(frozen=True)
class Row:
    """A line of the table: which training it comes from, and which of its phases (all if none is named)."""

    training: str
    config: str
    phases: tuple[str, ...] = ()
    protocol: str = "iseg"

    def runs(self, workdir: Path) -> list[str]:
        return [f"{workdir}:{phase}" for phase in self.phases] or [str(workdir)]


INFINET = ("infinet", "configs/infinet.py")
STROKE = "configs/hyperfusion.py:,data=stroke"
ROWS = {
    "HyperDense-Net": Row("hyperdense", "configs/hyperfusion.py:,row=baseline"),
    "HyperFusionNet, cross-entropy": Row("resfuse", "configs/hyperfusion.py:,row=resfuse"),
    "HyperFusionNet": Row("hyperfusion", "configs/hyperfusion.py"),
    "InfiNet, sagittal": Row(*INFINET, ("sagittal",)),
    "InfiNet, coronal": Row(*INFINET, ("coronal",)),
    "InfiNet, axial": Row(*INFINET, ("axial",)),
    "InfiNet, aggregated": Row(*INFINET),
    "HyperDense-Net, stroke": Row("hyperdense-stroke", f"{STROKE},row=baseline", protocol="stroke"),
    "HyperFusionNet, stroke": Row("hyperfusion-stroke", STROKE, protocol="stroke"),
}


def train(row: Row, seed: int, folder: Path) -> float:
    return train_once(row.config, folder / f"{row.training}-seed{seed}", f"--config.seed={seed}")


def score(name: str, row: Row, seed: int, folder: Path) -> dict[str, Any]:
    """Statistics over the held-out phantoms, by tissue."""
    out = folder / "scores" / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}"
    if not (out / "summary.json").is_file():
        held_out = folder / f"held-out-{row.protocol}"
        runs = row.runs(folder / f"{row.training}-seed{seed}")
        labels = folder / "labels" / out.name
        command("predict", "--workdir", *runs, "--input", str(held_out), "--output", str(labels))
        command(
            "evaluate",
            *("--pred", str(labels), "--ref", str(held_out), "--protocol", row.protocol, "--out", str(out)),
        )
    document = read_json(out / "summary.json")
    (by_region,) = document["outputs"].values()
    return {region: {metric: scores[metric]["mean"] for metric in METRICS} for region, scores in by_region.items()}


def table(scores: dict[str, dict[str, dict[str, Any]]], seeds: list[int], regions: tuple[str, ...], hd: str) -> str:
    """Mean over the seeds ± their standard deviation."""
    lines = []
    for name, by_seed in scores.items():
        of_seeds = [by_seed[str(seed)] for seed in seeds]
        line = {"Network": name}
        for region in regions:
            line[f"Dice {region}"] = spread([one[region]["dice"] for one in of_seeds])
        if len(regions) > 1:
            line["Dice mean"] = spread([float(np.mean([one[r]["dice"] for r in regions])) for one in of_seeds])
        line["HD mean (mm)"] = spread([float(np.mean([one[r][hd] for r in regions])) for one in of_seeds], digits=1)
        lines.append(line)
    return render(lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--cases", type=int, default=8, help="held-out phantoms")
    parser.add_argument("--together", type=int, default=1, help="trainings at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "supervised_rows")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write_infant_phantoms(folder / "held-out-iseg", cases=options.cases, seed=HELD_OUT_SEED)
    write_stroke_phantoms(folder / "held-out-stroke", cases=options.cases, seed=HELD_OUT_SEED)
    rows = {name: ROWS[name] for name in options.rows}
    trainings = {row.training: row for row in rows.values()}
    jobs = [(row, seed) for seed in options.seeds for row in trainings.values()]
    named = {f"{row.training}-seed{seed}": partial(train, row, seed, folder) for row, seed in jobs}
    seconds = train_all(named, options.together)
    scores: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        scores[name] = {str(seed): score(name, row, seed, folder) for seed in options.seeds}
        print(f"{name}: scored", flush=True)
    write_json(
        HERE / "scores.json", {"seeds": options.seeds, "cases": options.cases, "rows": scores, "training_s": seconds}
    )
    parts = []
    for protocol, regions, hd in (("iseg", TISSUES, "hd_mm"), ("stroke", LESION, "hd_mm")):
        if of := {name: scores[name] for name, row in rows.items() if row.protocol == protocol}:
            parts += [f"## {protocol} phantoms", "", table(of, options.seeds, regions, hd), ""]
    (HERE / "table.md").write_text("# Supervised networks on held-out phantoms\n\n" + "\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    main()
