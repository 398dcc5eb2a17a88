"""`report.html` of cases that were completed by synthesized modalities and then segmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.report.embedded import data_uri
from jaxfuse.report.page import write_page

PANELS_SHOWN = 24  # a page of hundreds would not open


@dataclass(frozen=True)
class CompletedCase:
    """One segmented case.

    Attributes:
        synthesized: the modalities that it lacked.
        volumes_ml: by region of the label scheme.
        panel: the PNG file of its figure.
    """

    id: str
    synthesized: tuple[str, ...]
    volumes_ml: Mapping[str, float]
    panel: Path


def write_completed_report(
    path: Path,
    cases: Sequence[CompletedCase],
    *,
    targets: Sequence[str],
    sources: str,
    facts: Sequence[tuple[str, str]],
    left_out: Mapping[str, str],
) -> None:
    """One self-contained page: which cases rest on synthesized images, what was found in each, the first figures.

    Args:
        cases: at least one.
        targets: the modalities that may have been synthesized.
        sources: what they were made from, in words.
        facts: further lines at the head of the page, as (name, text).
        left_out: the sentence of each case that could not be done.
    """
    context = {
        "title": f"Segmentation with {' or '.join(targets)} synthesized where it was missing",
        "targets": targets,
        "sources": sources,
        "synthesized": sum(bool(case.synthesized) for case in cases),
        "facts": facts,
        "regions": list(cases[0].volumes_ml),
        "cases": cases,
        "left_out": left_out,
        "panels": [(case, data_uri(case.panel)) for case in cases[:PANELS_SHOWN]],
    }
    write_page(path, "completed.html.j2", context)
