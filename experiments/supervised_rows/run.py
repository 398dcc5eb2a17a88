"""HyperFusionNet by its parts, InfiNet by its arms and views, each masked to the brain and not, on held-out phantoms.

    python -m experiments.supervised_rows.run --choose
    python -m experiments.supervised_rows.run --train-only
    python -m experiments.supervised_rows.run

The first line trains each kind of row at three rates and scores them on phantoms of a seed of their own; what it finds
stands in `rows.KINDS`. The second trains all rows, short and long. The last opens phantoms of a seed that no training
and no choice has seen, and scores the label maps, masked to the brain and as the network gives them. Writes table.md
and scores.json (every case) beside this file. Finished trainings and scores are not repeated. The settings stand here
as they were before the first held-out phantom was looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.inference_options.run import held_out
from experiments.shared import REPOSITORY, spread
from experiments.supervised_rows import rows
from experiments.supervised_rows.rows import Family, Training
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.metrics.comparison import compare
from jaxfuse.metrics.protocols import DICE
from jaxfuse.metrics.regions import score_case

HERE = Path(__file__).parent
HD = "hd_mm"
WAYS = ("masked", "unmasked")
# Large tiles of valid convolutions say what small ones do, in a third of the time.
PASSES = {rows.INFANT: Passes(memory_mb=2000), rows.STROKE: Passes(memory_mb=2000), rows.SLICES: Passes()}

Found = list[dict[str, Any]]  # rows of cases, regions and ways


def phantoms(family: Family, cases: int, seed: int, folder: Path) -> Path:
    """Writes a family's phantoms, or finds them; returns their folder."""
    root = folder / f"{family.phantoms}-{cases}-seed{seed}"
    rows.WRITERS[family.phantoms](root, cases=cases, seed=seed)
    return root


def score(training: Training, cases: int, seed: int, folder: Path) -> Found:
    """Scores by case, region and way, made once."""
    name = f"{training.workdir(folder).name}-{'-'.join(rows.ROWS[training.row].shown or ('all',))}"
    path = folder / f"scores-{name}-{seed}x{cases}.json"
    if not path.is_file():
        members = load(training.runs(folder))
        ensemble, found = ensemble_of(members, passes=PASSES[training.family]), []
        for case in held_out(members[0], phantoms(training.family, cases, seed, folder)):
            labels = ensemble.labels(case)
            sides = {"spacing_mm": case.facts.spacing_mm, "one_empty": np.nan, "case": case.facts.id}
            for way, made in zip(WAYS, (masked_labels(labels, case.brain), labels), strict=True):
                found += score_case(made, np.asarray(case.label), members[0].scheme, output=way, **sides)
        kept = ("case", "output", "region", DICE.name, HD)
        write_json(path, {"rows": [{key: row[key] for key in kept} for row in found]})
        print(f"{name}: scored", flush=True)
    return read_json(path)["rows"]


def choose(folder: Path) -> None:
    """Trains and scores each kind at each rate, and prints its Dice."""
    for one in rows.choices():
        one.run(folder)
        found = [score(one, rows.CHOICE_CASES, rows.CHOICE_SEED, folder)]
        rate = rows.ROWS[one.row].rate * one.factor
        print(f"{one.row}, rate {rate:g}: Dice {by_case(found, DICE.name).mean():.3f}", flush=True)


def by_case(found: Sequence[Found], metric: str, way: str = WAYS[0], region: str = "") -> np.ndarray:
    """Scores (seeds, cases), a mean over the regions unless one is named; a distance to nothing is left out."""
    names = sorted({row["case"] for row in found[0]})
    kept = [[row for row in one if row["output"] == way and region in ("", row["region"])] for one in found]
    own = [[[row[metric] for row in one if row["case"] == name] for name in names] for one in kept]
    return np.array([[_mean(values) for values in cases] for cases in own])


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan


def table(family: Family, by_row: Mapping[str, Sequence[Found]]) -> str:
    """Renders means over cases, ± over seeds where there are several, and what each row is ahead of the reference."""
    reference, lines = by_row[family.reference], []
    regions = list(dict.fromkeys(row["region"] for row in reference[0]))
    for name, found in by_row.items():
        line = {"row": name}
        line |= {f"Dice {region}": _over_seeds(by_case(found, DICE.name, region=region)) for region in regions}
        if len(regions) > 1:
            line["Dice mean"] = _over_seeds(by_case(found, DICE.name))
        paired = compare(by_case(found, DICE.name), by_case(reference, DICE.name))
        own = f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]"
        line[f"less {family.reference}"] = "" if name == family.reference else own
        line["HD (mm)"] = _over_seeds(by_case(found, HD), digits=1)
        line["Dice, not masked"] = _over_seeds(by_case(found, DICE.name, WAYS[1]))
        lines.append(line)
    return render(lines, list(lines[0]))


def _over_seeds(values: np.ndarray, digits: int = 3) -> str:
    return spread([_mean(one.tolist()) for one in values], digits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="compare rates, and stop")
    parser.add_argument("--train-only", action="store_true", help="score nothing yet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "supervised_rows")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.choose:
        return choose(folder)
    trainings = rows.trainings(options.seeds)
    seconds = {one.workdir(folder).name: one.run(folder) for one in trainings}
    if options.train_only:
        return None
    found: dict[Family, dict[int, dict[str, list[Found]]]] = {}
    for one in trainings:
        scores = score(one, rows.HELD_OUT, rows.HELD_OUT_SEED, folder)
        found.setdefault(one.family, {}).setdefault(one.steps, {}).setdefault(one.row, []).append(scores)
    parts = []
    for family, by_length in found.items():
        parts += [f"## {family.title}", ""]
        for steps, by_row in by_length.items():
            parts += [f"{steps} steps:", "", table(family, by_row), ""]
    settings = {"cases": rows.HELD_OUT, "held_out_seed": rows.HELD_OUT_SEED, "seeds": options.seeds}
    kept = {family.title: by_length for family, by_length in found.items()}
    write_json(HERE / "scores.json", {**settings, "training_s": seconds, "scores": kept})
    told = f"{rows.HELD_OUT} held-out phantoms, seeds {options.seeds}; see ../README.md. Differences are paired, 95 %."
    (HERE / "table.md").write_text(f"# Supervised networks on held-out phantoms\n\n{told}\n\n" + "\n".join(parts))
    print("\n".join(parts))
    return None


if __name__ == "__main__":
    main()
