"""The page on adding a paper: its network and its recipe train and are reported, from files outside of the library."""

import json
import re
from pathlib import Path

import pytest

from jaxfuse.config import parse
from tests.commands import call

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how_to" / "new_paper.md"
MODEL, RECIPE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "two_layers.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "two_layers_recipe.py").write_text(RECIPE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_its_recipe_builds_its_system(folder):
    names = {}
    exec(RECIPE, names)
    system = parse(names["get_config"]()).phases["segmentation"].build(("t1ce", "flair"), ("background", "tumor"), 10)
    assert (system.primary, system.channels, system.network.module.width) == ("S", (0, 1), 8)


@pytest.mark.slow
def test_its_commands_train_and_report(folder):
    trained = call("train", "--config", "two_layers_recipe.py", "--workdir", "runs/two_layers", folder=folder)
    assert trained.returncode == 0, trained.stderr
    assert (folder / "runs" / "two_layers" / "report.html").is_file()
    told = call("describe", "--config", "two_layers_recipe.py", "--json", folder=folder)
    # 3 x 3 x 3 x 2 x 8 and 8 biases; 8 x 4 and 4.
    assert json.loads(told.stdout)["phases"]["segmentation"]["players"] == {"net": 440 + 36}
