"""Words of the house: a docstring begins with a verb or a noun, and spelling is American."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sorted(path for top in ("jaxfuse", "configs", "experiments", "tests") for path in (ROOT / top).rglob("*.py"))
TEXTS = sorted(path for path in ROOT.rglob("*.md") if not path.relative_to(ROOT).parts[0].startswith("."))
# A pronoun or a preposition at the beginning stands for a noun that only the name of the function has.
OPENING = re.compile(r"(Of|The same|As|What|Which|Those|That)\b")
AMERICAN = {"grey": "gray", "labelled": "labeled", "labelling": "labeling", "tumour": "tumor", "normalis": "normaliz"}
AMERICAN |= {"colour": "color", "neighbour": "neighbor", "centre": "center", "behaviour": "behavior"}


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def test_docstrings_begin_with_a_verb_or_a_noun():
    begun = [(path.relative_to(ROOT), text.partition("\n")[0]) for path in PYTHON for text in docstrings(path)]
    assert [f"{path}: {line}" for path, line in begun if OPENING.match(line)] == []


def test_spelling_is_american():
    found = []
    for path in (*PYTHON, *TEXTS):
        text = path.read_text(encoding="utf-8").lower()
        if path != Path(__file__).resolve():
            found += [f"{path.relative_to(ROOT)}: write {AMERICAN[one]}, not {one}" for one in AMERICAN if one in text]
    assert found == []
