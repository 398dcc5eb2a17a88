"""Every experiment starts by the command that its docstring names."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/run.py"))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_can_be_imported_and_names_its_command(name):
    module = importlib.import_module(f"experiments.{name}.run")
    assert callable(module.main)
    assert f"\n    python -m experiments.{name}.run" in (module.__doc__ or "")


def test_every_folder_is_told_of_and_every_command_told_exists():
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    pages = {path.parent.name for path in FOLDER.glob("*/README.md")}  # several commands, told on a page of their own
    assert folders == set(NAMES) | pages
    assert [name for name in pages if f"{name}/README.md" not in told] == []
    assert [name for name in NAMES if f"python -m experiments.{name}.run" not in told] == []
