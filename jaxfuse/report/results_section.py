"""The section of a report on results: a table for each, its footnotes, and the dots of single cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxfuse.report.kinds import kind_of, metric_named
from jaxfuse.report.page import Section
from jaxfuse.report.reported_run import ReportedRun
from jaxfuse.report.results import Line, Result, metric_names


def _values(run: ReportedRun) -> Mapping[str, Any]:
    return {"results": [_result(result) for result in reversed(run.results)]} if run.results else {}


def _result(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "primary": result.primary,
        "lines": result.lines,
        "metrics": [metric_named(name) for name in metric_names(result.lines)],
        "fusion": result.fusion,
        "fusion_metrics": [metric_named(name) for name in metric_names(result.fusion)],
        "sources": " + ".join(result.summary.get("fusion", {}).get("sources", ())),
        "has_regions": any(line.region for line in result.lines),
        "footnotes": _footnotes(result),
        **_dots(result),
    }


def _footnotes(result: Result) -> list[str]:
    return [*definitions(result.summary), *(text for line in result.lines if (text := empty_note(line)))]


def definitions(summary: Mapping[str, Any]) -> list[str]:
    """Definitions of the metrics of a summary, and the rule for empty masks."""
    defined = {**summary.get("distances", {}), **summary.get("definitions", {})}
    rule = [f"Empty masks: {summary['one_empty']}."] if "one_empty" in summary else []
    return [*(f"{name}: {text}." for name, text in defined.items()), *rule]


def empty_note(line: Line) -> str:
    """The number of cases of this line with empty masks, in words; empty for the mean over regions."""
    words = {"truth_empty": "truth empty", "pred_empty": "prediction empty", "one_empty": "exactly one of them empty"}
    facts = [f"{text} in {line.counts[key]}" for key, text in words.items() if line.counts.get(key)]
    if not facts or line.region == "mean":
        return ""
    return f"{line.output} {line.region}: {', '.join(facts)} of {line.counts['cases']} cases."


def _dots(result: Result) -> dict[str, Any]:
    """The leading metric of single cases, and by region (case, value) of every validation case."""
    dots: dict[str, list[tuple[str, float]]] = {}
    metrics = kind_of(result.summary).of_cases(result)
    for row in result.cases if metrics else ():
        if row["output"] == result.primary and math.isfinite(row[metrics[0].name]):
            dots.setdefault(row["region"], []).append((row["case"], row[metrics[0].name]))
    return {"dots": dots, "dots_of": metrics[0].title if dots else ""}


RESULTS = Section(
    _values,
    """
{% for result in results %}
<section>
<h2>Results of {{ result.name }}</h2>
{% if result.lines %}
<div class="scroll"><table>
<thead><tr><th>Output</th>{% if result.has_regions %}<th>Region</th>{% endif %}
{% for metric in result.metrics %}<th class="num">{{ metric.title }} {{ metric.arrow }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in result.lines %}
{% set first = loop.first or line.output != loop.previtem.output %}
<tr class="{{ 'first' if first }} {{ 'mean' if line.region == 'mean' }}">
<td>{% if first %}<strong>{{ line.output }}</strong>
{%- if line.output == result.primary %} <span class="std">(result)</span>{% endif %}{% endif %}</td>
{% if result.has_regions %}<td>{{ line.region }}</td>{% endif %}
{% for metric in result.metrics %}<td class="num">{{ line.cell(metric) }}</td>{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="soft">Mean ± standard deviation over the validation cases. {{ result.footnotes | join(" ") }}</p>
{% endif %}

{% if result.fusion %}
<h3>Fused images, {{ result.sources }}</h3>
<div class="scroll"><table>
<thead><tr><th>Image</th>{% for metric in result.fusion_metrics %}
<th class="num">{{ metric.title }} {{ metric.arrow }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in result.fusion %}
<tr><td>{{ line.output }}</td>
{% for metric in result.fusion_metrics %}<td class="num">{{ line.cell(metric) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="soft">On whole pictures in gray levels; MI, SCD, VIF, Qabf and SSIM concern all sources. Mean and maximum of
the sources need no network. Higher is not a better image by itself: noise raises EN, SD and SF.</p>
{% endif %}

{% if result.dots %}
<h3>{{ result.dots_of }} of every validation case, {{ result.primary }}</h3>
{% set height = 26 * result.dots | length %}
<svg viewBox="0 0 700 {{ height + 24 }}" width="700" style="max-width:100%" role="img">
{% for tick in range(0, 11, 2) %}
<line x1="{{ 60 + 62 * tick }}" x2="{{ 60 + 62 * tick }}" y1="4" y2="{{ height + 4 }}"/>
<text x="{{ 60 + 62 * tick }}" y="{{ height + 19 }}" text-anchor="middle">{{ "%.1f" | format(tick / 10) }}</text>
{% endfor %}
{% for region, dots in result.dots.items() %}
<text x="0" y="{{ 26 * loop.index0 + 21 }}">{{ region }}</text>
{% set y = 26 * loop.index0 + 17 %}
{% for case, value in dots %}
<circle cx="{{ "%.1f" | format(60 + 620 * value) }}" cy="{{ y }}" r="5">
<title>{{ case }}: {{ "%.3f" | format(value) }}</title></circle>
{% endfor %}
{% endfor %}
</svg>
{% endif %}
</section>
{% endfor %}
""",
)
