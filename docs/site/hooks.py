"""Hooks of the site: what lies beside the folder of documentation and is linked from it becomes part of the site."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# Pages of the repository outside of docs/, by the name that they have on the site.
_BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_EXPERIMENTS = ("*.md", "*.png")
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages and pictures beside docs/, and makes a page of each notebook."""
    beside = dict(_BESIDE)
    for pattern in _EXPERIMENTS:
        for path in sorted((ROOT / "experiments").rglob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            beside[name] = name
    for source, name in beside.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, name, content=page_of(notebook.abs_src_path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    folder = PurePosixPath(_source_of(here)).parent

    def turned(match: re.Match[str]) -> str:
        target = os.path.normpath(folder / match[2])
        if "://" in match[2] or not (ROOT / target).is_file():
            return match[0]
        return match[1] + os.path.relpath(_place_of(target), PurePosixPath(here).parent) + match[3]

    return _LINK.sub(turned, markdown)


def page_of(notebook: str) -> str:
    """Returns a notebook as Markdown: its texts, and its code in fences."""
    cells = nbformat.read(notebook, as_version=4).cells
    parts = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    # A page of the site lies in a folder of its own, beside which the notebook is.
    return "\n\n".join(parts) + f'\n\n<a href="../{Path(notebook).name}" download>This page as a notebook</a>\n'


def _place_of(source: str) -> str:
    """Returns the name on the site of a file of the repository; the front page's is the index."""
    page = source.removesuffix(".ipynb") + ".md" if source.endswith(".ipynb") else source
    return page.removeprefix("docs/") if page.startswith("docs/") else _BESIDE.get(page, page)


def _source_of(place: str) -> str:
    names = {name: source for source, name in _BESIDE.items()}
    if place in names or place.startswith("experiments/"):
        return names.get(place, place)
    return f"docs/{place}"
