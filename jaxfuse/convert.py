"""python -m jaxfuse.convert --weights FILE --to TABLE --workdir RUN

Makes a run's folder of weights that others have trained, by a public code whose network jaxfuse has: `predict` and the
like then work as on a run that was trained here. TABLE is the code: hinet, hyperdense, pix2pix, cyclegan and more, as
--list lists them. FILE is PyTorch's (.pth, .pt, .pkl, ...), of which tensors are read and nothing is run, .safetensors
or .npz. Where a code keeps each network in a file of its own, further files follow the first; PART:FILE says which
network it is where names do not. Networks that no file has, such as critics, are drawn.

The recipe is the code's own at the sizes that were published, and prepares cases as that code does, as far as it tells:
--config names another one, with options of its own, such as --config=hinet:paper,data=t2.

    python -m jaxfuse.convert --weights FILE --to TABLE --config RECIPE --output FILE

writes the weights by our own names, .safetensors or .npz, for `--config.PHASE.start` of a training.

    python -m jaxfuse.convert --run RUN[:PHASE[@last|@best]] --to TABLE --output DIR

writes the weights of a run by the names of a public code, a file of safetensors for each network, or by our own with
--to jaxfuse.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxfuse import cli, recipe_files
from jaxfuse.errors import UserError
from jaxfuse.io import outputs
from jaxfuse.options import flat


def define_flags() -> None:
    """Declares the options of the command."""
    flags.DEFINE_string("weights", None, "File of weights, or PART:FILE; further ones may follow it.")
    flags.DEFINE_string("to", None, "Table of a public code's names; with --run also jaxfuse, our own.")
    flags.DEFINE_string("workdir", None, "Folder for the run; new or empty.")
    flags.DEFINE_string("run", None, "Run whose weights are written: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("output", None, "With --run a folder for files; else a file, .safetensors or .npz.")
    flags.DEFINE_string("phase", None, "The recipe's phase that the weights are for, where it has several.")
    flags.DEFINE_bool("list", False, "List the tables, their parts, and the recipes that they make runs of.")
    flags.DEFINE_bool(outputs.OVERWRITE, False, outputs.OVERWRITE_HELP)
    config_flags.DEFINE_config_file(
        "config", None, "Recipe, in place of the table's own.", lock_config=True, flag_values=flags.FLAGS
    )


def main(argv: list[str]) -> int:
    """Converts; returns 0."""
    asked: Any = flags.FLAGS
    if asked.list:
        cli.no_arguments(argv)
        print(_tables())
        return 0
    if (asked.weights is None) == (asked.run is None):
        raise UserError("give either --weights FILE, to read it, or --run RUN, whose weights are to be written")
    if not asked.to:
        raise UserError("--to is not given and has to be, as the name of a table; --list lists them")
    if asked.run is not None:
        cli.no_arguments(argv)
        return _write(asked)
    return _read(asked, [asked.weights, *argv[1:]])


def _tables() -> str:
    from jaxfuse.weights.tables import TABLES

    lines = ["table         parts                           a run of"]
    for name, table in TABLES.items():
        parts = ", ".join(part.name for part in table.parts)
        lines.append(f"{name:<13} {parts:<31} {table.recipe or '-'}   {table.title}")
    return "\n".join(lines)


def _read(asked: Any, files: list[str]) -> int:
    """Reads files of a public code, into a run or into a file of ours."""
    from jaxfuse.engine.conversion.run import write_run
    from jaxfuse.engine.conversion.sources import read_as
    from jaxfuse.weights.tables import table_of

    table = table_of(asked.to)
    if (asked.workdir is None) == (asked.output is None):
        raise UserError("give either --workdir RUN, for a run, or --output FILE, for the weights by our own names")
    sources = [read_as(asked.to, text) for text in files]
    if asked.workdir is not None:
        if asked.overwrite:
            raise UserError("--overwrite is an option of --output; leave it out, and name a new or empty --workdir")
        if not table.recipe:
            raise UserError(
                f"weights of {table.title} make no run of jaxfuse by themselves; a training starts from them with "
                f"--config.PHASE.start={asked.to}:FILE"
            )
        config = _recipe(asked, table)
        told = write_run(config, sources, Path(asked.workdir), asked.phase or table.phase)
        print("\n".join([told, *others(config, table)]))
        return 0
    return _write_arrays(asked, table, sources)


def others(config: Any, table: Any) -> list[str]:
    """Returns a sentence for each option by which a recipe that was named departs from the public code."""
    from jaxfuse.engine.conversion.run import settled_for_all

    own = flat(settled_for_all(config))
    return [
        f"--config.{name} is {own[name]!r}, and {table.title} has {value!r}; name that to have the same"
        for name, value in (table.overrides or {}).items()
        if name in own and own[name] != value
    ]


def _write_arrays(asked: Any, table: Any, sources: list[Any]) -> int:
    """Writes weights by our own names."""
    from jaxfuse.engine.conversion.run import read_all, target_of
    from jaxfuse.engine.conversion.written import write_arrays

    path = Path(asked.output)
    target = target_of(_recipe(asked, table), asked.phase or table.phase)
    arrays = read_all(sources, target.shapes(), target.sources)
    write_arrays(path, arrays, overwrite=asked.overwrite)
    print(f"{path} has {len(arrays)} arrays of {' and '.join(map(str, sources))}")
    return 0


def _write(asked: Any) -> int:
    """Writes the weights of a run."""
    from jaxfuse.engine.conversion.written import write_weights
    from jaxfuse.engine.trained.phases import load

    for name in ("workdir", "config", "phase"):
        if asked[name].value is not None:
            raise UserError(
                f"--{name} is an option of --weights, and --run names the weights to be written; leave it out"
            )
    if asked.output is None:
        raise UserError("--output is not given and has to be: a folder for the files of weights")
    first, *others = load([asked.run])
    if others:
        raise UserError(
            f"{asked.run} has the results {', '.join(one.name for one in (first, *others))}; name one of them as "
            f"RUN:PHASE, such as {asked.run}:{first.phase.name}"
        )
    paths = write_weights(first, asked.to, Path(asked.output), overwrite=asked.overwrite)
    print(f"written: {', '.join(map(str, paths))}")
    return 0


def _recipe(asked: Any, table: Any) -> Any:
    """Returns the recipe that --config names, else the table's own."""
    from jaxfuse.engine.conversion.run import replaced

    if asked.config is not None:
        return asked.config
    if not table.recipe:
        raise UserError(
            f"the sizes of {table.title} are those of a recipe, and none is named; name it, such as --config "
            "fuse4seg:paper"
        )
    name, _, text = table.recipe.partition(":")
    config = recipe_files.load(recipe_files.find(name)).get_config(text)
    return replaced(config, table.overrides or {})


if __name__ == "__main__":
    define_flags()
    cli.run(main)
