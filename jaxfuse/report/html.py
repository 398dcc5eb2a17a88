"""`report.html` of a run: one self-contained page, made only from the files of its workdir.

It is written for a reader who must judge in two minutes whether the run is good: what ran, what came out, on what
data, and what the numbers are not. A part whose file is absent is left out. Below its head stand the SECTIONS; a
further one is a module of this folder with its values and its markup, and an entry there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.report.cases_section import CASES
from jaxfuse.report.curves_section import CURVES
from jaxfuse.report.kinds import kind_of
from jaxfuse.report.page import Section, write_page
from jaxfuse.report.repeat_section import REPEAT
from jaxfuse.report.reported_run import ReportedRun, read_run
from jaxfuse.report.results import Cell, Result
from jaxfuse.report.results_section import RESULTS
from jaxfuse.report.rows_section import ROWS

SECTIONS: Sequence[Section] = (RESULTS, ROWS, CURVES, CASES, REPEAT)


def write_report(workdir: Path, *, related: Sequence[Path] = ()) -> Path:
    """Writes `workdir/report.html` and returns its path.

    The curves also become `figures/curves.png` and `figures/learning_curve.png` (the score alone, beside that of the
    related runs), and as numbers `results/<phase>/learning_curve.csv`.

    Args:
        workdir: a run. It reads config.json (required), environment.json, dataset.json, metrics.jsonl,
            results/<name>/{summary.json,cases.csv} and figures/<name>/*.png. The panel of a case is
            figures/<name>/<case>.png.
        related: workdirs of other runs. Those whose dataset.json has the fingerprint of this one are tabled beside it.

    Raises:
        UserError: no config.json there, or a file that cannot be read as what it should be.
    """
    run = read_run(Path(workdir), related)
    names = [run.config.get(key) for key in ("name", "preset", "row", "variant")]
    context = {
        "title": " · ".join(str(name) for name in names if name),
        "facts": _facts(run),
        "notes": _notes(run.config, run.dataset),
        "phases": _phase_lines(run),
        "tiles": _tiles(run.results),
        "sections": [section.html(run) for section in SECTIONS],
    }
    path = run.workdir / "report.html"
    write_page(path, "report.html.j2", context)
    return path


def _facts(run: ReportedRun) -> list[tuple[str, str]]:
    """(name, text): the config, the data, the machine and the times of the run."""
    config, dataset, environment = run.config, run.dataset, run.environment
    root = config.get("data", {}).get("root")
    facts = [("Config", config.get("name")), ("Preset", config.get("preset") or "default"), ("Row", config.get("row"))]
    facts += [("Variant", config.get("variant")), ("Schedule", " → ".join(config.get("schedule", ())))]
    facts += [("Seed", config.get("seed")), ("Data", root or ("phantoms" if root == "" else None))]
    facts.append(("Cases", _cases(dataset)))
    facts.append(("Modalities", ", ".join(dataset.get("modalities", ()))))
    facts += [(key.capitalize(), environment.get(key)) for key in ("device", "host", "started", "finished")]
    if run.metrics:
        written = time.localtime((run.workdir / "metrics.jsonl").stat().st_mtime)
        facts.append(("Last metric row", time.strftime("%Y-%m-%d %H:%M", written)))
    facts += [("Folder", run.workdir.resolve().name), ("Command", environment.get("command"))]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _cases(dataset: Mapping[str, Any]) -> str:
    """Says how many cases train, validate and are held out, and of how many subjects; empty without a split."""
    if not dataset.get("train"):
        return ""
    drawn, different = len(dataset["train"]), len(set(dataset["train"]))
    parts = [f"{drawn} training" + (f" ({different} different)" if different < drawn else "")]
    parts += [f"{len(dataset['val'])} validation" if dataset.get("val") else "no validation"]
    parts += [f"{len(dataset['test'])} held out for testing"] if dataset.get("test") else []
    subjects = [count for count in dataset.get("subjects", {}).values() if count]
    return ", ".join(parts) + (f"; subjects: {', '.join(map(str, subjects))}" if subjects else "")


def _notes(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(short name, sentence): warnings against reading too much into the numbers."""
    notes = []
    if config.get("data", {}).get("root") == "":
        text = "All images are synthetic. Phantom scores show that the method learns; they say nothing about patients."
        notes.append(("Phantom scores", text))
    train, val = set(dataset.get("train", ())), set(dataset.get("val", ()))
    if train and not val:
        notes.append(("No validation", "All cases train: nothing in this report tells how the network does on others."))
    if train and train == val:
        text = "Training and validation cases are the same: the scores measure memory, not generalization."
        notes.append(("Overfit check", text))
    elif shared := train & val:
        text = f"{len(shared)} of {len(val)} validation cases are training cases too, so the scores are too high."
        notes.append(("Overlapping split", text))
    return notes


def _phase_lines(run: ReportedRun) -> list[tuple[str, str]]:
    """One plain sentence per phase, and per result that is no phase."""
    by_name = {result.name: result for result in run.results}
    names = [*run.config.get("schedule", ()), *(row["phase"] for row in run.metrics), *by_name]
    lines = []
    for name in dict.fromkeys(names):
        rows = [row for row in run.metrics if row["phase"] == name and row["split"] == "train"]
        parts = [f"{max(row['step'] for row in rows)} steps", *_loss_changes(rows)] if rows else []
        parts += _outcome(by_name[name]) if name in by_name else []
        if parts:
            lines.append((name, "; ".join(parts) + "."))
    return lines


def _loss_changes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """First and last values of what is called a loss, as means over a tenth of the rows."""
    tenth = max(1, len(rows) // 10)
    names = [name for name in dict.fromkeys(n for row in rows for n in row) if name.rsplit("/", 1)[-1] == "loss"]
    changes = []
    for name in names:
        values = [row[name] for row in rows if name in row]
        first, last = (sum(part) / len(part) for part in (values[:tenth], values[-tenth:]))
        changes.append(f"{name} {first:.3g} → {last:.3g}")
    return changes


def _outcome(result: Result) -> list[str]:
    """The numbers of a result, its cases, and the time that one took."""
    cases = [f"{result.summary['cases']} validation cases"] if "cases" in result.summary else []
    speeds = [f"{seconds} s per {unit}" for unit, seconds in result.seconds()]
    if took := result.summary.get("seconds_of_training"):
        speeds.append(f"{took / 60:.3g} min of training steps")
    return [*kind_of(result.summary).told(result), *cases, *speeds]


def _tiles(results: Sequence[Result]) -> list[tuple[str, Cell]]:
    """The numbers of the last result that can be compared with others, and its time: (label, number)."""
    for result in reversed(results):
        kind = kind_of(result.summary)
        if kind.compared(result):
            return [*kind.tiles(result), *((f"s per {unit}", Cell(seconds)) for unit, seconds in result.seconds())]
    return []
