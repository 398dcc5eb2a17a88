"""Makes the rows of a published table: trains, predicts and scores each by the commands that a user would run.

Every script of this folder takes the same options:

    python -m experiments.tables.cmff                                  # the demo: minutes, on phantoms
    python -m experiments.tables.cmff --preset paper --root DIR --held-out DIR --seeds 0 1 2

The demo trains the smallest preset for some steps on phantoms and scores other phantoms: it shows that every row runs
to its end, and nothing about the methods. "paper" trains the paper's sizes on the data in --root and scores the labeled
cases in --held-out, on a GPU. What is finished is not done again, so that a script that was stopped goes on.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared import command, train_once
from experiments.tables.published import Line, Published, Values, write
from jaxfuse.data.phantom.pairs2d import write_pair_phantoms
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.io.tables import read_json

HERE = Path(__file__).parent
DEMO, PAPER = "demo", "paper"
DEMO_STEPS, DEMO_CASES = 40, 3
# Of phantoms that are scored; no training uses it.
HELD_OUT_SEED = 30_319


@dataclass(frozen=True)
class Asked:
    """The wishes of a call.

    Attributes:
        given: folders that rows need beside the data, by the option's name.
        more: further options of every training.
    """

    preset: str
    seeds: tuple[int, ...]
    folder: Path
    root: Path | None
    held_out: Path | None
    given: dict[str, Path]
    more: tuple[str, ...] = ()


def recipe_of(table: Published, line: Line) -> str:
    """Returns the recipe that a line is trained by."""
    return line.config or table.config


def config_of(table: Published, line: Line, asked: Asked) -> tuple[str, Any]:
    """Returns the argument of the training for a line, and its config."""
    preset, recipe = "tiny" if asked.preset == DEMO else PAPER, recipe_of(table, line)
    argument = ",".join(part for part in (preset, line.argument) if part)
    module = importlib.import_module(f"configs.{recipe}")
    return f"configs/{recipe}.py:{argument}", module.get_config(argument)


def why_not(line: Line, asked: Asked) -> str:
    """Says why a line cannot be made; empty where it can."""
    option = line.needs.partition("=")[0]
    if option and option not in asked.given:
        return f"it needs --{option} DIR"
    return line.absent


def train(table: Published, line: Line, seed: int, asked: Asked) -> Path:
    """Trains the run of a line unless it was done before; returns its folder."""
    argument, config = config_of(table, line, asked)
    workdir = asked.folder / recipe_of(table, line) / f"{line.training}-seed{seed}"
    options = [f"--config.seed={seed}", *line.options, *asked.more]
    if asked.preset == DEMO:
        options += [f"--config.{phase}.steps={DEMO_STEPS}" for phase in config.schedule]
    else:
        options.append(f"--config.data.root={asked.root}")
    option, _, place = line.needs.partition("=")
    if option:
        options.append(f"--config.{place}={asked.given[option]}")
    train_once(argument, workdir, *options)
    return workdir


def held_out(table: Published, line: Line, asked: Asked) -> Path:
    """Returns the folder of the cases that are scored; that of the demo is written."""
    if asked.held_out is not None:
        return asked.held_out / table.pairs
    if table.pairs:
        partner = table.pairs.removeprefix("MRI_").lower()
        root = asked.folder / f"held-out-{partner}"
        sizes = {"shape": (64, 64), "spacing_mm": 3.5}
        return write_pair_phantoms(root, pairs=DEMO_CASES, seed=HELD_OUT_SEED, partners=(partner,), **sizes)[partner]
    _, config = config_of(table, line, asked)
    source, phantom = source_of(config.data.source), config.data.phantom
    root = asked.folder / f"held-out-{config.data.source}-{'x'.join(map(str, phantom.shape))}"
    assert source.write_phantoms, f"{config.data.source} has no phantoms"
    source.write_phantoms(
        root, cases=DEMO_CASES, seed=HELD_OUT_SEED, shape=tuple(phantom.shape), spacing_mm=phantom.spacing_mm
    )
    return root


def score(table: Published, line: Line, workdir: Path, asked: Asked) -> dict[str, float]:
    """Labels, or synthesizes, the held-out cases and scores them; returns the values by column."""
    name = "-".join([workdir.name, *line.phases])
    made, out = asked.folder / "made" / table.key / name, asked.folder / "scores" / table.key / name
    cases = held_out(table, line, asked)
    if not (out / "summary.json").is_file():
        runs = [f"{workdir}:{phase}" for phase in line.phases] or [str(workdir)]
        if table.pairs:
            command("fuse", "--run", *runs, "--pairs", str(cases), "--output", str(made), "--overwrite")
        else:
            command("predict", "--workdir", *runs, "--input", str(cases), "--output", str(made), "--overwrite")
        further = table.on_paper if asked.preset == PAPER else ()
        scored = ("--pred", str(made), "--ref", str(cases), "--out", str(out))
        command("evaluate", *scored, "--protocol", *table.protocol, *further)
    return values(table, line, read_json(out / "summary.json"))


def values(table: Published, line: Line, summary: Any) -> dict[str, float]:
    """Reads the columns out of the summary of an evaluation."""
    scores = summary["outputs"][line.image or summary["primary"]]
    found = {}
    for name, column in table.columns.items():
        regions = table.mean_of if column.region == "mean" else (column.region,)
        parts = [(scores[region] if region else scores)[column.metric]["mean"] for region in regions]
        found[name] = column.factor * float(np.mean(parts))
    return found


def make(table: Published, asked: Asked) -> dict[str, Values]:
    """Makes every line that can be made, and says so line by line."""
    made: dict[str, Values] = {}
    for line in table.lines:
        if not why_not(line, asked):
            made[line.name] = [score(table, line, train(table, line, seed, asked), asked) for seed in asked.seeds]
            print(f"{table.key}: {line.name}: {made[line.name][-1]}", flush=True)
    return made


def told(asked: Asked) -> str:
    """Says on which data the numbers here were made."""
    seeds = ", ".join(map(str, asked.seeds))
    if asked.preset == DEMO:
        return (
            f"Ours: the smallest networks after {DEMO_STEPS} steps, on {DEMO_CASES} small phantoms; seeds {seeds}. It "
            "shows that the rows run, not what the methods can. Published numbers are the paper's, on its own data."
        )
    return f"Ours: the paper's sizes, trained on {asked.root}, scored on {asked.held_out}; seeds {seeds}."


def main(tables: Sequence[Published], description: str | None) -> None:
    """Makes the tables that are asked for, by the options of a call."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=(DEMO, PAPER), default=DEMO)
    parser.add_argument("--tables", nargs="+", choices=[one.key for one in tables], default=[one.key for one in tables])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--root", type=Path, help="the training data; with --preset paper")
    parser.add_argument("--held-out", type=Path, help="labeled cases that are scored; with --preset paper")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "tables", help="trainings, predictions, scores")
    parser.add_argument("--out", type=Path, default=HERE / "demo", help="where the tables are written")
    needed = sorted({line.needs.partition("=")[0] for one in tables for line in one.lines} - {""})
    for option in needed:
        parser.add_argument(f"--{option}", type=Path, help="data that some rows need beside the others")
    parsed, more = parser.parse_known_args()
    if parsed.preset == PAPER and not (parsed.root and parsed.held_out):
        parser.error("--preset paper needs --root and --held-out")
    if parsed.preset == PAPER and parsed.out == HERE / "demo":
        parser.error("--preset paper needs --out, or it would replace the tables of the demo")
    if unknown := [option for option in more if not option.startswith("--config.")]:
        parser.error(f"{' '.join(unknown)} is unknown; further options of the trainings begin with --config.")
    given = {name: getattr(parsed, name).absolute() for name in needed if getattr(parsed, name)}
    places = [path and path.absolute() for path in (parsed.root, parsed.held_out)]
    folder = parsed.folder.absolute() / parsed.preset
    asked = Asked(parsed.preset, tuple(parsed.seeds), folder, *places, given, tuple(more))
    folder.mkdir(parents=True, exist_ok=True)
    parsed.out.mkdir(parents=True, exist_ok=True)
    for table in (one for one in tables if one.key in parsed.tables):
        print(write(with_reasons(table, asked), make(table, asked), told(asked), parsed.out))


def with_reasons(table: Published, asked: Asked) -> Published:
    """Returns the table whose lines say why they are not made by this call."""
    return replace(table, lines=tuple(replace(line, absent=why_not(line, asked)) for line in table.lines))
