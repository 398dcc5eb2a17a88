"""Sizes of the house: files and functions that one can read, rooms of a few files, no circle between modules."""

import ast
import re
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted(path for top in ("jaxfuse", "configs") for path in (ROOT / top).rglob("*.py"))
EVERYTHING = [*SHIPPED, *sorted(path for top in ("experiments", "tests") for path in (ROOT / top).rglob("*.py"))]
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, LINES_OF_NINE_IN_TEN, ARGUMENTS, FILES_OF_THE_ENGINE = 400, 50, 25, 10, 15
# Keyword-only helpers of recipes, and makers that recipes name: an argument for each option that a recipe may give.
RECIPE_HELPERS = re.compile(r"(jaxfuse/recipes\.py|configs/.*):|jaxfuse/models/.* make_")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            yield f"{name_of(path)}:{node.lineno} {node.name}", node


def length(name: str, function: ast.FunctionDef) -> int:
    """Counts the lines of a function, its docstring aside; of a recipe's helper, its arguments aside too."""
    first, *_ = function.body
    documented = ast.get_docstring(function) is not None
    lines = function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)
    return lines - (first.lineno - function.lineno if RECIPE_HELPERS.match(name) else 0)


def test_files_are_short():
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in EVERYTHING}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FILE} == {}


def test_functions_are_short():
    lengths = {name: length(name, function) for path in SHIPPED for name, function in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION} == {}
    assert np.percentile(list(lengths.values()), 90) <= LINES_OF_NINE_IN_TEN


def test_functions_take_few_arguments():
    found = {}
    for path in SHIPPED:
        for name, function in functions(path):
            arguments = function.args
            counted = [*arguments.posonlyargs, *arguments.args]
            if not RECIPE_HELPERS.match(name):
                counted += arguments.kwonlyargs
            if len(counted) > ARGUMENTS:
                found[name] = len(counted)
    assert found == {}


def test_engine_is_no_drawer():
    assert len(list((ROOT / "jaxfuse" / "engine").glob("*.py"))) <= FILES_OF_THE_ENGINE


def imported(tree: ast.Module, modules: Collection[str]) -> set[str]:
    """Returns the modules imported when a module is loaded, those for type checkers included."""
    rest, found = list[ast.stmt](tree.body), set()
    while rest:
        node = rest.pop()
        if isinstance(node, (ast.If, ast.Try)):
            rest += [*node.body, *node.orelse]
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module or "" for name in names}
    return found & set(modules)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns the modules of one circle of imports, the first again at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_between_modules():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SHIPPED
    }
    modules.pop("jaxfuse")  # looks its names up when they are used
    assert circle({name: imported(tree_of(path), modules) for name, path in modules.items()}) == []


@pytest.mark.parametrize(("back", "found"), [("a", True), ("other", False)])
def test_a_circle_would_be_found(back, found):
    assert bool(circle({"a": {"b"}, "b": {"c"}, "c": {back}})) == found
