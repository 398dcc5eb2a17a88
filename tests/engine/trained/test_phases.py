"""Trained runs are read each once."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from jaxfuse import impute, predict
from jaxfuse.engine.trained import phases
from jaxfuse.engine.trained.phases import load, named_runs, one_kind, parse_run
from jaxfuse.errors import UserError
from tests.commands import call_here
from tests.made_cases import head, write_case
from tests.refusals import refused
from tests.untrained_run import SCANNED, labeling_run, synthesis_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "synthesis": synthesis_run(folder / "synthesis", "tiny,row=mmsyns"),
        "labels": labeling_run(folder / "labels", ("t1", "t2", "flair")),
        "other": labeling_run(folder / "other", ("t1", "t2", "flair"), axis="coronal"),
    }


@pytest.fixture
def reads(monkeypatch) -> dict[str, int]:
    """How often configs are parsed, Systems built and weights read."""
    counted = dict.fromkeys(("parse", "build_system", "read_weights"), 0)

    def counting(name, *given, **named):
        counted[name] += 1
        return originals[name](*given, **named)

    originals = {name: getattr(phases, name) for name in counted}
    for name in counted:
        monkeypatch.setattr(phases, name, partial(counting, name))
    return counted


def test_commands_read_each_run_once(runs, reads, tmp_path):
    images = {name: image for name, image in head((30, 26, 4), 0).items() if name != "t1ce"}
    where = {"input": write_case(tmp_path, "rich", images, **SCANNED), "output": tmp_path / "out"}

    def read(command, count: int, *arguments: Path, **options) -> None:
        reads.update(dict.fromkeys(reads, 0))
        call_here(command, *arguments, **options, **where)
        assert reads == {"parse": count, "build_system": count, "read_weights": count}

    read(predict, 2, runs["other"], workdir=runs["labels"])
    read(predict, 1, workdir=runs["synthesis"])
    read(impute, 2, synthesis=runs["synthesis"], segmentation=runs["labels"])


def test_a_phase_named_twice_is_read_from_one_run(runs, reads):
    found = load([f"{runs['labels']}:voc", f"{runs['labels']}:voc@best"])
    assert [(one.name, one.best) for one in found] == [("labels:voc", False), ("labels:voc@best", True)]
    assert (reads["parse"], reads["build_system"]) == (1, 2)
    assert {one.workdir for one in found} == {runs["labels"]}


def test_phases_say_what_they_make_and_read(runs):
    synthesis, labels = load([str(runs["synthesis"]), str(runs["labels"])])
    assert (synthesis.makes, labels.makes) == ("synthesized", "labels")
    prepared = synthesis.preparation
    assert (prepared.modalities, prepared.channels) == (("t1", "t2"), ("t1", "t1ce", "t2", "flair"))
    assert labels.preparation.modalities == labels.preparation.channels == ("t1", "t2", "flair")
    assert labels.scheme.name == "brats"
    assert [one_kind([one]) for one in (synthesis, labels)] == ["synthesized", "labels"]
    told = "synthesis:synthesis synthesizes a modality and labels:voc does not; name run"
    refused(told, one_kind, [labels, synthesis])


def test_what_is_no_trained_run_is_refused(runs, tmp_path):
    refused("has no phase 'vok'; it has voc", load, [f"{runs['labels']}:vok"])
    refused("asks for the checkpoint 'worst'; choose @last or @best", load, [f"{runs['labels']}:voc@worst"])
    refused("is not a run: it has no config.json", load, [str(tmp_path)])
    shutil.copy(runs["labels"] / "config.json", tmp_path)
    refused("its training has not begun", load, [str(tmp_path)])
    shutil.copy(runs["labels"] / "dataset.json", tmp_path)
    (untrained,) = load([str(tmp_path)])
    refused("holds no last checkpoint; train this phase first", untrained.weights)
    unlabeled = replace(untrained, facts=replace(untrained.facts, scheme=""))
    with pytest.raises(UserError, match="was not trained on a label scheme, so that it cannot label volumes"):
        unlabeled.scheme  # noqa: B018


def test_a_pattern_names_all_runs_that_match(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b1", "b0", "bare", "[x]"):
        Path(name).mkdir()
        if name != "bare":
            Path(name, "config.json").write_text("{}")
    assert named_runs("b*:fusion@best") == [(Path("b0"), "fusion", True), (Path("b1"), "fusion", True)]
    assert named_runs("b[01]") == [(Path("b0"), "", False), (Path("b1"), "", False)]
    assert named_runs("[x]") == [(Path("[x]"), "", False)]  # a folder of that name is that folder
    assert named_runs("absent:fusion") == [(Path("absent"), "fusion", False)]
    refused("no folder of a run matches bar[*]; name runs as", named_runs, "bar*")


def test_parse_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("colon:a").mkdir()  # a folder whose name holds a colon is that folder
    parsed = {"runs/a:fusion@last": ("runs/a", "fusion", False), "runs/a:fusion@best": ("runs/a", "fusion", True)}
    parsed |= {"runs/a:fusion": ("runs/a", "fusion", False), "runs/a:@best": ("runs/a", "", True)}
    parsed |= {"/x:y/a:fusion": ("/x:y/a", "fusion", False), "colon:a:fusion@best": ("colon:a", "fusion", True)}
    parsed |= {"colon:a@best": ("colon:a", "", True), "runs/a@last": ("runs/a", "", False)}
    Path("at@home").mkdir()
    parsed |= {"at@home": ("at@home", "", False), "at@home:fusion@best": ("at@home", "fusion", True)}
    parsed |= {whole: (whole, "", False) for whole in ("runs/a", "c:/runs/a", "colon:a")}
    assert {text: parse_run(text) for text in parsed} == {text: (Path(run), *r) for text, (run, *r) in parsed.items()}
