"""A recipe that is called by name where a file may be meant, or away from the folder that holds it."""

import sys
from pathlib import Path

import pytest

from jaxfuse import __main__ as entry
from jaxfuse import recipe_files
from jaxfuse.named_recipe import gathered
from tests.faults.catalogue import given, table
from tests.refusals import refused


@pytest.fixture
def away(tmp_path, monkeypatch):
    """An empty folder, in which the commands are called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given("`jaxfuse train cmff` where another `cmff.py` lies in the folder", "refused: says how to write either of both")
def test_name_and_file(away):
    (away / "cmff.py").write_text("def get_config(argument=None): ...\n")
    refused("write cmff.py for the file, or", gathered, ["train", "cmff"])
    assert gathered(["train", "cmff.py"]) == ["train", "--config=cmff.py"]
    (away / "cmff.py").write_bytes((recipe_files.folder() / "cmff.py").read_bytes())
    assert gathered(["train", "cmff"])[1] == f"--config={recipe_files.folder() / 'cmff.py'}"


@given("`--config configs/cmff.py` where no such folder is", "refused: says the name by which the recipe is called")
def test_path_of_a_checkout(away):
    refused(
        "the recipe of jaxfuse is called by its name, cmff", gathered, ["train", "--config", "configs/cmff.py:tiny"]
    )


@table(
    "words, told",
    (
        "a preset in the recipe's text and in `--preset`",
        "refused",
        "cmff:tiny --preset paper",
        "the preset is given tw",
    ),
    ("a recipe that stands first and in `--config`", "refused", "cmff --config hinet", "the recipe is given twice"),
    ("a recipe with a letter missing", "refused: names the nearest one", "hine", "did you mean hinet?"),
)
def test_recipe_in_several_words(away, words, told):
    refused(told, gathered, ["train", *words.split()])


@given("a command of jaxfuse with a letter wrong", "refused: names the nearest command, exit code 2")
def test_command_with_a_wrong_letter(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxfuse", "pretict", "--workdir=a"])
    assert entry.main() == 2
    assert capsys.readouterr() == ("", "error: 'pretict' is no command of jaxfuse; did you mean jaxfuse predict?\n")
    assert Path("a").exists() is False
