"""Self-contained HTML pages of templates beside this module, which share one style."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from jaxfuse.io.whole_file import write_whole


def write_page(path: Path, template: str, context: Mapping[str, Any]) -> None:
    """Writes the page that `template`, such as "report.html.j2", makes of these values, in one piece."""
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    write_whole(path, environment.get_template(template).render(context).encode("utf-8"))


def _read(name: str) -> str:
    return files("jaxfuse.report").joinpath(name).read_text(encoding="utf-8")
