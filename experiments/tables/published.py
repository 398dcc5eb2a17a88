"""Published tables, line by line, and how what was made here stands beside them: Markdown, CSV and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxfuse.io.tables import render, write_rows

# Seeds of one line: what each column comes to.
Values = Sequence[Mapping[str, float]]
NOT_MADE = "-"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        region: of a label map, or "mean" for those of `Published.mean_of`; empty where a score has no region.
        metric: as `jaxfuse.evaluate` names it.
        factor: from our unit to that of the paper, such as 100 for percents.
        digits: behind the point.
    """

    region: str
    metric: str
    factor: float = 1.0
    digits: int = 3


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        published: by column, as the paper prints it.
        argument: of the recipe: its row and variant, such as "row=ours"; the preset stands before it.
        phases: those that label, averaged; empty: what the run gives.
        options: further ones of the training.
        image: what of the scores is meant, where there are several, such as "fused".
        needs: the option of this script without which the row cannot be made, as "voc=voc.data.root".
        absent: why it cannot be made here; empty where it can.
        config: the recipe, where it is not that of the table.
    """

    name: str
    published: Mapping[str, str]
    argument: str = ""
    phases: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    image: str = ""
    needs: str = ""
    absent: str = ""
    config: str = ""

    @property
    def training(self) -> str:
        """The name of the run; lines that differ in their phases alone share it."""
        text = "-".join([self.argument, *self.options])
        return "".join(sign if sign.isalnum() else "_" for sign in text).strip("_") or "default"


@dataclass(frozen=True)
class Published:
    """A table of a paper.

    Attributes:
        key: by which it is asked for and its files are named.
        title: which table of which paper it is, and of which data its numbers are.
        config: the recipe of its rows.
        protocol: of `jaxfuse.evaluate`; further options of it follow.
        columns: by the name that stands above.
        notes: what a reader must know, such as misprints.
        pairs: the collection of pairs that is fused, such as "MRI_CT"; empty: cases are labeled, or synthesized.
        mean_of: the regions of which a column "mean" is the mean.
        on_paper: further options of the evaluation of the paper's data.
    """

    key: str
    title: str
    config: str
    protocol: tuple[str, ...]
    columns: Mapping[str, Column]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    pairs: str = ""
    mean_of: tuple[str, ...] = ("ET", "WT", "TC")
    on_paper: tuple[str, ...] = ()


def in_order(names: str, *texts: str) -> list[dict[str, str]]:
    """Reads rows of a paper, values apart by spaces, into mappings by the columns named alike."""
    columns = names.split()
    rows = [text.split() for text in texts]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def markdown(table: Published, made: Mapping[str, Values], told: str) -> str:
    """Renders a table: for every column ours, a mean ± deviation over seeds, beside what was published."""
    rows, left_out = [], []
    for line in table.lines:
        row = {"Row": line.name}
        for name, column in table.columns.items():
            row[name] = _ours(column, [one[name] for one in made.get(line.name, ())])
            row[f"{name}, published"] = line.published.get(name, NOT_MADE)
        rows.append(row)
        if line.name not in made:
            left_out.append(f"- {line.name}: not made here: {line.absent or 'not asked for'}.")
    notes = [f"- {note}" for note in table.notes]
    return "\n".join(
        [f"# {table.title}", "", told, "", render(rows, list(rows[0])), "", *left_out, *notes, ""]
    ).replace("\n\n\n", "\n\n")


def _ours(column: Column, values: Sequence[float]) -> str:
    if not values:
        return NOT_MADE
    mean, digits = float(np.mean(values)), column.digits
    return f"{mean:.{digits}f}" + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def write(table: Published, made: Mapping[str, Values], told: str, folder: Path) -> str:
    """Writes KEY.md, KEY.csv and KEY.png; returns the Markdown."""
    text = markdown(table, made, told)
    (folder / f"{table.key}.md").write_text(text)
    rows = [
        {"row": line.name, "column": name, "seed": number, "ours": one[name], "published": line.published.get(name, "")}
        for line in table.lines
        for number, one in enumerate(made.get(line.name, ()))
        for name in table.columns
    ]
    write_rows(folder / f"{table.key}.csv", rows)
    draw(table, made, folder / f"{table.key}.png")
    return text


def number(text: str) -> float:
    """Reads the mean of a printed value, such as "25.05±1.325"; NaN where there is none."""
    try:
        return float(text.partition("±")[0])
    except ValueError:
        return float("nan")


def draw(table: Published, made: Mapping[str, Values], path: Path) -> None:
    """Draws a panel for every column: ours as points with their deviation, the paper's as bars across."""
    names = [line.name for line in table.lines]
    across = min(3, len(table.columns))
    down = -(-len(table.columns) // across)
    figure = Figure(figsize=(1.6 + 3.4 * across, 0.9 + down * (0.5 + 0.26 * len(names))), layout="constrained")
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    places = np.arange(len(names))[::-1]
    for panel, (name, column) in zip(panels, table.columns.items(), strict=False):
        for place, line in zip(places, table.lines, strict=True):
            values = [one[name] for one in made.get(line.name, ())]
            if values:
                panel.errorbar(np.mean(values), place, xerr=np.std(values), fmt="o", color="#0072B2", markersize=5)
            panel.plot(number(line.published.get(name, "")), place, "|", color="#D55E00", markersize=14, mew=2)
        metric = column.metric.removesuffix("_mm")
        panel.set_title(f"{name} ({metric})" if column.region and metric not in name.lower() else name, fontsize=9)
        panel.set_yticks(places, names, fontsize=8)
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(axis="x", alpha=0.25)
    for panel in panels[len(table.columns) :]:
        panel.set_axis_off()
    figure.suptitle("ours (points) and published (bars); on different data", fontsize=9)
    figure.savefig(path, dpi=110)
