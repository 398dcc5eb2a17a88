"""Self-contained HTML pages, of templates beside this module, which share one style, and of sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from jaxfuse.io.whole_file import utf8, write_whole
from jaxfuse.report.reported_run import ReportedRun


@dataclass(frozen=True)
class Section:
    """A section of the report of a run.

    Attributes:
        values: run -> the values of the markup's names; None or empty: the run has nothing to show here.
        markup: its HTML, as a Jinja template.
    """

    values: Callable[[ReportedRun], Mapping[str, Any] | None]
    markup: str

    def html(self, run: ReportedRun) -> Markup:
        """The section of a run; empty where the run has nothing to show."""
        values = self.values(run)
        return Markup(_environment().from_string(self.markup).render(values)) if values else Markup("")


def write_page(path: Path, template: str, context: Mapping[str, Any]) -> None:
    """Writes the page that `template`, such as "report.html.j2", makes of these values, in one piece."""
    write_whole(path, utf8(_environment().get_template(template).render(context)))


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _read(name: str) -> str:
    return files("jaxfuse.report").joinpath(name).read_text(encoding="utf-8")
