"""`report.html` of a run: one self-contained page, made only from the files of its workdir.

It is written for a reader who must judge in two minutes whether the run is good: what ran, what came out, on what
data, and what the numbers are not. A part whose file is absent is left out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.io.metric_rows import read_metrics
from jaxfuse.io.tables import read_json
from jaxfuse.report.curves import write_learning_curves
from jaxfuse.report.embedded import curve_images, data_uri, learning_images
from jaxfuse.report.metric_names import arrow_of, printed, title_of
from jaxfuse.report.page import write_page
from jaxfuse.report.results import Cell, Line, Result, columns, read_results

WORST_CASES, PANELS_SHOWN = 3, 6
# Metrics that stand for a result: all of them of a synthesis; of a segmentation those that are there.
SYNTHESIS = ("psnr_db", "nmse", "ssim")
SEGMENTATION = ("dice", "sensitivity", "hd95_mm", "hd_mm")


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
    workdir = Path(workdir)
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} is not a run: it has no config.json; give the folder that training printed")
    config = read_json(workdir / "config.json")
    dataset = _optional_json(workdir / "dataset.json")
    metrics = read_metrics(workdir)
    results = read_results(workdir, config)
    write_learning_curves(metrics, workdir / "results")
    related = _on_same_data(workdir, dataset, related)
    context = {
        "title": " · ".join(str(config[key]) for key in ("name", "preset", "row", "variant") if config.get(key)),
        "facts": _facts(workdir, config, dataset, metrics),
        "notes": _notes(config, dataset),
        "phases": _phase_lines(config, metrics, results),
        "tiles": _tiles(results),
        "curves": curve_images(workdir, metrics),
        "learning": learning_images(workdir, related),
        "results": [_result_context(result) for result in reversed(results)],
        "rows": _compare(workdir, config, results, related),
        "row_panels": [
            {"case": path.stem, "image": data_uri(path)} for path in sorted((workdir / "figures/rows").glob("*.png"))
        ],
        "environment": _optional_json(workdir / "environment.json"),
        "config": json.dumps(config, indent=2, ensure_ascii=False),
    }
    path = workdir / "report.html"
    write_page(path, "report.html.j2", context)
    return path


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _facts(
    workdir: Path, config: Mapping[str, Any], dataset: Mapping[str, Any], metrics: Sequence[Any]
) -> list[tuple[str, str]]:
    environment = _optional_json(workdir / "environment.json")
    root = config.get("data", {}).get("root")
    facts = [("Config", config.get("name")), ("Preset", config.get("preset") or "default"), ("Row", config.get("row"))]
    facts += [("Variant", config.get("variant")), ("Schedule", " → ".join(config.get("schedule", ())))]
    facts += [("Seed", config.get("seed")), ("Data", root or ("phantoms" if root == "" else None))]
    if dataset.get("train") and dataset.get("val"):
        drawn, different = len(dataset["train"]), len(set(dataset["train"]))
        often = f" ({different} different)" if different < drawn else ""
        facts.append(("Cases", f"{drawn} training{often}, {len(dataset['val'])} validation"))
    facts.append(("Modalities", ", ".join(dataset.get("modalities", ()))))
    facts += [(key.capitalize(), environment.get(key)) for key in ("device", "host", "started", "finished")]
    if metrics:
        written = time.localtime((workdir / "metrics.jsonl").stat().st_mtime)
        facts.append(("Last metric row", time.strftime("%Y-%m-%d %H:%M", written)))
    facts += [("Folder", workdir.resolve().name), ("Command", environment.get("command"))]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _notes(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the numbers are not: (short name, sentence)."""
    notes = []
    if config.get("data", {}).get("root") == "":
        text = "All images are synthetic. Phantom scores show that the method learns; they say nothing about patients."
        notes.append(("Phantom scores", text))
    train, val = set(dataset.get("train", ())), set(dataset.get("val", ()))
    if train and train == val:
        text = "Training and validation cases are the same: the scores measure memory, not generalization."
        notes.append(("Overfit check", text))
    elif shared := train & val:
        text = f"{len(shared)} of {len(val)} validation cases are training cases too, so the scores are too high."
        notes.append(("Overlapping split", text))
    return notes


