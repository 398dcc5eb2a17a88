"""Does a training that is killed at any moment, and called again, end as one that never was?

    python -m experiments.failures.run

kills trainings of all five recipes at random moments, 100 times: SIGKILL, or SIGTERM and after 30 seconds SIGKILL. The
same command is called again until it has ended, and what it wrote is compared with what an undisturbed run did:
weights, best weights and states of optimizers bit by bit, rows of metrics one by one, tables of scores byte by byte.
Moments are drawn in every place of a run: start-up, cache, compilation, training, validation, checkpoint, judging,
report; `--processes 2` trains by two processes, one of which is killed. Runs that are done are noted in `--out` as they
end, so that the command can be stopped and called again; `table.md` and `scores.json` beside this file are written at
its end.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.failures.kills import disturbed, total, undisturbed
from experiments.failures.trainings import PLACES, RECIPES, Recipe
from jaxfuse.io.tables import read_json, render, write_json

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/failures"), help="folder of the runs")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES), help="in this order")
    parser.add_argument("--processes", type=int, default=1, help="of each run; one of them is killed")
    options = parser.parse_args(arguments)
    out = options.out.absolute() / ("" if options.processes == 1 else f"processes_{options.processes}")
    recipes = [RECIPES[name] for name in options.recipes]
    lives = campaign(recipes, out, options.kills, options.seed, options.processes)
    several = f" --processes {options.processes}" if options.processes > 1 else ""
    command = f"python -m experiments.failures.run --kills {options.kills} --seed {options.seed}{several}"
    command += f" --recipes {' '.join(options.recipes)}"
    ending = "" if options.processes == 1 else "_processes"
    write_json(HERE / f"scores{ending}.json", {"command": command, "runs": lives})
    (HERE / f"table{ending}.md").write_text(page(command, lives), encoding="utf-8")
    print(page(command, lives))


def campaign(recipes: Sequence[Recipe], out: Path, kills: int, seed: int, processes: int) -> list[dict[str, Any]]:
    """Disturbs one run of each recipe after another until there were so many kills; returns all runs."""
    lives = []
    while total(lives) < kills:
        recipe, number = recipes[len(lives) % len(recipes)], len(lives) // len(recipes)
        lives.append(life(recipe, out / recipe.name, seed, number, processes))
        last = lives[-1]
        counts = f"{recipe.name} {number}: {len(last['kills'])} kills, {total(lives)} in all"
        if not last["lost"]:
            counts += f"; {last['twice']} rows twice, {last['missing']} missing, {len(last['unequal'])} unequal"
        print(f"{counts}; {last['lost'] or last['left']}", flush=True)
    return lives


def life(recipe: Recipe, folder: Path, seed: int, number: int, processes: int) -> dict[str, Any]:
    """Carries out one disturbed run, or reads what came of it before."""
    times, noted = folder / "undisturbed.json", folder / f"seed_{seed}_run_{number}.json"
    if not times.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_json(times, undisturbed(recipe, folder, processes))
    if not noted.is_file():
        place = folder / f"seed_{seed}_run_{number}"
        shutil.rmtree(place, ignore_errors=True)  # of a call that was stopped
        own = hash_of(recipe, seed, number)
        found = disturbed(recipe, place, folder / "cache", read_json(times), own, processes)
        write_json(noted, found)
        if not found["lost"] and not found["unequal"] and not found["twice"] and not found["missing"]:
            shutil.rmtree(place)
    return json.loads(noted.read_text(encoding="utf-8"))


def hash_of(recipe: Recipe, seed: int, number: int) -> int:
    """Returns the seed of one run."""
    return seed * 1_000_000 + number * 100 + list(RECIPES).index(recipe.name)


def page(command: str, lives: Sequence[dict[str, Any]]) -> str:
    """Renders what came out as Markdown."""
    by_recipe = [_row(name, [life for life in lives if life["recipe"] == name]) for name in RECIPES]
    rows = [*(row for row in by_recipe if row["kills"] != "0"), _row("all", lives)]
    kills = [kill for life in lives for kill in life["kills"]]
    places = Counter((kill["place"], kill["sent"]) for kill in kills)
    sent = sorted({kill["sent"] for kill in kills})
    by_place = [{"place": place, **{s: str(places[place, s]) for s in sent}} for place in PLACES]
    codes = Counter((kill["sent"], kill["exit_code"]) for kill in kills)
    told = "; ".join(f"{name} {code}: {times}" for (name, code), times in sorted(codes.items()))
    return "\n".join(
        [
            f"Written by `{command}`. {len(kills)} kills of {len(lives)} runs.", "",
            render(rows, list(rows[0])), "", render(by_place, ["place", *sent]), "",
            f"Signals and exit codes (a negative one is a signal's number): {told}.", *_of_others(kills), "",
        ]
    )  # fmt: skip


def _of_others(kills: Sequence[dict[str, Any]]) -> list[str]:
    """Says how the other processes of a run ended."""
    if not (several := [kill for kill in kills if kill.get("others")]):
        return []
    codes = Counter((kill["sent"], code) for kill in several for code in kill["others"])
    told = "; ".join(f"after {sent} {code}: {times}" for (sent, code), times in sorted(codes.items()))
    longest = max(kill["ended_s"] for kill in several)
    lost = [kill["place"] for kill in several if kill["member"] == 0 and "SIGKILL" in kill["sent"]]
    return [
        f"Codes of the other process: {told}; the last one had ended {longest:.0f} s after the signal at most.",
        f"Process 0, in which the coordinator lives, was lost {len(lost)} times ({', '.join(lost) or 'never'}).",
    ]


def _row(name: str, lives: Sequence[dict[str, Any]]) -> dict[str, str]:
    ended = [life for life in lives if not life["lost"]]
    return {
        "recipe": name,
        "runs": str(len(lives)),
        "kills": str(total(lives)),
        "runs lost": str(len(lives) - len(ended)),
        "rows twice": str(sum(life["twice"] for life in ended)),
        "rows missing": str(sum(life["missing"] for life in ended)),
        "ends bitwise equal": str(sum(not life["unequal"] for life in ended)),
        "files left behind": str(sum(len(life["left"]) for life in ended)),
    }


if __name__ == "__main__":
    main()
