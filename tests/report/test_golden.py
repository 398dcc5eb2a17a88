"""Tables that users read, exactly as printed for fixed summaries: `golden/NAME.json` -> NAME.txt and NAME.page."""

import html
import re
from pathlib import Path

import pytest

from jaxfuse.io.tables import read_json, write_json, write_rows
from jaxfuse.report.html import write_report
from jaxfuse.report.kinds import kind_of

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def _given(name: str) -> dict:
    return read_json(GOLDEN / f"{name}.json")


def _write_run(folder: Path, name: str, row: str) -> Path:
    """A run that came to this result alone."""
    given = _given(name)
    write_json(folder / "config.json", {"name": name, "row": row, "schedule": ["last"]})
    write_json(folder / "dataset.json", {"fingerprint": "abc"})
    write_json(folder / "results/last/summary.json", given["summary"])
    if given["rows"]:
        write_rows(folder / "results/last/cases.csv", given["rows"])
    return folder


def _words(page: str) -> list[str]:
    """The words of a page: a line per heading, paragraph, tile, label of a drawing and row of a table."""
    page = re.sub(r"<(style|details).*?</\1>", "", page, flags=re.DOTALL)
    tags = r"(?:h\d|p|tr|text|circle|div)"
    found = re.findall(rf"<(?!div class=.tiles|div class=.scroll){tags}[ >].*?</{tags}>", page, re.DOTALL)
    lines = (re.sub(r"</(?:th|td|b)>", " | ", line) for line in found if not line.startswith("<div><dt>"))
    return [html.unescape(" ".join(re.sub(r"<[^>]*>", " ", line).split())) for line in lines]


@pytest.mark.parametrize("name", [name for name in NAMES if _given(name)["printed"]])
def test_on_the_console(name):
    summary = _given(name)["summary"]
    render = kind_of(summary).render
    assert render is not None
    assert render(summary) + "\n" == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_in_the_report(name, tmp_path):
    mine, other = (_write_run(tmp_path / row, name, row) for row in ("mine", "other"))
    page = write_report(mine, related=[other]).read_text(encoding="utf-8")
    assert "\n".join(_words(page)) + "\n" == (GOLDEN / f"{name}.page").read_text(encoding="utf-8")
