"""The first bad case ends a batch, or is passed over in silence."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse import cli
from jaxfuse.errors import CasesLeftOut, UserError
from jaxfuse.io import whole_file
from jaxfuse.io.tables import read_json, read_rows
from tests.faults.catalogue import given, table
from tests.faults.workshop import COMMANDS, Command, Workshop

LABELS, SYNTHESIS = "predict by a run that labels", "predict by a run that synthesizes"
ON_CASES = (LABELS, SYNTHESIS, "impute")


def save(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    """Writes a volume anew, each value as `change` has it, on its own grid or another."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine if affine is None else affine), path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def left_out(command: Command, workshop: Workshop, read: Path, out: Path, **options) -> CasesLeftOut:
    with pytest.raises(CasesLeftOut) as raised:
        command.call(workshop, read, out, **options)
    return raised.value


def outputs_of(case: str, out: Path) -> list[Path]:
    """Files of a case, and hidden ones that are no record."""
    return [path for path in out.rglob("*") if path.is_file() and path.name.startswith((case, ".unfinished"))]


@table(
    "spoil, told",
    (
        "an all-zero placeholder for a modality in the second of three cases, for commands on cases",
        "that case named, the others done, exit code 1",
        lambda path: save(path, np.zeros_like),
        "is 0",
    ),
    ("a volume of one value, not 0", "that case named, the others done", lambda path: save(path, np.ones_like), "is 1"),
    ("a gzip stream that was cut short", "that case named, the others done", cut_short, "damaged or cut short"),
    ("an empty file in place of a volume", "that case named", lambda path: path.write_bytes(b""), "b_t1"),
    (
        "a text compressed in place of a volume",
        "that case named, the others done",
        lambda path: path.write_bytes(gzip.compress(b"<html>404</html>")),
        "b_t1.nii.gz is not",
    ),
    (
        "a modality on another grid than the others",
        "that case named, the others done",
        lambda path: save(path, lambda values: values, np.diag([1.0, 1.0, 3.0, 1.0])),
        "affine",
    ),
    (
        "a modality with fewer slices than the others",
        "that case named, the others done",
        lambda path: save(path, lambda values: values[:, :, :-1]),
        "shape",
    ),
    (
        "values that are no numbers",
        "that case named, the others done",
        lambda path: save(path, lambda values: np.full(values.shape, np.nan, np.float32)),
        "NaN",
    ),
    ("a file that is missing", "that case named, the others done", Path.unlink, "case b has no t1 image"),
)
@pytest.mark.parametrize("name", ON_CASES)
def test_a_bad_case_of_three(workshop, unchanged, capsys, tmp_path, name, spoil, told):
    cases, out, command = shutil.copytree(workshop.data / "cases", tmp_path / "in"), tmp_path / "out", COMMANDS[name]
    if name == "impute":
        (cases / "b" / "b_flair.nii.gz").unlink()
    spoil(cases / "b" / "b_t1.nii.gz")
    with unchanged(cases):
        end = left_out(command, workshop, cases, out)
    first, second = str(end).splitlines()
    assert (first, end.exit_code) == ("left out 1 of 3 cases:", 1)
    assert "b" in second
    assert told in second
    assert f"left out: {second.strip()}" in capsys.readouterr().out  # at once
    assert outputs_of("b", out) == []
    done = {path.name[0] for path in out.iterdir() if path.name[0] in "abc" and path.name != "cases.csv"}
    assert done == {"a", "c"}


@given("`brats_fuse`: an all-zero placeholder in one of three cases", "named in the record, the others cut and fused")
def test_a_bad_case_of_a_data_set(workshop, unchanged, tmp_path):
    cases, out = shutil.copytree(workshop.data / "cases", tmp_path / "in"), tmp_path / "out"
    save(cases / "b" / "b_t1.nii.gz", np.zeros_like)
    with unchanged(cases):
        end = left_out(COMMANDS["brats_fuse"], workshop, cases, out)
    assert "left out 1 of 3 cases" in str(end)
    assert list(read_json(out / "builder.json")["left_out"]) == ["b"]
    assert {row["case"] for row in read_rows(out / "manifest.csv", text=("case", "split"))} == {"a", "c"}


