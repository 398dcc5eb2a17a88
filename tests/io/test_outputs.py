"""Outputs: kept apart from what is read, known as our own by their content, and written together or not at all."""

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jaxfuse.errors import OutputError, UserError
from jaxfuse.io.outputs import (
    RECORD,
    Outputs,
    check_writable,
    folder_read,
    open_outputs,
    remove_outdated,
    standing,
    wrote,
)
from tests.refusals import refused


@pytest.fixture
def given(tmp_path) -> Path:
    """A folder that is read."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "a_t1.nii.gz").write_bytes(b"as acquired")
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path) -> Path:
    """A folder for outputs."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def opened(given: Path, folder: Path, *names: str, overwrite: bool = False) -> Outputs:
    return open_outputs(folder, "--output", reads=[("--input", given)], names=names or ("x",), overwrite=overwrite)


def write(outputs: Outputs, **contents: str) -> None:
    with outputs.together() as folder:
        for name, content in contents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)


def seen(folder: Path) -> dict[str, str]:
    """The files that are not hidden, with what they hold."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_own_files_are_replaced_and_others_kept(given, tmp_path):
    out = tmp_path / "new" / "out"
    for content in ("first", "second"):
        write(opened(given, out, "x", "y"), x=content, y="the same")
        assert seen(out) == {"x": content, "y": "the same"}
    (out / "x").write_text("corrected by hand")
    refused("out/x is there and was not written by jaxfuse, or was changed since; .* --overwrite", opened, given, out)
    write(opened(given, out, overwrite=True), x="third")
    write(opened(given, out), x="fourth")
    assert seen(out)["x"] == "fourth"


def test_a_file_that_appears_meanwhile_is_kept(given, out):
    outputs = opened(given, out, "x")
    (out / "x").write_text("of somebody else")
    refused("x is there and was not written", write, outputs, x="ours")
    assert (out / "x").read_text() == "of somebody else"


@pytest.mark.parametrize("error", [UserError("a is bad"), OSError(errno.ENOSPC, "No space left"), RuntimeError("bug")])
def test_where_anything_is_raised_nothing_is_left(given, tmp_path, error):
    out = tmp_path / "new" / "out"
    expected = OutputError if isinstance(error, OSError) else type(error)

    def write_half() -> None:
        with opened(given, out).together() as folder:
            (folder / "x").write_text("half")
            raise error

    with pytest.raises(expected):
        write_half()
    assert not (tmp_path / "new").exists()


def test_sentences_name_the_place_and_not_the_folder_on_the_way(given, out):
    with pytest.raises(UserError, match=f"^{out}/x is bad$"), opened(given, out).together() as folder:
        raise UserError(f"{folder}/x is bad")


def test_a_file_that_was_not_announced_is_a_fault(given, out):
    with pytest.raises(ValueError, match="not announced: z"):
        write(opened(given, out, "x"), z="")


def test_a_record_that_was_cut_short_spoils_one_line(given, out):
    write(opened(given, out, "x", "y"), x="1", y="2")
    record = out / RECORD
    record.write_text(record.read_text()[:-5])
    write(opened(given, out, "x"), x="3")
    opened(given, out, "x")
    refused("/y is there", opened, given, out, "y")


def test_leavings_of_a_killed_call_are_removed(given, out):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = out / f".unfinished-{platform.node()}-{ended.pid}-0123abcd"
    (left / "a").mkdir(parents=True)
    with opened(given, out, "x").together():
        opened(given, out, "y")  # of another call that goes on
        (going,) = out.glob(".unfinished-*")
    assert not left.exists()
    assert not going.exists()


def test_folders_are_told_apart_by_the_file_system(given, tmp_path):
    (tmp_path / "link").symlink_to(given)
    for folder, relation in {
        given: "is --input",
        given / "a" / "new": "lies within --input",
        tmp_path: "holds --input",
        tmp_path / "x" / ".." / "in": "is --input",
        tmp_path / "link": "is --input",
        tmp_path / "link" / "a": "lies within --input",
    }.items():
        refused(f"--output .* {relation} .*; name a folder elsewhere", opened, given, folder)
    opened(given, tmp_path / "in2")
    assert seen(tmp_path) == {"in/a/a_t1.nii.gz": "as acquired"}


def test_links_within_the_input_lead_to_what_is_read_as_well(given, tmp_path):
    (tmp_path / "links").symlink_to(given / "a")
    reads = folder_read("--input", tmp_path / "links", [tmp_path / "links" / "a_t1.nii.gz"])
    assert reads == [("--input", tmp_path / "links")]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b.nii.gz").symlink_to(given / "a" / "a_t1.nii.gz")
    reads = folder_read("--input", tmp_path / "set", [tmp_path / "set" / "b.nii.gz"])
    told = "lies within what a link in --input leads to"
    refused(told, open_outputs, given / "a" / "out", "--output", reads=reads, names=["x"])


def test_a_file_that_is_read_is_never_replaced(given, tmp_path):
    reads = [("--images", given / "a" / "a_t1.nii.gz")]
    told = "a_t1.nii.gz would replace .*, which is read"
    refused(told, open_outputs, given / "a", "--output", reads=reads, names=["a_t1.nii.gz"], overwrite=True)
    (tmp_path / "twin").hardlink_to(given / "a" / "a_t1.nii.gz")
    refused("would replace", open_outputs, tmp_path, "--output", reads=reads, names=["twin"], overwrite=True)


def test_places_that_are_no_places_for_files(given, out, tmp_path):
    (out / "x").mkdir()
    refused("/x is a folder", opened, given, out, overwrite=True)
    refused("two cases would be written to .*/y", opened, given, out, "y", "y")
    (out / "a").symlink_to(given / "a")
    refused("is --input|lies within --input", opened, given, out, "a/a_flair.nii.gz")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        refused(r"cannot be written \(.*\); name another with --out", check_writable, folder, "--out")
    refused("cannot be written .*File name too long", opened, given, out, "n" * 300)


def test_what_an_earlier_call_wrote_and_this_one_did_not_is_removed_unless_it_was_changed(given, out):
    write(opened(given, out, "a", "b", "c", "d"), a="1", b="1", c="1", d="1")
    (out / "mine").write_text("my own")
    before = standing(out, ["a", "b", "c", "d", "mine", "none"])
    assert set(before) == {"a", "b", "c", "d", "mine"}
    (out / "c").write_text("changed")
    before = standing(out, before)
    write(opened(given, out, "a"), a="1")  # equal, and yet anew
    (out / "d").unlink()
    assert wrote(out, "a")
    assert not wrote(out, "d")
    assert not wrote(out, "mine")
    assert remove_outdated(out, before) == (["b"], ["c"])
    assert seen(out) == {"a": "1", "c": "changed", "mine": "my own"}
