"""The section of a report that sets a run beside others on the same data: the rows of a table of a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.io.tables import read_json
from jaxfuse.report.embedded import data_uri
from jaxfuse.report.kinds import kind_of
from jaxfuse.report.page import Section
from jaxfuse.report.reported_run import ReportedRun
from jaxfuse.report.results import Result, read_results


def _values(run: ReportedRun) -> Mapping[str, Any]:
    """This run and the related ones of its kind, the best first, whichever that is."""
    if (mine := _compared(run.workdir, run.config, run.results)) is None:
        return {}
    kind, row = mine
    rows = [{**row, "mine": True}]
    for other in run.related:
        settings = read_json(other / "config.json")
        found = _compared(other, settings, read_results(other, settings))
        if found is not None and found[0] is kind:
            rows.append({**found[1], "mine": False})
    if len(rows) < 2:
        return {}
    rows.sort(key=lambda one: -one["rank"])
    shown = {metric for one in rows for line in one["lines"].values() for metric in line.statistics}
    panels = sorted((run.workdir / "figures" / "rows").glob("*.png"))
    return {
        "runs": rows,
        "columns": list(dict.fromkeys(name for one in rows for name in one["lines"])),
        "metrics": [metric for metric in kind.leading if metric.name in shown],
        "order": kind.rank_title,
        "panels": [(path.stem, data_uri(path)) for path in panels],
    }


def _compared(workdir: Path, config: Mapping[str, Any], results: Sequence[Result]) -> tuple[Any, dict[str, Any]] | None:
    """The kind and the row of the last result of a run that can be compared."""
    for result in reversed(results):
        kind = kind_of(result.summary)
        if lines := kind.compared(result):
            names = {"row": config.get("row") or config.get("name"), "folder": workdir.resolve().name}
            return kind, {**names, "cases": result.summary["cases"], "lines": lines, "rank": kind.rank(result)}
    return None


ROWS = Section(
    _values,
    """
<section>
<h2>Rows trained so far on the same data</h2>
<div class="scroll"><table>
<thead>
<tr><th></th>{% for metric in metrics %}
<th class="group" colspan="{{ columns | length }}">{{ metric.title }} {{ metric.arrow }}</th>{% endfor %}<th></th></tr>
<tr><th>Row</th>{% for _ in metrics %}{% for column in columns %}<th class="num">{{ column }}</th>
{%- endfor %}{% endfor %}<th class="num">Cases</th></tr>
</thead>
<tbody>
{% for run in runs %}
<tr class="{{ 'mine' if run.mine }}"><td>{{ run.row }}{% if run.mine %} (this run){% endif %}<br>
<span class="std">{{ run.folder }}</span></td>
{% for metric in metrics %}{% for column in columns %}
<td class="num">{{ run.lines[column].cell(metric).mean if column in run.lines }}</td>{% endfor %}{% endfor %}
<td class="num">{{ run.cases }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="soft">Means of each run's result over the same validation cases, highest {{ order }} first, whichever row that
is.</p>
{% for case, image in panels %}
<figure><figcaption>{{ case }}: the rows side by side</figcaption>
<img src="{{ image }}" alt="rows side by side on {{ case }}"></figure>
{% endfor %}
</section>
""",
)
