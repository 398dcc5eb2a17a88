"""The folder of a run: its name, and who may go on in it."""

import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import jaxfuse
from configs import cmff
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.workdir import (
    changes_nothing,
    check_workdir,
    default_workdir,
    note_environment,
    open_workdir,
    read_config,
    related_runs,
)
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json


def recipe(**changes) -> ConfigDict:
    title = {"name": "cmff", "preset": "tiny", "row": "ours", "variant": ""}
    fusion = {"steps": 4, "epochs": 0, "patch": (16, 16, 16), "init": (), "args": {}}
    pairs = ("t1+t1ce", "t2+flair")
    config = ConfigDict({**title, "log_every": 20, "pairs": pairs, "loader": {"workers": 0}, "fusion": fusion})
    config.update_from_flattened_dict(changes)
    return config


def test_name_tells_config_preset_row_and_variant():
    names = {("", "ours", ""): "cmff", ("tiny", "ours", ""): "cmff-tiny"}
    names |= {("paper", "S_A+S_B", ""): "cmff-paper-S_A+S_B", ("", "w_CA", "iseg"): "cmff-w_CA-iseg"}
    for (preset, row, variant), name in names.items():
        assert default_workdir(recipe(preset=preset, row=row, variant=variant), {}) == Path("runs", name)


def test_overrides_but_lengths_logging_and_loading_add_six_digits_that_tell_them_apart():
    overrides = [{"seed": 1}, {"seed": 2}, {"fusion.batch": 1}, {"seed": 1, "fusion.batch": 1}]
    names = [default_workdir(recipe(), one).name for one in overrides]
    assert len(set(names)) == 4
    assert all(name.startswith("cmff-tiny-") and len(name) == len("cmff-tiny-") + 6 for name in names)
    assert int(names[0][-6:], 16) >= 0
    # Neither the order of the options nor a length among them matters.
    assert default_workdir(recipe(), {"fusion.steps": 7, "fusion.batch": 1, "seed": 1}).name == names[3]
    kept = {"fusion.steps": 9, "fusion.epochs": 3, "log_every": 1, "loader.workers": 2, "loader.prefetch": 8}
    kept |= {"fusion.checkpoint_minutes": 1.5}
    assert default_workdir(recipe(), kept) == Path("runs", "cmff-tiny")
    for option in ("seed", "fusion.batch", "fusion.validation.every", "fusion.checkpoint_every"):
        assert not changes_nothing(option)


def test_config_and_environment_are_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is not a run: it has no config.json"):
        read_config(tmp_path)
    workdir = open_workdir(Path("a", "b"), recipe())
    assert workdir == tmp_path / "a" / "b"  # a relative folder is made absolute
    assert read_config(workdir).to_dict() == recipe().to_dict()
    assert read_config(workdir).fusion.patch == (16, 16, 16)
    open_workdir(workdir, recipe(row="random"))  # a run that never began binds nobody
    assert read_config(workdir).row == "random"
    (tmp_path / "file").touch()
    # As root every folder can be written, but not one below a file or in a file system of the kernel.
    for folder in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match=f"{folder} cannot be written .*; name another with --workdir"):
            open_workdir(folder, recipe())


def test_surroundings_and_seeds_are_noted_and_those_of_earlier_calls_stay(tmp_path, monkeypatch):
    def noted() -> dict:
        note_environment(tmp_path, one_device(), cmff.get_config("tiny"))
        return read_json(tmp_path / "environment.json")

    first = noted()
    assert first["versions"]["jaxfuse"] == jaxfuse.__version__
    assert (first["backend"], first["device"], first["earlier"]) == ("cpu", "cpu", [])
    assert first["seeds"] == {"seed": 0, "data.split_seed": 0, "data.phantom.seed": 0}
    assert first["variables"]["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    monkeypatch.setenv("JAXFUSE_CACHE", "elsewhere")
    second = noted()
    assert second["earlier"] == []  # nothing has been trained in the first surroundings
    assert second["variables"]["JAXFUSE_CACHE"] == "elsewhere"
    (tmp_path / "checkpoints").mkdir()
    assert noted()["earlier"] == []  # the same again
    monkeypatch.setattr(sys, "argv", ["train", "--config", "a b"])
    third = noted()
    assert third["command"].endswith(" --config 'a b'")
    del second["earlier"]
    assert third["earlier"] == [second]
    monkeypatch.delenv("JAXFUSE_CACHE")
    assert [one["command"] for one in noted()["earlier"]] == [second["command"], third["command"]]


def test_run_goes_on_with_other_lengths_and_another_config_is_refused_option_by_option(tmp_path):
    init = {"fusion.init": (("net", "transition:a"),)}
    workdir = open_workdir(tmp_path, recipe(**init))
    (workdir / "checkpoints" / "fusion").mkdir(parents=True)  # a phase was trained
    before = recipe(**init, **{"fusion.steps": 9, "fusion.epochs": 2, "log_every": 1, "loader.workers": 2})
    open_workdir(workdir, before)
    assert read_config(workdir).to_dict() == before.to_dict()
    now = recipe(**{"row": "random", "fusion.patch": (8, 8, 8), "fusion.steps": 8})
    now.fusion.args.width = 3
    with pytest.raises(UserError) as error:
        open_workdir(workdir, now)
    patch, init = "fusion.patch: [16, 16, 16] there, [8, 8, 8] now", "init: [['net', 'transition:a']] there, [] now"
    width, row = "fusion.args.width: 'absent' there, 3 now", "row: 'ours' there, 'random' now"
    for told in (patch, f"fusion.{init}", width, row, "name another --workdir"):
        assert told in str(error.value)
    assert "steps" not in str(error.value)
    assert read_config(workdir).to_dict() == before.to_dict()


def test_related_runs_are_those_beside_it_that_have_opened_their_data(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").touch()
    (tmp_path / "unopened").mkdir()
    assert related_runs(tmp_path / "b") == [tmp_path / "a", tmp_path / "c"]


def test_a_folder_that_is_no_run_or_lies_among_the_data_is_refused(tmp_path):
    data, full = tmp_path / "data", tmp_path / "full"
    for folder in (data, full, tmp_path / "empty"):
        folder.mkdir()
    (full / "config.json").write_text('{"model_type": "of another program"}')
    (full / "notes.txt").write_text("mine")
    roots = ["", str(data)]
    for folder, told in {
        full: "full holds config.json, notes.txt and no run of jaxfuse; name a new or empty folder as --workdir",
        data: "is data.root",
        data / "runs" / "a": "lies within data.root",
        tmp_path: "holds data.root",
    }.items():
        with pytest.raises(UserError, match=told):
            check_workdir(folder, roots)
    for folder in (tmp_path / "empty", tmp_path / "new", open_workdir(tmp_path / "run", recipe())):
        check_workdir(folder, roots)
    assert (full / "config.json").read_text() == '{"model_type": "of another program"}'
