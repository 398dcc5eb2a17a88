"""The section of a report on learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxfuse.report.curves import write_learning_curves
from jaxfuse.report.embedded import curve_images, learning_images
from jaxfuse.report.kinds import KINDS
from jaxfuse.report.page import Section
from jaxfuse.report.reported_run import ReportedRun


def _values(run: ReportedRun) -> Mapping[str, Any]:
    """The pictures, for which the curves are written as tables first."""
    write_learning_curves(run.metrics, run.workdir / "results")
    images = curve_images(run.workdir, run.metrics)
    learning = learning_images(run.workdir, run.related)
    scores = ", ".join(f"for a {kind.name} {kind.score}" for kind in KINDS.values() if kind.score)
    return {"curves": images, "learning": learning, "scores": scores} if images else {}


CURVES = Section(
    _values,
    """
<section>
<h2>Learning curves</h2>
{% if learning %}
<picture>
<source media="screen and (prefers-color-scheme: dark)" srcset="{{ learning.dark }}">
<img src="{{ learning.light }}" alt="validation score by step">
</picture>
<p class="soft">The score chooses the best weights: {{ scores }}. The dot marks the best of this run; the number after a
name is the best. Thin lines: other runs on the same data.</p>
{% endif %}
<picture>
<source media="screen and (prefers-color-scheme: dark)" srcset="{{ curves.dark }}">
<img src="{{ curves.light }}" alt="losses and validation values by step">
</picture>
<p class="soft">Training losses: every row faint, their moving mean solid. The number after a name is its last
value.</p>
</section>
""",
)
