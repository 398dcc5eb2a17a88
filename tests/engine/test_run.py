"""A run from its lock to its report, in one process; how it resumes is shown in `test_training.py`."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from jaxfuse.data.dataset import Dataset
from jaxfuse.data.facts import CaseFacts, DatasetFacts
from jaxfuse.data.prepared import CachedCase
from jaxfuse.engine import run as module
from jaxfuse.engine.judging import segmentation as judging
from jaxfuse.engine.run import Run, train
from jaxfuse.engine.run_folder.lock import LOCK, locked
from jaxfuse.engine.trained.phases import load
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, read_rows
from tests.engine.view_runs import VIEWS, recipe
from tests.runs import run_of


@pytest.fixture(scope="module")
def config(folder):
    return recipe(folder / "cache", side_by_side=False, steps=2, pixelwise=True)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging.figures, "segmentation_panel", lambda path, **asked: None)
        patch.setattr(module, "compilation_cache", lambda folder: None)  # that of the tests stays in use
        yield


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> tuple[Path, Path]:
    """The workdir of a run, and the report that it names."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, train(config, workdir)


def test_a_run_leaves_its_report_its_results_and_no_holder_of_its_lock(trained, config, capsys):
    workdir, report = trained
    assert report == workdir / "report.html"
    assert report.is_file()
    for name in (*VIEWS, "result"):
        summary = read_json(workdir / "results" / name / "summary.json")
        assert (summary["kind"], summary["side"]) == ("segmentation", "val")
    outputs = {row["output"] for row in read_rows(workdir / "results" / "result" / "cases.csv")}
    assert outputs == {"coronal", "axial", "coronal+axial"}  # by phase, where both make one output
    assert read_json(workdir / "environment.json")["device"] == "cpu"
    assert [path.name for path in workdir.glob(".*")] == [LOCK]
    # It says when it was finished already, and trains nothing.
    assert train(config, workdir) == report
    said = capsys.readouterr().out.replace("\n", " ")
    assert "jaxfuse infinet: cpu; workdir" in said
    assert "Phase 1 of" not in said
    assert f"This run was finished already; its report is written anew: {report}" in said


def test_a_run_that_is_going_on_is_left_alone(trained, config, tmp_path, capsys):
    workdir, _ = trained
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}
    with locked(workdir), pytest.raises(UserError, match=f"another run is going on in {workdir}"):
        train(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")} == before
    assert capsys.readouterr().out == ""
    with locked(tmp_path / "new"), pytest.raises(UserError, match="another run is going on"):
        train(config, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {LOCK}


def test_all_cases_train_where_no_share_validates(folder, tmp_path, capsys):
    config = recipe(folder / "cache", side_by_side=False, steps=2, pixelwise=True)
    for view in VIEWS:
        config[view].data.val_fraction, config[view].data.fold, config[view].data.bootstrap = 0.0, 0, 0
    report = train(config, tmp_path / "run").read_text(encoding="utf-8")
    said = capsys.readouterr().out.replace("\n", " ")
    assert "validation: none; parameters" in said
    assert "no validation" in report
    assert "nothing in this report tells how the network does on others" in report
    dataset = read_json(tmp_path / "run" / "dataset.json")
    assert (dataset["val"], dataset["subjects"]["val"]) == ([], 0)
    assert f"{len(dataset['train'])} cases of {dataset['subjects']['train']} subjects" in said
    (axial,) = load([f"{tmp_path / 'run'}:axial@best"])
    with pytest.raises(UserError, match="holds no best checkpoint; .* or name @last: a run whose cases all train"):
        axial.weights()
    assert not (tmp_path / "run" / "results").exists()
    train(config, tmp_path / "run")
    assert "This run was finished already" in capsys.readouterr().out


def test_best_weights_of_a_phase_that_nothing_validates_are_not_waited_for(folder, tmp_path):
    config = recipe(folder / "cache", side_by_side=False, steps=2, pixelwise=True)
    for view in VIEWS:
        config[view].data.val_fraction, config[view].data.fold, config[view].data.bootstrap = 0.0, 0, 0
    config.axial.init = (("segmentation", "coronal@best:segmentation"),)
    with pytest.raises(UserError, match="phase axial takes over the best weights of coronal, .* coronal@last"):
        run_of(config, tmp_path)._checked_phases()


EMPTY = {"affine": (), "voxels_per_class": (), "mean": (), "std": (), "crop_start": (0, 0, 0), "group": ""}
CASE = CaseFacts("", modalities=("t1",), spacing_mm=(1, 1, 1), original_shape=(2, 2, 2), shape=(2, 2, 2), **EMPTY)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((("t1",), "ab"), (("t1",), "ac"), "result averages the phases coronal and axial, .* validate on other cases"),
        ((("t1",), "ab"), (("t1",), "aB"), "validate on other cases or on other parts of them"),
        ((("t1", "t2"), "a"), (("t2", "t1"), "a"), "coronal and axial, which read other modalities"),
        ((("t1",), "ab"), (("t1",), "ba"), ""),
    ],
)
def test_a_result_is_of_phases_that_judge_the_same_subjects(config, tmp_path, monkeypatch, first, second, message):
    def dataset(modalities, ids):
        # A capital letter is another part of the same volume.
        facts = [replace(CASE, id=one.lower(), crop_start=(int(one.isupper()), 0, 0)) for one in ids]
        val = tuple(CachedCase(tmp_path, one, about) for one, about in zip(ids, facts, strict=True))
        return Dataset((), val, None, DatasetFacts(modalities, "", (), (), (), tuple(ids), {}, ()))

    data = {"coronal": dataset(*first), "axial": dataset(*second)}
    monkeypatch.setattr(Run, "_dataset", lambda self, phase: data[phase.name])
    run = run_of(config, tmp_path)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        run._check_result()
