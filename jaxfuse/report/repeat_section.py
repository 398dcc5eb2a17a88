"""The section of a report that tells how to repeat the run: versions, machine and config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxfuse.report.page import Section
from jaxfuse.report.reported_run import ReportedRun


def _values(run: ReportedRun) -> Mapping[str, Any]:
    return {"environment": run.environment, "config": json.dumps(run.config, indent=2, ensure_ascii=False)}


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
{% for name, value in environment.items() if name not in ("versions", "command") %}
<tr><td>{{ name }}</td><td class="num">{{ value }}</td></tr>
{% endfor %}
</tbody></table></details>
{% endif %}
<details><summary>Config</summary><pre>{{ config }}</pre></details>
</section>
""",
)