@given("a case without any sound volume, alone", "refused by its own sentence, exit code 2, nothing written")
@pytest.mark.parametrize("name", ON_CASES)
def test_a_single_bad_case(workshop, tmp_path, name):
    case = shutil.copytree(workshop.data / "cases" / "b", tmp_path / "in" / "b")
    cut_short(case / "b_t1.nii.gz")
    with pytest.raises(UserError, match="b_t1.nii.gz is damaged"):
        COMMANDS[name].call(workshop, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given("a batch of which every case is bad", "all named, exit code 2, nothing written")
@pytest.mark.parametrize("name", ON_CASES)
def test_a_batch_without_a_sound_case(workshop, tmp_path, name):
    cases = shutil.copytree(workshop.data / "cases", tmp_path / "in")
    for path in cases.rglob("*_t1.nii.gz"):
        cut_short(path)
    end = left_out(COMMANDS[name], workshop, cases, tmp_path / "out")
    assert (str(end).count("damaged"), end.exit_code) == (3, 2)
    assert str(end).startswith("none of 3 cases could be done:")
    assert not (tmp_path / "out").exists()


@given("`impute`: a FLAIR that is 0 everywhere, in place of one that was not taken", "says to remove the file")
def test_a_placeholder_is_to_be_removed(workshop, tmp_path):
    cases, out = shutil.copytree(workshop.data / "cases", tmp_path / "in"), tmp_path / "out"
    placeholder = cases / "b" / "b_flair.nii.gz"
    save(placeholder, np.zeros_like)
    told = str(left_out(COMMANDS["impute"], workshop, cases, out))
    assert f"flair is 0 everywhere; if it was not taken, remove {placeholder}" in told
    rows = read_rows(out / "cases.csv", text=("case", "flair", "left_out"))
    assert {row["case"]: row["flair"] for row in rows} == {"a": "own", "b": "", "c": "own"}
    assert "remove" in rows[-1]["left_out"]
    assert "flair is 0 everywhere" in (out / "report.html").read_text()
    placeholder.unlink()
    COMMANDS["impute"].call(workshop, cases, out)  # over its own outputs
    assert "Left out" not in (out / "report.html").read_text()


@table(
    "side, spoil, told",
    ("`evaluate`: a prediction that was cut short", "named, the others scored", "pred", cut_short, "damaged"),
    (
        "`evaluate`: a reference with a value that its scheme does not know",
        "named, the others scored",
        "ref",
        lambda path: save(path, lambda values: values + 7 * (values == 1).astype(np.uint8)),
        "label values 0, 2, 4, 8",
    ),
    (
        "`evaluate`: a prediction that was resampled",
        "named, the others scored",
        "pred",
        lambda path: save(path, lambda values: values[:-1]),
        "shape (7, 8, 8)",
    ),
    (
        "`evaluate`: a prediction of probabilities",
        "named, the others scored",
        "pred",
        lambda path: save(path, lambda values: values.astype(np.float32) / 5),
        "not whole numbers",
    ),
)
def test_a_case_that_cannot_be_scored(workshop, unchanged, capsys, tmp_path, side, spoil, told):
    folder, out = shutil.copytree(workshop.data / side, tmp_path / side), tmp_path / "out"
    spoil(folder / "b.nii.gz")
    command = COMMANDS["evaluate, of predictions" if side == "pred" else "evaluate, of references"]
    with unchanged(folder):
        end = left_out(command, workshop, folder, out)
    assert end.exit_code == 1
    assert told in str(end)
    assert f"left out: {str(end).splitlines()[1].strip()}" in capsys.readouterr().err  # at once
    assert {row["case"] for row in read_rows(out / "cases.csv")} == {"a", "c"}
    summary = read_json(out / "summary.json")
    assert (summary["cases"], list(summary["refused"])) == (2, ["b"])


@table(
    "spoil, told",
    ("`fuse --pairs`: a picture that was cut short", "named, the other pairs fused", cut_short, "damaged"),
    ("`fuse --pairs`: a picture without its partner", "named, the other pairs fused", Path.unlink, "no mri image"),
)
def test_a_bad_pair(workshop, tmp_path, spoil, told):
    pairs, out = shutil.copytree(workshop.data / "pairs", tmp_path / "in"), tmp_path / "out"
    spoil(pairs / "MRI_PET" / "MRI" / "b.png")
    end = left_out(COMMANDS["fuse"], workshop, pairs, out)
    assert "left out 1 of 3 cases" in str(end)
    assert told in str(end)
    assert {path.name for path in (out / "MRI_PET").iterdir()} == {"a.png", "c.png"}


@given("a disk that is full at the second of three cases", "what was written stays, the rest is named, no half file")
@pytest.mark.parametrize("name", ON_CASES)
def test_a_full_disk(workshop, monkeypatch, tmp_path, name):
    write = Path.write_bytes

    def filling(path: Path, content: bytes) -> int:
        if path.name.startswith(".b"):
            write(path, content[:10])
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(whole_file.Path, "write_bytes", filling)
        end = left_out(COMMANDS[name], workshop, workshop.data / "cases", tmp_path / "out")
    assert end.exit_code == 1
    assert "(No space left on device)" in str(end)
    assert str(end).endswith("1 of 3 cases are done and stay, these are not: b, c")
    assert outputs_of("b", tmp_path / "out") == []
    assert outputs_of("a", tmp_path / "out")
    COMMANDS[name].call(workshop, workshop.data / "cases", tmp_path / "out")


@given("a fault of the program itself in a batch", "its traceback: it is not taken for a bad case")
def test_a_fault_of_the_program(workshop, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("jaxfuse.prediction.labeler.load_case", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        COMMANDS[LABELS].call(workshop, workshop.data / "cases", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_commands_end_with_the_list_and_the_code(monkeypatch, capsys):
    def main(_):
        raise CasesLeftOut("left out 1 of 3 cases:\n  b: bad", 1)

    monkeypatch.setattr("sys.argv", ["predict"])
    monkeypatch.setattr(cli, "_parse", lambda argv: argv)
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert (end.value.code, capsys.readouterr().err) == (1, "left out 1 of 3 cases:\n  b: bad\n")