def _phase_lines(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], results: Sequence[Result]
) -> list[tuple[str, str]]:
    """One plain sentence per phase, and per result that is no phase."""
    by_name = {result.name: result for result in results}
    names = [*config.get("schedule", ()), *(row["phase"] for row in metrics), *by_name]
    lines = []
    for name in dict.fromkeys(names):
        rows = [row for row in metrics if row["phase"] == name and row["split"] == "train"]
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
    lines, parts = result.headline, []
    if lines:
        regions = ", ".join(f"{r} {line.cell('dice').mean}" for r, line in lines.items() if r != "mean")
        parts.append(f"{result.primary}: mean Dice {lines['mean'].cell('dice').mean} ({regions})")
        parts.append(f"mean {result.distance_name} {lines['mean'].cell(result.distance).mean} mm")
    elif result.synthesis is not None:
        parts += [f"{line.output}: {_of_synthesis(line)}" for line in result.lines]
    else:
        for metric in result.metrics:
            means = sorted(line.statistics[metric]["mean"] for line in result.lines if metric in line.statistics)
            ends = " to ".join(dict.fromkeys(printed(metric, mean) for mean in (means[0], means[-1])))
            parts.append(f"{title_of(metric)} {ends} over {len(means)} outputs")
    parts += [f"{line.output}: Qabf {line.cell('qabf').mean}" for line in result.fusion]
    if "cases" in result.summary:
        parts.append(f"{result.summary['cases']} validation cases")
    parts += [f"{seconds} s per {unit}" for unit, seconds in _speeds(result)]
    return parts


def _of_synthesis(line: Line) -> str:
    return ", ".join(f"{title_of(metric)} {line.cell(metric).mean}" for metric in SYNTHESIS)


def _speeds(result: Result) -> list[tuple[str, str]]:
    """(subject or slice, seconds that one takes)."""
    units = {"subject": "seconds_per_subject", "slice": "seconds_per_slice"}
    return [(unit, f"{result.summary[name]:.2g}") for unit, name in units.items() if name in result.summary]


def _tiles(results: Sequence[Result]) -> list[tuple[str, Cell]]:
    """What the last segmentation or synthesis came to: mean Dice, regions and a distance, or its metrics; time."""
    result = next((result for result in reversed(results) if result.compared), None)
    if result is None:
        return []
    if (made := result.synthesis) is not None:
        tiles = [(f"{title_of(metric)}, {result.summary['target']}", made.cell(metric)) for metric in SYNTHESIS]
        return tiles + [(f"s per {unit}", Cell(seconds)) for unit, seconds in _speeds(result)]
    lines = result.headline
    tiles = [(f"mean Dice, {result.primary}", lines["mean"].cell("dice"))]
    tiles += [(f"Dice {region}", line.cell("dice")) for region, line in lines.items() if region != "mean"]
    # A penalized case weighs on a mean for good: the median says how far off the others are.
    median = printed(result.distance, lines["mean"].statistics[result.distance]["median"])
    tile = f"mean {result.distance_name}, mm (median {median})"
    tiles.append((tile, Cell(lines["mean"].cell(result.distance).mean)))
    tiles += [(f"s per {unit}", Cell(seconds)) for unit, seconds in _speeds(result)]
    return tiles


def _result_context(result: Result) -> dict[str, Any]:
    worst = _worst_cases(result)
    shown = [case["case"] for case in worst]
    others = [name for name in result.panels if name not in shown]
    defined = {**result.summary.get("distances", {}), **result.summary.get("definitions", {})}
    footnotes = [f"{name}: {text}." for name, text in defined.items()]
    footnotes += [f"{result.summary['one_empty']}."] if "one_empty" in result.summary else []
    return {
        "name": result.name,
        "primary": result.primary,
        "lines": result.lines,
        "metrics": columns(result.lines),
        "fusion": result.fusion,
        "fusion_metrics": columns(result.fusion),
        "sources": " + ".join(result.summary.get("fusion", {}).get("sources", ())),
        "has_regions": any(line.region for line in result.lines),
        "footnotes": footnotes + [text for line in result.lines if (text := _empty_note(line))],
        "strip": _strip(result),
        "worst": worst,
        "distance": result.distance_name,
        "panels": [{"case": name, "image": data_uri(result.panels[name])} for name in others[:PANELS_SHOWN]],
        "more": len(others[PANELS_SHOWN:]),
    }


