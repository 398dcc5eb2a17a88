"""Recipes by their names and by their files: which of both is meant, and what is told where none is."""

from pathlib import Path

import pytest

from configs import cmff
from jaxfuse import recipe_files
from jaxfuse.errors import UserError
from jaxfuse.recipe_files import choices, find
from tests.refusals import refused

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_recipes_are_those_of_the_folder():
    assert recipe_files.folder() == CONFIGS
    assert recipe_files.names() == tuple(sorted(path.stem for path in CONFIGS.glob("*.py")))
    assert {"cmff", "fuse4seg", "hinet", "hyperfusion", "infinet"} <= set(recipe_files.names())


def test_an_installed_package_has_its_own(monkeypatch, tmp_path):
    (tmp_path / "jaxfuse" / "configs").mkdir(parents=True)
    (tmp_path / "jaxfuse" / "configs" / "other.py").touch()
    monkeypatch.setattr(recipe_files, "_PACKAGE", tmp_path / "jaxfuse")
    assert recipe_files.names() == ("other",)
    assert find("other") == tmp_path / "jaxfuse" / "configs" / "other.py"


def test_a_name_is_a_recipe_wherever_one_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find("cmff") == CONFIGS / "cmff.py"
    (tmp_path / "cmff").mkdir()  # a folder is no recipe
    assert find("cmff") == CONFIGS / "cmff.py"
    (tmp_path / "cmff.py").write_bytes((CONFIGS / "cmff.py").read_bytes())
    assert find("cmff") == CONFIGS / "cmff.py"


def test_files_of_the_user_come_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hinet").touch()
    assert find("hinet") == Path("hinet")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cmff.py").touch()
    assert find("configs/cmff.py") == Path("configs/cmff.py")


@pytest.mark.parametrize("own", ["cmff.py", "configs/cmff.py"])
def test_a_name_that_means_two_things_is_refused(monkeypatch, tmp_path, own):
    monkeypatch.chdir(tmp_path)
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("# of the user")
    refused(f"cmff may be the recipe of jaxfuse or the file {own} here, and they differ; write {own} for", find, "cmff")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("cmf", "no recipe is called 'cmf'; did you mean cmff? name a recipe of jaxfuse (cmff, fuse4seg,"),
        ("xyz", "no recipe is called 'xyz'; name a recipe of jaxfuse (cmff, fuse4seg,"),
        ("", "no recipe is called ''; name a recipe"),
        ("configs/cmff.py", "configs/cmff.py is not there; the recipe of jaxfuse is called by its name, cmff"),
        ("mine.py", "mine.py is not there; name one such as --config configs/cmff.py, or a recipe of jaxfuse (cmff"),
        ("folder/", "folder/ is not there; name one such as"),
    ],
)
def test_what_is_neither_is_told_in_a_sentence(monkeypatch, tmp_path, named, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        find(named)
    assert told in str(refusal.value)


def test_choices_are_those_of_the_recipe():
    assert choices(CONFIGS / "cmff.py") == {"presets": cmff.PRESETS, "rows": cmff.ROWS, "data": cmff.VARIANTS}


def test_what_is_no_config_file_is_refused(tmp_path):
    for path in (tmp_path / "absent.py", tmp_path):
        refused("is not a config file; give a Python file such as configs/cmff.py", choices, path)
