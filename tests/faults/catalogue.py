"""Catalogue of inputs that once gave a wrong answer, or none: what came, what is right, and the test that holds it.

Each module of this folder is one kind of fault; its docstring says so in one sentence. So is each `test_faults_*.py`
of tests/implicit, whose tests have a precision of their own. Tests are marked with `given`; the tables of all modules
together are the page `docs/reference/faults.md`:

    python -m tests.faults.catalogue

writes it anew.
"""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "reference" / "faults.md"
_INTRODUCTION = """\
# Inputs that go wrong elsewhere

Each row is an input that a user of this field met, in jaxfuse or in another program, and what jaxfuse answers. Every
row is a test below `tests/faults`, those of implicit gradients in `tests/implicit/test_faults_*.py`. "Refused" means:
one sentence on standard error that says what came, what was expected and what to do, exit code 2, nothing written,
nothing of the input touched.
"""


class Row(NamedTuple):
    """One input and its right outcome, each in a few words."""

    given: str
    right: str


def given(what: str, right: str) -> Callable[[Any], Any]:
    """Enters a test into the catalogue."""

    def enter(test: Any) -> Any:
        test.catalogue = (Row(what, right), *getattr(test, "catalogue", ()))
        return test

    return enter


def table(names: str, *rows: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Enters a parametrized test into the catalogue: each row is (input, right outcome, value, ...).

    `names`: those of the values, with commas, as in `pytest.mark.parametrize`; the input in words is the test's id.
    """

    def enter(test: Any) -> Any:
        test.catalogue = tuple(Row(what, right) for what, right, *_ in rows)
        count = len(names.split(","))
        values = [pytest.param(*row[2 : 2 + count], id=row[0]) for row in rows]
        return pytest.mark.parametrize(names, values)(test)

    return enter


def kinds() -> Iterator[tuple[str, tuple[Row, ...]]]:
    """Yields each kind of fault, the first sentence of its module, with its rows."""
    beside = FOLDER.parent / "implicit"
    for path in (*sorted(FOLDER.glob("test_*.py")), *sorted(beside.glob("test_faults_*.py"))):
        module = importlib.import_module(f"tests.{path.parent.name}.{path.stem}")
        tests = [value for name, value in vars(module).items() if name.startswith("test_")]
        rows = tuple(row for test in tests for row in getattr(test, "catalogue", ()))
        if rows:
            yield (module.__doc__ or "").strip().partition("\n")[0].rstrip("."), rows


def page() -> str:
    """Renders the catalogue as Markdown."""
    parts = [_INTRODUCTION]
    for kind, rows in kinds():
        lines = [f"| {row.given} | {row.right} |" for row in rows]
        parts.append("\n".join((f"## {kind}", "", "| input | answer |", "|---|---|", *lines, "")))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
