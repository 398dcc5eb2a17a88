"""Trainings that are called for in Python: options, rows that functions see, and what comes back."""

import numpy as np
import pytest
from ml_collections import ConfigDict

import jaxfuse
from jaxfuse.api.training import configured
from jaxfuse.engine import run as engine
from jaxfuse.engine.judging import segmentation as judging
from jaxfuse.io.metric_rows import read_metrics
from tests.engine.view_runs import recipe
from tests.refusals import refused


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging.figures, "segmentation_panel", lambda path, **asked: None)
        patch.setattr(engine, "compilation_cache", lambda folder: None)  # that of the tests stays in use
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ConfigDict:
    return recipe(tmp_path_factory.mktemp("cache"), side_by_side=False, steps=2, pixelwise=True)


@pytest.mark.slow
def test_a_training_returns_its_run_with_what_it_wrote(config, tmp_path, capsys):
    rows = []
    overrides = {"coronal.steps": 1, "log_every": 1}
    run = jaxfuse.train(config, overrides, workdir=tmp_path / "run", callbacks=[rows.append], quiet=True)
    assert capsys.readouterr().out == ""
    assert rows == read_metrics(run.workdir)
    assert (run.config["coronal"]["steps"], run.config["axial"]["steps"]) == (1, 2)
    assert config.coronal.steps == 2  # a copy was changed
    axial = run.history["axial"]["train"]
    expected = [row["net/loss"] for row in rows if (row["phase"], row["split"]) == ("axial", "train")]
    np.testing.assert_array_equal(axial["net/loss"], expected)
    np.testing.assert_array_equal(axial["step"], [1, 2])
    assert list(run.scores)[-1] == "result"
    assert run.scores["axial"].summary["kind"] == "segmentation"
    assert [one.phase.name for one in run.phases] == ["coronal", "axial"]


def test_a_function_may_stop_the_training_which_then_goes_on(config, tmp_path):
    folder, seen = tmp_path / "run", []

    def stop(row):
        seen.append((row["phase"], row["step"]))
        return len(seen) == 1

    options = {"log_every": 1, "coronal.steps": 5}
    run = jaxfuse.train(config, options, workdir=folder, callbacks=[stop], quiet=True)
    assert set(run.history) == {"coronal"}
    assert run.history["coronal"]["train"]["step"][-1] < 5
    refused("holds no last checkpoint", run.phases[1].weights)
    run = jaxfuse.train(config, options, workdir=folder, quiet=True)
    assert set(run.history) == {"coronal", "axial"}


@pytest.mark.slow
def test_what_a_function_raises_ends_the_training(config, tmp_path):
    def fails(row):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        jaxfuse.train(config, {"log_every": 1}, workdir=tmp_path / "run", callbacks=[fails], quiet=True)


def test_recipes_by_name_file_or_config():
    assert configured("cmff", preset="tiny", row="S_A").row == "S_A"
    assert configured("configs/infinet.py", preset="tiny").name == "infinet"
    refused("no recipe is called 'cmf'; did you mean cmff?", configured, "cmf")
    refused("preset 'small' is not known", configured, "cmff", preset="small")
    refused("row=S_A was asked of a config", configured, ConfigDict(), row="S_A")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"fusion.stepz": 3}, "'fusion.stepz' names no option of the recipe; did you mean 'fusion.steps'"),
        ({"fusion": {"steps": "many"}}, "fusion.steps is 'many', of type str; int is expected, such as 4"),
        ({"fusion.patch": 3}, r"fusion.patch is 3, of type int; tuple is expected, such as \(16, 16, 16\)"),
        ({"fusion": 3}, "'fusion' names no option"),
    ],
)
def test_options_that_are_not_the_recipes_are_refused(tmp_path, overrides, sentence):
    refused(sentence, jaxfuse.train, "cmff", overrides, preset="tiny", workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_folder_is_that_of_the_command_where_none_is_named(monkeypatch):
    seen = []
    monkeypatch.setattr(engine, "train", lambda config, folder, **how: seen.append(str(folder)))
    refused("is not a run", jaxfuse.train, "cmff", {"seed": 3}, preset="tiny", row="S_A")
    assert seen[0].startswith("runs/cmff-tiny-S_A-")
