"""The page on Python tells the truth: its examples run on a small run and its cases, the training on its own."""

import re
from pathlib import Path

import numpy as np
import pytest

import jaxfuse
from jaxfuse import networks
from jaxfuse.engine.run_folder import workdir
from tests.made_cases import MODALITIES, head, nested_cubes, write_case
from tests.untrained_run import SCANNED, labeling_run

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "how_to" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TRAINING = [block for block in BLOCKS if "jaxfuse.train(" in block]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a run and cases with labels, which is the working directory."""
    for number, name in enumerate("ab"):
        images = head((20, 20, 12), number) | {"seg": nested_cubes((20, 20, 12))}
        write_case(tmp_path / "cases", name, images, **SCANNED)
    labeling_run(tmp_path / "runs" / "cmff", MODALITIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workdir, "compilation_cache", lambda folder: None)
    return tmp_path


@pytest.mark.slow
def test_its_examples_run_in_their_order(folder, capsys):
    assert len(BLOCKS) > 8
    assert len(TRAINING) == 1
    exec("\n".join(block for block in BLOCKS if block not in TRAINING), {})
    assert {path.name for path in folder.glob("out/**/*.nii.gz")} == {"a.nii.gz", "b.nii.gz"}
    told = capsys.readouterr().out
    assert "case case has no t1ce, t2, flair image; it has t1" in told
    assert "enhancing tumor" in told


def test_loading_and_predicting_take_three_lines_and_one_import():
    lines = [line for line in BLOCKS[0].splitlines() if line]
    assert len(lines) <= 3
    assert sum(line.startswith(("import", "from")) for line in lines) == 1


@pytest.mark.slow
def test_its_training_trains(folder, capsys):
    names = {"jaxfuse": jaxfuse}
    exec(TRAINING[0], names)
    np.testing.assert_array_equal(names["trained"].history["fusion"]["train"]["step"][-1], 4)
    assert "'phase': 'fusion'" in capsys.readouterr().out


def test_every_name_is_in_the_reference():
    lines = (DOCS / "reference" / "python.md").read_text(encoding="utf-8").splitlines()
    listed = {line.rpartition(".")[2] for line in lines if line.startswith(":::")}
    functions = {name for name, one in vars(networks).items() if getattr(one, "__module__", "") == networks.__name__}
    assert set(jaxfuse.__all__) - {"networks"} | functions <= listed
