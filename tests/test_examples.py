"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

from jaxfuse import implicit
from jaxfuse.implicit import solvers

ROOT = Path(__file__).resolve().parents[1]
WITH_EXAMPLES = sorted(path for path in (ROOT / "jaxfuse").rglob("*.py") if ">>> " in path.read_text())
# Most compile, and all of them for the half of a minute: the front page's and the shortest are run each time.
OFTEN = {"hypergradient", "influence"}


def marked(path: Path) -> Any:
    seldom = "implicit" in path.parts and path.stem not in OFTEN
    return pytest.param(path, id=path.stem, marks=[pytest.mark.docs] if seldom else [])


@pytest.mark.parametrize("path", [marked(path) for path in WITH_EXAMPLES])
def test_examples_run_as_they_stand(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", ["learning/transfer", "data/pipeline"])
def test_these_have_an_example(name):
    assert ROOT / "jaxfuse" / f"{name}.py" in WITH_EXAMPLES


# These are shown at work in the examples of others.
SHOWN = {"Draws", "Solution", "State", "StepFunctions"}


def test_each_name_of_implicit_gradients_has_an_example():
    names = {name: getattr(module, name) for module in (implicit, solvers) for name in module.__all__}
    names = {name: value for name, value in names.items() if name not in SHOWN}
    assert [name for name, value in names.items() if ">>> " not in (value.__doc__ or "")] == []
