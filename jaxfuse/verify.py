"""Lists the cases of a data set, every problem found, and what preparing the cases takes.

    python -m jaxfuse.verify --root DIR [--layout L] [--labels SCHEME] [--modalities t1,t2]
        [--subject PATTERN] [--json] [--write_splits splits_final.json]

Exit code 0, or 1 where a problem is fatal, or 2 where nothing could be looked at.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from jaxfuse import cli
from jaxfuse.data.facts import counted
from jaxfuse.data.folds import write_folds
from jaxfuse.data.sides import folds_of
from jaxfuse.data.sources.case_folders import files_of
from jaxfuse.data.sources.volumes import LAYOUTS, volume_root
from jaxfuse.data.subject_names import told_subjects
from jaxfuse.data.verify import Verdict, verify
from jaxfuse.errors import UserError
from jaxfuse.labels import SCHEMES


def define_flags() -> None:
    """Defines this command's flags. Not on import: other commands have flags of the same names."""
    flags.DEFINE_string("root", None, "Folder that holds the cases, at any level from the download's folder down.")
    flags.DEFINE_string(
        "layout", None, f"Layout; told from the names on disk if not given. One of: {', '.join(LAYOUTS)}."
    )
    flags.DEFINE_string(
        "labels",
        None,
        f"Label scheme; the layout's if not given. One of: {', '.join(SCHEMES)}, or written: edema=1,core=2.",
    )
    flags.DEFINE_list("modalities", None, "Modalities that every case must have; all of the layout if not given.")
    flags.DEFINE_string(
        "subject",
        "",
        "A regular expression with one group, the part of a case's name that is its subject, as data.subject; names of "
        "known data sets tell it if not given.",
    )
    flags.DEFINE_string(
        "background", "auto", "The stored value around the head: auto, none, a number, or one for each modality."
    )
    flags.DEFINE_string(
        "entities",
        "",
        "Data sets of BIDS: which of several files of a kind is meant, as data.entities: acq-fast, or acq- for that "
        "without it.",
    )
    flags.DEFINE_string("write_splits", None, "JSON file to write, with the folds of the cases in nnU-Net's form.")
    flags.DEFINE_integer("folds", 5, "With --write_splits: how many folds.", lower_bound=2)
    flags.DEFINE_integer(
        "split_seed", 12345, "With --write_splits: the seed of the folds; that of nnU-Net if not given."
    )
    flags.DEFINE_string("stratify", "none", "With --write_splits: what folds hold alike many of, as data.stratify.")
    flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")


def main(argv: list[str]) -> int:
    """Verifies `--root`; returns the exit code."""
    asked = flags.FLAGS
    if argv[1:]:
        raise UserError(f"{' '.join(argv[1:])} was given without a flag; the folder is given as --root DIR")
    if not asked.root:
        raise UserError("no folder was given; name one with --root DIR")
    # On standard error, so that JSON stays alone on standard output.
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("cases", total=None)
        verdict = verify(
            asked.root,
            layout=asked.layout,
            scheme=asked.labels,
            modalities=asked.modalities,
            subject=asked.subject,
            background=asked.background,
            entities=asked.entities,
            on_case=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if asked.write_splits and not verdict.count("fatal"):
        write_splits(Path(asked.write_splits), asked)
    if asked.json:
        print(as_json(verdict))
    else:
        show(verdict, Console())
    return 1 if verdict.count("fatal") else 0


def write_splits(path: Path, asked: flags.FlagValues) -> None:
    """Draws folds of the cases that are labeled and not held out, and writes them."""
    root = volume_root(asked.root, layout=asked.layout or "", entities=asked.entities)
    files = [files_of(one, labels_required=False) for one in root.look(asked.modalities or root.modalities)]
    labeled = [one for one in files if one.label]
    subject = told_subjects({one.id: one.told for one in labeled}, asked.subject, option="--subject")
    write_folds(path, folds_of(labeled, asked.folds, seed=asked.split_seed, stratify=asked.stratify, subject=subject))


def as_json(verdict: Verdict) -> str:
    """The verdict as one JSON object."""
    counts = {"fatal": verdict.count("fatal"), "warnings": verdict.count("warning")}
    return json.dumps({**asdict(verdict), "root": str(verdict.root), **counts}, indent=1)


def show(verdict: Verdict, console: Console) -> None:
    """Prints a table of the problems, case by case, one line of summary, and what preparing takes."""
    if verdict.problems:
        table = Table(show_lines=False)
        for column in ("case", "severity", "problem"):
            table.add_column(column, overflow="fold")
        for problem in verdict.problems:
            # Text, because an affine's brackets would be read as markup in a plain string.
            table.add_row(*(Text(cell) for cell in (problem.case, problem.severity, problem.message)))
        console.print(table)
    troubled = {p.case for p in verdict.problems} & set(verdict.cases)
    clean = len(verdict.cases) - len(troubled)
    cases, subjects = counted(len(verdict.cases), "case"), counted(len(verdict.subjects), "subject")
    summary = (
        f"{cases} of {subjects} (without remarks: {clean}), layout {verdict.layout}, labels {verdict.scheme}; "
        f"fatal: {verdict.count('fatal')}, warnings: {verdict.count('warning')}"
    )
    for line in (summary, *([verdict.needs.told()] if verdict.needs else [])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
