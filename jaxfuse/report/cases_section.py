"""The section of a report on single cases: the worst, with their numbers, and the panels of others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxfuse.metrics.names import Metric
from jaxfuse.report.embedded import data_uri
from jaxfuse.report.kinds import kind_of
from jaxfuse.report.page import Section
from jaxfuse.report.reported_run import ReportedRun
from jaxfuse.report.results import Result

WORST_CASES, PANELS_SHOWN = 3, 6


def _values(run: ReportedRun) -> Mapping[str, Any]:
    results = [_result(result) for result in reversed(run.results)]
    shown = [result for result in results if result["worst"] or result["panels"]]
    return {"results": shown} if shown else {}


def _result(result: Result) -> dict[str, Any]:
    metrics = kind_of(result.summary).of_cases(result)
    worst = _worst_cases(result, metrics) if metrics else []
    others = [name for name in result.panels if name not in [case["case"] for case in worst]]
    return {
        "name": result.name,
        "primary": result.primary,
        "leading": metrics[0].title if metrics else "",
        "headers": [_header(metric, region) for metric in metrics for region in (worst[0]["regions"] if worst else ())],
        "worst": worst,
        "panels": [(name, data_uri(result.panels[name])) for name in others[:PANELS_SHOWN]],
        "more": len(others[PANELS_SHOWN:]),
    }


def _header(metric: Metric, region: str) -> str:
    return f"{metric.short} {region}{metric.title.removeprefix(metric.short)}"


def _worst_cases(result: Result, metrics: tuple[Metric, ...]) -> list[dict[str, Any]]:
    """The cases of the lowest mean of the first metric; a case where that is nowhere defined is left out."""
    by_case: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in result.cases:
        if row["output"] == result.primary:
            by_case.setdefault(row["case"], {})[row["region"]] = row
    worst = []
    for case, regions in by_case.items():
        defined = [value for row in regions.values() if math.isfinite(value := row[metrics[0].name])]
        if defined:
            texts = [metric.text(row[metric.name]) for metric in metrics for row in regions.values()]
            image = data_uri(result.panels[case]) if case in result.panels else ""
            mean = sum(defined) / len(defined)
            worst.append({"case": case, "mean": mean, "regions": list(regions), "texts": texts, "image": image})
    return sorted(worst, key=lambda entry: entry["mean"])[:WORST_CASES]


CASES = Section(
    _values,
    """
{% for result in results %}
<section>
<h2>Cases of {{ result.name }}</h2>
{% if result.worst %}
<h3>The worst cases, by mean {{ result.leading }} of {{ result.primary }}</h3>
<div class="scroll"><table>
<thead><tr><th>Case</th><th class="num">Mean {{ result.leading }}</th>
{% for header in result.headers %}<th class="num">{{ header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for case in result.worst %}
<tr><td>{{ case.case }}</td><td class="num">{{ "%.3f" | format(case.mean) }}</td>
{% for text in case.texts %}<td class="num">{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% for case in result.worst if case.image %}
<figure><figcaption>{{ case.case }}, mean {{ result.leading }} {{ "%.3f" | format(case.mean) }}</figcaption>
<img src="{{ case.image }}" alt="panel of {{ case.case }}"></figure>
{% endfor %}
{% endif %}

{% if result.panels %}
{% if result.worst %}<h3>Other cases</h3>{% endif %}
{% for case, image in result.panels %}
<figure><img src="{{ image }}" alt="panel of {{ case }}"></figure>
{% endfor %}
{% if result.more %}<p class="soft">{{ result.more }} more in figures/{{ result.name }}.</p>{% endif %}
{% endif %}
</section>
{% endfor %}
""",
)
