"""Does Hi-Net beat what needs no network, its own ablations, and its baselines at equal widths? On phantoms.

    python -m experiments.hinet_rows.run --choose
    python -m experiments.hinet_rows.run --train-only
    python -m experiments.hinet_rows.run

The first line trains each kind of network at three rates and scores them on phantoms of a seed of their own; what it
finds stands in `rows.CHOSEN`. The second trains all rows, short and long. The last opens phantoms of a seed that no
training and no choice has seen, makes FLAIR of T1 and T2 by every row, by copies of the sources and by a linear
regression fitted on the training phantoms, and gives each in place of FLAIR to CMFF, trained on complete cases. Writes
table.md, scores.json (every case) and a panel beside this file. Finished trainings and scores are not repeated. The
settings stand here as they were before the first held-out phantom was looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import hinet
from experiments.hinet_rows import rows
from experiments.hinet_rows.images import (
    SOURCES,
    TARGET,
    Make,
    copies,
    image,
    judged,
    linear,
    made_of,
    network,
    phantoms,
)
from experiments.hinet_rows.scores import METRICS, HeldOut, Judge, judge, score, segmented
from experiments.shared import REPOSITORY, spread
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, render, write_json
from jaxfuse.metrics.comparison import compare
from jaxfuse.report.synthesis import synthesis_panel

HERE = Path(__file__).parent
REFERENCE = "full"
SHOWN = ("linear regression", "full", "mmsyns", "late", "pix2pix")

Scores = list[dict[str, Any]]  # by case


def choose(folder: Path) -> None:
    """Trains and scores each kind at each rate, and prints PSNR."""
    cases = phantoms(folder, rows.CHOICE_CASES, rows.CHOICE_SEED)
    for one in rows.choices():
        one.run(folder)
        found, _ = judged(network(one.workdir(folder)), cases)
        print(f"{one.row}, rate {rows.RATE * one.factor:g}: {found['psnr_db']:.2f} dB", flush=True)


def held_out(folder: Path) -> list[HeldOut]:
    """Opens the held-out phantoms, as synthesis and segmentation see them."""
    images = phantoms(folder, rows.HELD_OUT, rows.HELD_OUT_SEED)
    labeled = {one.id: one for one in segmented(folder / f"phantoms-{rows.HELD_OUT}-seed{rows.HELD_OUT_SEED}", folder)}
    cases = [HeldOut(one, labeled[one.id]) for one in images]
    for case in cases:
        if case.image.facts.crop_start != case.segmented.facts.crop_start:
            raise UserError(f"{case.image.id} is cropped in two ways: its images cannot stand for each other")
    return cases


def trivial(folder: Path) -> dict[str, Make | None]:
    """Returns what needs no network; the regression is fitted on all phantoms that the recipe has."""
    seen = phantoms(folder, hinet.SIZES[""].phantom["cases"], seed=0)
    return {"real": None, **copies(), "linear regression": linear(seen)}


def scored(name: str, make: Make | None, cases: Sequence[HeldOut], by: Judge, folder: Path) -> Scores:
    """Scores by case, made once."""
    path = folder / f"scores-{name.replace(' ', '_')}-{rows.HELD_OUT_SEED}x{len(cases)}.json"
    if not path.is_file():
        write_json(path, {"rows": score(make, cases, by)})
        print(f"{name}: scored", flush=True)
    return read_json(path)["rows"]


def values(found: Sequence[Scores], metric: str) -> np.ndarray:
    """Scores (seeds, cases)."""
    return np.array([[row[metric] for row in one] for one in found])


def table(by_row: Mapping[str, Sequence[Scores]]) -> str:
    """Renders means over cases, ± over seeds where there are several."""
    lines = []
    for name, found in by_row.items():
        line = {"image": rows.ROWS[name].title if name in rows.ROWS else name, "seeds": str(len(found))}
        for metric, (title, digits, _) in METRICS.items():
            known = metric in found[0][0]
            line[title] = spread(values(found, metric).mean(axis=1).tolist(), digits) if known else "-"
        lines.append(line)
    return render(lines, list(lines[0]))


def differences(by_row: Mapping[str, Sequence[Scores]]) -> str:
    """Renders what Hi-Net is ahead of each row by, paired by case, with intervals over cases and seeds."""
    lines = []
    for name, found in by_row.items():
        if name == REFERENCE or "psnr_db" not in found[0][0]:
            continue
        line = {"Hi-Net less": rows.ROWS[name].title if name in rows.ROWS else name}
        # Of one seed each where the other has no more.
        own = by_row[REFERENCE] if len(found) > 1 or name not in rows.ROWS else by_row[REFERENCE][:1]
        for metric, (title, digits, _) in METRICS.items():
            paired = compare(values(own, metric), values(found, metric))
            line[title] = f"{paired.difference:+.{digits}f} [{paired.low:+.{digits}f}, {paired.high:+.{digits}f}]"
        lines.append(line)
    return render(lines, list(lines[0]))


def report(by_length: Mapping[int, Mapping[str, Sequence[Scores]]]) -> str:
    """Renders both tables of each length."""
    parts = []
    for steps, by_row in by_length.items():
        parts += [f"## {steps} steps", "", table(by_row), "", "Paired differences, 95 %:", "", differences(by_row), ""]
    return "\n".join(parts)


def draw(case: HeldOut, makers: Mapping[str, Make]) -> None:
    """Draws one case as several rows make it."""
    synthesis_panel(
        HERE / "panel.png",
        sources={name: image(case.image, name) for name in SOURCES},
        made={name: made_of(make, case.image) for name, make in makers.items()},
        truth=image(case.image, TARGET),
        target=TARGET,
        title=f"{TARGET} from {' and '.join(SOURCES)}, phantom of seed {rows.HELD_OUT_SEED}",
        spacing_mm=case.image.facts.spacing_mm,
        label=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="compare rates, and stop")
    parser.add_argument("--train-only", action="store_true", help="score nothing yet")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "hinet_rows")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.choose:
        return choose(folder)
    seconds = {one.workdir(folder).name: one.run(folder) for one in rows.trainings()}
    by = judge(folder)
    if options.train_only:
        return None
    cases = held_out(folder)
    known = trivial(folder)
    fixed = {name: [scored(name, make, cases, by, folder)] for name, make in known.items()}
    by_length: dict[int, dict[str, list[Scores]]] = {steps: dict(fixed) for steps in rows.LENGTHS}
    for one in rows.trainings():
        workdir = one.workdir(folder)
        found = scored(workdir.name, network(workdir), cases, by, folder)
        by_length[one.steps].setdefault(one.row, []).append(found)
    settings = {"cases": rows.HELD_OUT, "held_out_seed": rows.HELD_OUT_SEED, "rate": rows.RATE, "factors": rows.CHOSEN}
    write_json(HERE / "scores.json", {**settings, "training_s": seconds, "steps": by_length})
    last = {
        one.row: one.workdir(folder) for one in rows.trainings() if one.seed == 0 and one.steps == max(rows.LENGTHS)
    }
    shown = {"linear regression": known["linear regression"], **{name: network(path) for name, path in last.items()}}
    draw(cases[0], {name: make for name in SHOWN if (make := shown[name]) is not None})
    text = report(by_length)
    told = f"{rows.HELD_OUT} held-out phantoms; see ../README.md."
    (HERE / "table.md").write_text(f"# FLAIR from T1 and T2 at equal widths\n\n{told}\n\n{text}")
    print(text)
    return None


if __name__ == "__main__":
    main()
