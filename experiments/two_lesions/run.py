"""Can one gray image carry two lesions, each seen by one modality alone, and which training finds it?

    python -m experiments.two_lesions.run

Trains every row with every seed, scores it on held-out pictures, and writes table.md, scores.json and the figure of all
rows whose seeds are done beside this file. Every training is kept and not repeated; `--part` does one part, `--seeds`
some of the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np

from experiments import dice_against_qabf
from experiments.shared import REPOSITORY, difference, finished, late, over_seeds, spread, told_briefly, workfile
from experiments.two_lesions import rows
from experiments.two_lesions.pictures import CLASSES
from experiments.two_lesions.training import BLOCK, first_state, scored, trained
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.io.tables import read_json, render, write_json

HERE = Path(__file__).parent
LESIONS = CLASSES[1:]
Found = Mapping[str, Mapping[str, Any]]


def work(name: str, seed: int, steps: int, held_out: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Trains and scores a row unless it was done before; a frozen fusion network is trained first."""
    done = workfile(folder, name, seed)
    if done.is_file():
        return read_json(done)
    row, phi = rows.ROWS[name], None
    if row.reads.startswith("frozen"):
        donor = row.reads.removeprefix("frozen ")
        work(donor, seed, steps, held_out, folder)
        like = first_state(rows.ROWS[donor], seed, steps).params["fusion"]
        phi = flax.serialization.from_bytes(like, workfile(folder, donor, seed).with_suffix(".phi").read_bytes())
    state, log, seconds = trained(row, seed, steps, phi)
    if "fusion" in state.params:
        kept = flax.serialization.to_bytes(jax.device_get(state.params["fusion"]))
        done.with_suffix(".phi").write_bytes(kept)
    count, of = held_out
    write_json(done, {"seconds": seconds, "log": log, "scores": scored(row, state, steps, count, of, phi)})
    print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    return read_json(done)


def by_case(found: Mapping[str, Any], metric: str = "") -> np.ndarray:
    """Scores (seeds, pictures): of one metric, or the mean Dice of both lesions."""
    names = (metric,) if metric else LESIONS
    return np.stack([np.mean([one["scores"][name] for name in names], axis=0) for one in found.values()])


def table(found: Found) -> str:
    """All rows with the differences from each reference that is there."""
    means = {name: by_case(of_seeds).mean() for name, of_seeds in found.items()}
    singles = [name for name in ("A", "B") if name in found]
    reference = {name: name for name in rows.REFERENCES if name in found}
    if singles:
        reference["better single"] = max(singles, key=lambda name: means[name])
    lines = []
    for name, of_seeds in found.items():
        line = {"Row": name, "Dice": over_seeds(by_case(of_seeds))}
        line |= {lesion: over_seeds(by_case(of_seeds, lesion)) for lesion in LESIONS}
        with_image = all("qabf" in one["scores"] for one in of_seeds.values())
        line["Qabf"] = over_seeds(by_case(of_seeds, "qabf")) if with_image else "-"
        for title, term in (("task's share", "share/task"), ("cosine", "share_cosine")):
            known = [late(one["log"], f"fusion/{term}") for one in of_seeds.values()]
            line[title] = "-" if None in known else spread(known, 2)  # pyright: ignore[reportArgumentType]
        for title, other in reference.items():
            line[f"less {title}"] = "" if other == name else difference(by_case(of_seeds), by_case(found[other]))
        lines.append(line)
    return render(lines, list(lines[0]))


def figure(found: Found, path: Path) -> None:
    """Dice against Qabf: a curve over the weight for each scheme, points for images, lines for what makes none."""
    place = {name: float(by_case(of_seeds).mean()) for name, of_seeds in found.items()}
    image = {
        name: float(by_case(of_seeds, "qabf").mean())
        for name, of_seeds in found.items()
        if all("qabf" in one["scores"] for one in of_seeds.values())
    }
    curves: dict[str, list[dice_against_qabf.Point]] = {}
    for name in found:
        scheme, _, rest = name.partition(", ")
        if name in image and rest in {f"{weight:g}" for weight in rows.LAMBDAS}:
            curves.setdefault(scheme, []).append((rest, image[name], place[name]))
    alone = [name for name in ("A", "B", "mean", "maximum", "(A - B) / 2", "detached") if name in image]
    levels = {name: place[name] for name in ("both channels",) if name in place}
    dice_against_qabf.draw(curves, [(name, image[name], place[name]) for name in alone], levels, path)


def write(found: Found, out: Path, seeds: Sequence[int], steps: int, held_out: tuple[int, int]) -> None:
    """Writes scores, table and figure."""
    count, of = held_out
    settings = {"seeds": list(seeds), "steps": steps, "held_out": count, "held_out_seed": of}
    write_json(out / "scores.json", {**settings, "rows": told_briefly(found)})
    told = f"{steps:,} steps, seeds {list(seeds)}, {count} held-out pictures of seed {of}."
    lines = ["# Two lesions, each bright in one modality", "", told, "", table(found), ""]
    (out / "table.md").write_text("\n".join(lines))
    figure(found, out / "dice_against_qabf.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=rows.PARTS, nargs="+", default=list(rows.PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(rows.SEEDS))
    parser.add_argument("--rows", nargs="+", default=[], help="these rows only, and no table")
    parser.add_argument(
        "--steps", type=int, default=rows.STEPS, help="another length is a trial, with pictures of its own"
    )
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "two_lesions")
    options = parser.parse_args()
    if options.steps < BLOCK or options.steps % BLOCK:
        parser.error(f"--steps is {options.steps}; give a multiple of {BLOCK}, the steps of one call of a program")
    trial = options.steps != rows.STEPS
    folder = options.folder.absolute() / (f"trial-{options.steps}" if trial else "trainings")
    folder.mkdir(parents=True, exist_ok=True)
    compilation_cache(options.folder.absolute())
    held_out = (16, rows.HELD_OUT_SEED + 1) if trial else (rows.HELD_OUT, rows.HELD_OUT_SEED)
    names = options.rows or [name for name, row in rows.ROWS.items() if row.part in options.part]
    for name in names:
        for seed in options.seeds:
            work(name, seed, options.steps, held_out, folder)
    if options.rows:
        return print(table(finished(folder, options.seeds, names)))
    seeds, out = (options.seeds, folder) if trial else (rows.SEEDS, HERE)
    if not (found := finished(folder, seeds, rows.ROWS)):
        return print(f"No table: no row is done with all of the seeds {list(seeds)}.")
    write(found, out, seeds, options.steps, held_out)
    return print(f"Written: {out / 'table.md'}")


if __name__ == "__main__":
    main()
