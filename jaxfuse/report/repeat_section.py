"""The section of a report that tells how to repeat the run: versions, machine and config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxfuse.report.page import Section
from jaxfuse.report.reported_run import ReportedRun

# Shown elsewhere, or in the file alone: surroundings of earlier calls, and variables, which may name folders.
_APART = ("versions", "command", "earlier", "variables")


def _rows(name: str, value: Any) -> list[tuple[str, Any]]:
    """Returns the row of a fact, or one for each member of a group of them; none of what is empty."""
    if isinstance(value, Mapping):
        return [(f"{name}: {key}", one) for key, one in value.items()]
    return [(name, value)] if value not in ("", None) else []


def _values(run: ReportedRun) -> Mapping[str, Any]:
    others = [row for name, value in run.environment.items() if name not in _APART for row in _rows(name, value)]
    return {
        "environment": run.environment,
        "others": others,
        "config": json.dumps(run.config, indent=2, ensure_ascii=False),
    }


REPEAT = Section(
    _values,
    """
<section>
<h2>How to repeat it</h2>
{% if environment %}
<details><summary>Versions and machine</summary>
<table><tbody>
{% for name, version in environment.get("versions", {}).items() %}
<tr><td>{{ name }}</td><td class="num">{{ version }}</td></tr>
{% endfor %}
{% for name, value in others %}
<tr><td>{{ name }}</td><td class="num">{{ value }}</td></tr>
{% endfor %}
</tbody></table></details>
{% endif %}
<details><summary>Config</summary><pre>{{ config }}</pre></details>
</section>
""",
)
