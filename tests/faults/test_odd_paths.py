"""A path that is taken for a pattern, an address or an option: every name that a folder can have works."""

from pathlib import Path

import pytest

from jaxfuse import predict
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder import checkpoints as module
from jaxfuse.engine.run_folder import stored
from jaxfuse.engine.run_folder.checkpoints import read_weights
from jaxfuse.engine.trained.phases import parse_run
from jaxfuse.errors import UserError
from tests.commands import call_here
from tests.engine.toy_loop import Bench, fresh
from tests.faults.catalogue import given, table
from tests.made_cases import head, write_case
from tests.untrained_run import labeling_run

WORKS = "works, in every command"
NAMES = (
    ("`--workdir='exp [1]'`", WORKS, "exp [1]"),
    ("a folder called `a*b?`", WORKS, "a*b?"),
    ("`**`", WORKS, "**"),
    ("`[!a]`", WORKS, "[!a]"),
    ("`{a,b}`", WORKS, "{a,b}"),
    ("`back\\slash`", WORKS, "back\\slash"),
    ("`gs:`, which looks like an address", WORKS, "gs:"),
    ("`c:d`, which looks like RUN:PHASE", WORKS, "c:d"),
    ("`a@best`", WORKS, "a@best"),
    ("`100%#?&x=1`", WORKS, "100%#?&x=1"),
    ("both kinds of quotation marks", WORKS, 'it\'s "so"'),
    ("`$HOME` and `~x`, in quotation marks", WORKS, "$HOME ~x"),
    ("letters of other scripts", WORKS, "Schädel 脳 🧠"),
    ("a leading dash", WORKS, "-x"),
    ("trailing dots and a space", WORKS, "x.. "),
    ("a line break", WORKS, "a\nb"),
    ("200 letters", WORKS, "x" * 200),
)


@table("name", *NAMES)
def test_a_run_in_such_a_folder_is_trained_resumed_and_read(tmp_path, name):
    folder = tmp_path / name
    Bench(folder, 2, checkpoint_every=1, validate_every=1, scores={1: 0.5, 2: 0.1}).run()
    later = Bench(folder, 4, scores={4: 0.1})
    assert later.run().params["net"]["w"].tolist() == [4] * 3
    assert later.streams[0].number == 4
    assert [row for row, _ in later.rows("train")] == [2, 4]
    for best, step in ((True, 1), (False, 4)):
        assert int(read_weights(folder / "checkpoints", fresh(), one_device(), best=best).step) == step


@pytest.mark.parametrize("name", [row[2] for row in NAMES])
def test_its_files_and_its_report_are_written(tmp_path, ended_training, name):
    for folder in (tmp_path / name, tmp_path / "beside"):
        assert ended_training(folder).read_text(encoding="utf-8").startswith("<!")


@pytest.mark.parametrize("name", [row[2] for row in NAMES])
def test_runs_are_named_by_their_folders(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    for folder in (f"./{name}", str(tmp_path / name)):
        named = {"": ("", False), ":voc": ("voc", False), ":voc@last": ("voc", False), ":voc@best": ("voc", True)}
        for end, (phase, best) in {**named, "@best": ("", True)}.items():
            assert parse_run(f"{folder}{end}") == (Path(folder), phase, best)


@pytest.fixture(scope="module")
def labeling(tmp_path_factory) -> Path:
    return labeling_run(tmp_path_factory.mktemp("odd") / "exp [1]: a@best*")


@given("such names for `--input` and `--output`, and for cases", WORKS)
@pytest.mark.parametrize("name", ["exp [1]", "a*b?: it's", "Schädel 脳"])
def test_inputs_and_outputs_of_such_names(tmp_path, labeling, name):
    write_case(tmp_path / name / "in", name, head((16, 16, 12), 0))
    call_here(predict, workdir=labeling, input=tmp_path / name / "in", output=tmp_path / name / "out")
    assert (tmp_path / name / "out" / f"{name}.nii.gz").is_file()


@given("a name longer than the file system takes", "refused before training; nothing is written")
def test_too_long(tmp_path, ended_training):
    with pytest.raises(UserError, match="cannot be looked into .File name too long.; name another with --workdir"):
        ended_training(tmp_path / ("x" * 300))
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@given("a folder whose files do not come back as they were written", "refused at the first checkpoint, not hours later")
def test_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    write = module.write_stored

    def garbles(folder: Path, *parts: object) -> None:
        write(folder, *parts)  # pyright: ignore
        for path in (folder / "weights").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")

    monkeypatch.setattr(module, "write_stored", garbles)
    with pytest.raises(UserError, match=r"the first checkpoint, of step 2, cannot be read back from .*name another"):
        Bench(tmp_path, 40, checkpoint_every=2).run()


@given("a checkpoint that was written and that its own library does not find again", "the same")
def test_the_first_checkpoint_is_read_by_what_reads_it_later(tmp_path, monkeypatch):
    def lost(folder: Path, name: str, like: object) -> None:
        raise ValueError(f"NOT_FOUND: {folder} holds no {name}. And more.")

    monkeypatch.setattr(stored, "read_tree", lost)
    with pytest.raises(
        UserError, match=r"of step 2, cannot be read back from .* .NOT_FOUND: .* holds no (weights|rest).; name"
    ):
        Bench(tmp_path, 40, checkpoint_every=2).run()
