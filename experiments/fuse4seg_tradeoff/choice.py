"""The default weight of Fuse4Seg's recipe, chosen on phantoms of validation from the trainings of the trade-off.

    python -m experiments.fuse4seg_tradeoff.choice

Scores the rows `joint` of all weights and seeds, which the experiment trained, on phantoms of validation that no
training and no held-out set has, and writes choice.md beside this file. The knee is the largest weight that no smaller
one is ahead of in Dice by a paired interval that excludes 0: below it the image pays and the task gains nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fuse4seg_tradeoff import rows
from experiments.fuse4seg_tradeoff.run import HERE, Found, by_case
from experiments.fuse4seg_tradeoff.scores import new_phantoms, score
from experiments.fuse4seg_tradeoff.training import first, kept, stages_of
from experiments.shared import REPOSITORY, difference, over_seeds, workfile
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.io.tables import render
from jaxfuse.metrics.comparison import compare


def knee(dice: Mapping[float, np.ndarray]) -> float:
    """Returns the largest weight that no smaller one is ahead of by an interval that excludes 0.

    Args:
        dice: by weight the scores (seeds, cases), of the same cases in all.
    """

    def beaten(weight: float) -> bool:
        return any(compare(dice[other], dice[weight]).low > 0 for other in dice if other < weight)

    return max(weight for weight in dice if not beaten(weight))


def scored(folder: Path) -> Found:
    """Scores of the rows `joint` on phantoms of validation, by row and seed."""
    cases = new_phantoms(rows.VALIDATION, rows.VALIDATION_SEED, folder)
    stage = stages_of(f"joint, {rows.LAMBDAS[0]:g}", None)[-1]
    like = first(stage, rows.SEEDS[0])

    def of_training(name: str, seed: int) -> dict[str, Any]:
        params = kept(workfile(folder / "trainings", name, seed).with_suffix(".params"), like.params)
        state = like.replace(params=jax.tree.map(jnp.asarray, params))
        return {"scores": score(stage, state, cases, (rows.AS_TRAINED,))}

    names = [f"joint, {weight:g}" for weight in rows.LAMBDAS]
    return {name: {str(seed): of_training(name, seed) for seed in rows.SEEDS} for name in names}


def table(found: Found, chosen: str) -> str:
    """Dice and Qabf by weight, with the difference from the chosen one."""
    lines = [
        {
            "Row": name,
            "Dice": over_seeds(by_case(of_seeds)),
            "Qabf": over_seeds(by_case(of_seeds, metric="qabf")),
            f"less {chosen}": "" if name == chosen else difference(by_case(of_seeds), by_case(found[chosen])),
        }
        for name, of_seeds in found.items()
    ]
    return render(lines, list(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "fuse4seg_tradeoff")
    root = parser.parse_args().folder.absolute()
    wanted = [workfile(root / "trainings", f"joint, {w:g}", seed) for w in rows.LAMBDAS for seed in rows.SEEDS]
    if missing := [file.stem for file in wanted if not file.is_file()]:
        parser.error(f"{len(missing)} trainings are not in {root}, such as {missing[0]}: train the part `joint` first")
    compilation_cache(root)
    found = scored(root)
    chosen = f"joint, {knee({weight: by_case(found[f'joint, {weight:g}']) for weight in rows.LAMBDAS}):g}"
    told = f"{rows.VALIDATION} phantoms of seed {rows.VALIDATION_SEED}, training seeds {list(rows.SEEDS)}"
    title = "# The weight at the knee, on phantoms of validation"
    text = "\n".join([title, "", f"Chosen: `{chosen}`. {told}.", "", table(found, chosen), ""])
    (HERE / "choice.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