def _empty_note(line: Line) -> str:
    """How many cases of this line have empty masks; nothing is said of the mean over regions."""
    words = {"truth_empty": "truth empty", "pred_empty": "prediction empty", "one_empty": "exactly one of them empty"}
    facts = [f"{text} in {line.counts[key]}" for key, text in words.items() if line.counts.get(key)]
    if not facts or line.region == "mean":
        return ""
    return f"{line.output} {line.region}: {', '.join(facts)} of {line.counts['cases']} cases."


def _dice_by_case(result: Result) -> dict[str, dict[str, Mapping[str, Any]]]:
    by_case: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in result.cases:
        if row["output"] == result.primary:
            by_case.setdefault(row["case"], {})[row["region"]] = row
    return by_case


def _worst_cases(result: Result) -> list[dict[str, Any]]:
    """The cases of lowest mean Dice of the primary output; a case without any defined Dice is left out."""
    if not result.is_segmentation:
        return []
    worst = []
    for case, regions in _dice_by_case(result).items():
        defined = [row["dice"] for row in regions.values() if math.isfinite(row["dice"])]
        if defined:
            cells = {name: [printed(m, row[m]) for m in ("dice", result.distance)] for name, row in regions.items()}
            image = data_uri(result.panels[case]) if case in result.panels else ""
            worst.append({"case": case, "dice": sum(defined) / len(defined), "regions": cells, "image": image})
    return sorted(worst, key=lambda entry: entry["dice"])[:WORST_CASES]


def _strip(result: Result) -> dict[str, list[tuple[str, float]]]:
    """Region -> (case, Dice) of every validation case, for the dot plot."""
    strip: dict[str, list[tuple[str, float]]] = {}
    for case, regions in _dice_by_case(result).items() if result.is_segmentation else ():
        for region, row in regions.items():
            if math.isfinite(row["dice"]):
                strip.setdefault(region, []).append((case, row["dice"]))
    return strip


def _on_same_data(workdir: Path, dataset: Mapping[str, Any], related: Sequence[Path]) -> list[Path]:
    """Those of the related runs that have the data of this one, and its split."""
    mine = dataset.get("fingerprint")
    others = [run for run in map(Path, related) if run.resolve() != workdir.resolve()]
    return [
        run
        for run in others
        if mine is not None
        and _optional_json(run / "dataset.json").get("fingerprint") == mine
        and (run / "config.json").is_file()
    ]


def _compare(
    workdir: Path, config: Mapping[str, Any], results: list[Result], related: Sequence[Path]
) -> dict[str, Any]:
    """This run and the related ones of its kind, best mean Dice or PSNR first, whichever that is."""
    settings_of = {other: read_json(other / "config.json") for other in related}
    found = [(workdir, config, results), *((run, read, read_results(run, read)) for run, read in settings_of.items())]
    runs, kinds = [], []
    for folder, settings, outcome in found:
        if last := next((result for result in reversed(outcome) if result.compared), None):
            run = {"row": settings.get("row") or settings.get("name"), "folder": folder.resolve().name}
            judged = {"cases": last.summary["cases"], "lines": last.compared, "rank": last.rank}
            runs.append({**run, **judged, "mine": folder is workdir})
            kinds.append(last.summary["kind"])
    runs = [run for run, kind in zip(runs, kinds, strict=True) if kind == kinds[0]]
    if len(runs) < 2:
        return {}
    runs.sort(key=lambda run: -run["rank"])
    shown = {metric for run in runs for line in run["lines"].values() for metric in line.statistics}
    of_kind, order = (SYNTHESIS, "PSNR") if kinds[0] == "synthesis" else (SEGMENTATION, "mean Dice")
    return {
        "runs": runs,
        "regions": list(dict.fromkeys(r for run in runs for r in run["lines"])),
        "metrics": [(metric, title_of(metric), arrow_of(metric)) for metric in of_kind if metric in shown],
        "order": order,
    }
