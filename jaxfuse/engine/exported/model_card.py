"""The card of an exported run: what it is for, what it was trained on, how well it did, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxfuse.data.facts import DatasetFacts
from jaxfuse.engine.run_folder.workdir import read_config
from jaxfuse.engine.trained.incomplete import seen_subsets
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.io.geometry import sides_told
from jaxfuse.labels import LabelScheme
from jaxfuse.prediction.maker import Task
from jaxfuse.report.kinds import metric_named
from jaxfuse.report.results import Result, metric_names, read_results

_USE = (
    "Research on {what}. It is no medical device: nobody has tested it for the care of patients, and no decision about "
    "a person should rest on it."
)
_PHANTOMS = (
    "The training cases are phantoms, simulated heads of no patient. The weights show that the method learns, and say "
    "nothing about patients."
)


@dataclass(frozen=True)
class Exported:
    """The content of a card beside what the runs hold.

    Attributes:
        made: date, versions and command of the export.
        result: the label scheme, or the task of a synthesis.
        files: paths in the bundle, with their sizes in bytes.
        weights: numbers that the weights of each network hold.
    """

    made: Mapping[str, str]
    result: LabelScheme | Task
    files: Mapping[str, int]
    weights: Sequence[int]


def model_card(phases: Sequence[TrainedPhase], exported: Exported) -> str:
    """Renders the card as Markdown."""
    result = exported.result
    if isinstance(result, LabelScheme):
        what = f"the segmentation of {', '.join(result.classes[1:])}"
    else:
        what = f"making {result}"
    parts = [
        f"# {', '.join(one.name for one in phases)}",
        "## Intended use\n\n" + _USE.format(what=what),
        "## Network\n\n" + "\n".join(_networks(phases, exported.weights)),
        "## Data\n\n" + "\n\n".join(dict.fromkeys(_data(one) for one in phases)),
        "## Metrics\n\n" + "\n\n".join(_metrics(phases)),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(phases)),
        "## Versions\n\n" + "\n".join(f"- {name}: {value}" for name, value in exported.made.items()),
        "## Files\n\n| file | bytes |\n|---|--:|\n"
        + "\n".join(f"| {name} | {size:,} |" for name, size in exported.files.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _networks(phases: Sequence[TrainedPhase], weights: Sequence[int]) -> Iterator[str]:
    for one, count in zip(phases, weights, strict=True):
        patch = " x ".join(map(str, one.patch))
        axis = f", of {one.data.axis} slices" if one.system.geometry.ndim == 2 else ""
        model = read_config(one.workdir).to_dict()[one.phase.name]["model"]
        yield (
            f"- {one.name}: `{model}`, {count:,} weights, tiles of {patch} voxels{axis}; reads "
            f"{', '.join(one.preparation.modalities)}"
        )
    if len(phases) > 1:
        yield "\nThe result is the mean of all networks."


def _data(phase: TrainedPhase) -> str:
    facts, data = phase.facts, phase.data
    sides = [facts.told(side) for side in ("train", "val", "test")]
    trained, validated, held_out = (told or "none" for told in sides)
    lines = [
        f"Kind of data: {data.source}. Trained on {trained}; validated on {validated}; held out: {held_out}.",
        "" if data.root else _PHANTOMS,
        f"Voxels of {_spacing(facts)} mm." if facts.spacing_mm else "",
        f"Intensities are normalized by the rule `{data.normalize}`.",
    ]
    return " ".join(filter(None, lines))


def _spacing(facts: DatasetFacts) -> str:
    if not facts.spacing_range_mm:
        return sides_told(facts.spacing_mm)
    low, high = (sides_told([ends[k] for ends in facts.spacing_range_mm]) for k in range(2))
    return low if low == high else f"{low} to {high}"


def _metrics(phases: Sequence[TrainedPhase]) -> Iterator[str]:
    found = False
    for workdir in dict.fromkeys(one.workdir for one in phases):
        for result in read_results(workdir, read_config(workdir).to_dict()):
            if result.lines:
                found = True
                yield f"`{workdir.name}`, {result.name}, side `{result.summary.get('side', 'val')}` of the split:"
                yield _table(result)
    if not found:
        yield "The run has no results."


def _table(result: Result) -> str:
    metrics = [metric_named(name) for name in metric_names(result.lines)]
    lines = [f"| output | region | {' | '.join(one.title for one in metrics)} |", f"|---|---|{'--:|' * len(metrics)}"]
    for line in result.lines:
        cells = [line.cell(one).mean for one in metrics]
        lines.append(f"| {line.output} | {line.region} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _limits(phases: Sequence[TrainedPhase]) -> Iterator[str]:
    first = phases[0]
    yield "Cases are skull-stripped and co-registered; the background is that of the training data."
    if first.preparation.spacing_range_mm and not first.preparation.resample_mm:
        yield "Cases whose voxel sides differ from those of the training by more than a tenth are refused."
    if any(one.phase.validation.memory_mb for one in phases):
        yield (
            "The run predicts in larger tiles where memory allows; the bundle predicts in those of the training, with "
            "the same answer but for rounding."
        )
    for one in phases:
        if one.system.reads_presence:
            shown = ", ".join(sorted(seen_subsets(one)))
            yield f"Of cases that lack modalities {one.name} knows the subsets that training showed it: {shown}."
    yield "Programs are for CPUs and for CUDA."
