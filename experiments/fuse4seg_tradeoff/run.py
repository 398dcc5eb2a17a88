"""Dice against Qabf on phantoms: the price of a fused image to the task, and of the task to the image.

    python -m experiments.fuse4seg_tradeoff.run

Trains every row with every seed on T1c and FLAIR, scores it on the slice with the largest tumor of held-out phantoms,
as they are and with another gain or without one of the two, and writes table.md, scores.json and the figure of all rows
whose seeds are done beside this file. Every training is kept and not repeated; `--part` does one part, `--seeds` some
of the seeds. `--steps` is a trial: another length of all phases, scored on a few phantoms of another seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import dice_against_qabf
from experiments.fuse4seg_tradeoff import rows
from experiments.fuse4seg_tradeoff.scores import REGIONS, images_without_network, new_phantoms, score
from experiments.fuse4seg_tradeoff.training import keep, trained
from experiments.shared import REPOSITORY, difference, finished, late, over_seeds, spread, told_briefly, workfile
from jaxfuse.data.prepared import PreparedSlice
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.io.tables import read_json, render, write_json

HERE = Path(__file__).parent
Found = Mapping[str, Mapping[str, Any]]
# Cases of a trial, and its seed.
TRIAL = (3, rows.HELD_OUT_SEED + 1)


def work(name: str, seed: int, steps: int | None, cases: Sequence[PreparedSlice], folder: Path) -> dict[str, Any]:
    """Trains and scores a row unless it was done before; the network that it freezes is trained first."""
    done, row = workfile(folder, name, seed), rows.ROWS[name]
    if done.is_file():
        return read_json(done)
    donor = None
    if row.donor:
        work(row.donor, seed, steps, cases, folder)
        donor = workfile(folder, row.donor, seed).with_suffix(".params")
    stage, state, log, seconds = trained(name, seed, steps, folder, donor)
    keep(done.with_suffix(".params"), state.params)
    write_json(done, {"seconds": seconds, "log": log, "scores": score(stage, state, cases)})
    print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    return read_json(done)


def by_case(of_seeds: Mapping[str, Any], condition: str = rows.AS_TRAINED, metric: str = "") -> np.ndarray:
    """Scores (seeds, cases): of one metric, or the mean Dice of the regions."""
    names = (metric,) if metric else REGIONS
    each = [one["scores"][condition] for one in of_seeds.values()]
    return np.stack([np.mean([scores[name] for name in names], axis=0) for scores in each])


def has_image(of_seeds: Mapping[str, Any]) -> bool:
    return all("qabf" in one["scores"][rows.AS_TRAINED] for one in of_seeds.values())


def references(found: Found) -> dict[str, str]:
    """Title -> the row that differences are taken from."""
    named = {name: name for name in rows.REFERENCES if name in found}
    if singles := [name for name in ("T1c", "FLAIR") if name in found]:
        named["better single"] = max(singles, key=lambda name: by_case(found[name]).mean())
    return named


def table(found: Found) -> str:
    """All rows as trained, with the differences from each reference that is there."""
    lines = []
    for name, of_seeds in found.items():
        line = {"Row": name, "Dice": over_seeds(by_case(of_seeds))}
        line |= {f"Dice {region}": over_seeds(by_case(of_seeds, metric=region)) for region in REGIONS}
        line["Qabf"] = over_seeds(by_case(of_seeds, metric="qabf")) if has_image(of_seeds) else "-"
        for title, term in (("task's share", "share/task"), ("cosine", "share_cosine")):
            known = [late(one["log"], f"fusion/{term}") for one in of_seeds.values()]
            line[title] = "-" if None in known else spread(known, 2)  # pyright: ignore[reportArgumentType]
        for title, other in references(found).items():
            line[f"less {title}"] = "" if other == name else difference(by_case(of_seeds), by_case(found[other]))
        lines.append(line)
    return render(lines, list(lines[0]))


def robustness(found: Found) -> str:
    """Mean Dice under every condition."""
    lines = [
        {"Row": name} | {condition: over_seeds(by_case(of_seeds, condition)) for condition in rows.CONDITIONS}
        for name, of_seeds in found.items()
    ]
    return render(lines, list(lines[0]))


def figure(found: Found, without_network: Mapping[str, float], path: Path) -> None:
    """Dice against Qabf: a curve over the weight for each gradient weight, points for images, lines for the others."""
    dice = {name: float(by_case(of_seeds).mean()) for name, of_seeds in found.items()}
    image = {name: float(by_case(f, metric="qabf").mean()) for name, f in found.items() if has_image(f)}
    image |= {name: without_network[name] for name in ("mean", "maximum") if name in found}
    curves: dict[str, list[dice_against_qabf.Point]] = {}
    for name in found:
        scheme, _, weight = name.partition(", ")
        if weight and name in image:
            curves.setdefault(scheme, []).append((weight, image[name], dice[name]))
    points = [(name, image[name], dice[name]) for name in ("detached", "mean", "maximum") if name in image]
    levels = {name: dice[name] for name in ("T1c", "FLAIR", "both channels") if name in dice}
    dice_against_qabf.draw(curves, points, levels, path)


def write(found: Found, out: Path, settings: Mapping[str, Any], cases: Sequence[PreparedSlice]) -> None:
    """Writes scores, tables and figure."""
    without_network = images_without_network(cases)
    write_json(out / "scores.json", {**settings, "qabf_without_network": without_network, "rows": told_briefly(found)})
    told = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in settings.items())
    lines = ["# Dice against Qabf over the weight of the fusion loss", "", f"{told}.", "", table(found), ""]
    lines += ["## With another gain, or without one of the two", "", robustness(found), ""]
    (out / "table.md").write_text("\n".join(lines))
    figure(found, without_network, out / "dice_against_qabf.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=rows.PARTS, nargs="+", default=list(rows.PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(rows.SEEDS))
    parser.add_argument("--rows", nargs="+", default=[], help="these rows only, and no table")
    parser.add_argument("--steps", type=int, default=None, help="of all phases: a trial")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "fuse4seg_tradeoff")
    options = parser.parse_args()
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps is {options.steps}; give at least 1, or leave it out for the lengths of the recipe")
    root = options.folder.absolute()
    folder = root / (f"trial-{options.steps}" if options.steps else "trainings")
    folder.mkdir(parents=True, exist_ok=True)
    compilation_cache(root)
    count, seed = TRIAL if options.steps else (rows.HELD_OUT, rows.HELD_OUT_SEED)
    cases = new_phantoms(count, seed, root)
    names = options.rows or [name for name, row in rows.ROWS.items() if row.part in options.part]
    for one in options.seeds:
        for name in names:
            work(name, one, options.steps, cases, folder)
    if options.rows:
        return print(table(finished(folder, options.seeds, names)))
    seeds, out = (options.seeds, folder) if options.steps else (rows.SEEDS, HERE)
    if not (found := finished(folder, seeds, rows.ROWS)):
        return print(f"No table: no row is done with all of the seeds {list(seeds)}.")
    write(found, out, {"seeds": list(seeds), "held_out": count, "held_out_seed": seed}, cases)
    return print(f"Written: {out / 'table.md'}")


if __name__ == "__main__":
    main()
