"""A command writes over its own input, or over a file that it did not write."""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse import fuse, predict
from jaxfuse.errors import UserError
from jaxfuse.io.png import write_png
from tests.commands import call_here
from tests.faults.catalogue import given, table
from tests.faults.workshop import BY_FILES, COMMANDS, Workshop
from tests.made_cases import head, write_case


def refusal(command, workshop: Workshop, read: Path, out: Path, **options) -> str:
    with pytest.raises(UserError) as raised:
        command.call(workshop, read, out, **options)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


@table(
    "place, relation",
    ("output that is the input, for every command that writes", "refused", "{given}", "is"),
    ("output in a new folder within the input", "refused", "{given}/new/out", "lies within"),
    ("output in the folder of a case or of a modality", "refused", "{given}/{first}", "lies within|cannot be written"),
    ("output that is the folder around the input", "refused", "{given}/..", "holds"),
    ("output that is the input by another way, `x/../..`", "refused", "{given}/x/../../{name}", "is"),
    ("output that is a link to the input", "refused", "{link}", "is"),
    ("output within a link to the input", "refused", "{link}/out", "lies within"),
)
@pytest.mark.parametrize("name", COMMANDS)
def test_output_among_the_input(workshop, unchanged, tmp_path, name, place, relation):
    command = COMMANDS[name]
    read, link = workshop.data / command.given, tmp_path / "link"
    link.symlink_to(read)
    out = Path(place.format(given=read, link=link, first=sorted(os.listdir(read))[0], name=read.name))
    with unchanged(workshop.data.parent):
        told = refusal(command, workshop, read, out)
    if "cannot be written" not in told:  # the first prediction is a file
        assert told.startswith(f"{command.option} {out} ")
        assert any(f" {one} " in told for one in relation.split("|"))
        assert told.endswith("name a folder elsewhere")


@given("`predict --workdir HINET --input data/c1 --output data/c1`, where the FLAIR was taken", "refused; it is kept")
def test_an_acquired_image_is_not_replaced_by_a_made_one(workshop, unchanged):
    case = workshop.data / "cases" / "a"
    with unchanged(case):
        told = refusal(COMMANDS["predict by a run that synthesizes"], workshop, case, case, overwrite=True)
    assert f"--output {case} is --input {case}" in told


@given("output folder in which a link leads back into the input", "refused")
def test_a_link_of_the_output_leads_into_the_input(workshop, unchanged, tmp_path):
    cases = shutil.copytree(workshop.data / "cases", tmp_path / "cases")
    (cases / "b" / "b_flair.nii.gz").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").symlink_to(cases / "b")
    with unchanged(tmp_path):
        told = refusal(COMMANDS["impute"], workshop, cases, tmp_path / "out", overwrite=True)
    assert "out/b lies within --input" in told


@given("input whose files are links, and an output beside the files that they lead to", "refused")
def test_the_files_that_links_lead_to_are_input_as_well(workshop, unchanged, tmp_path):
    archive = shutil.copytree(workshop.data / "cases", tmp_path / "archive")
    (tmp_path / "cases" / "b").mkdir(parents=True)
    for path in (archive / "b").iterdir():
        (tmp_path / "cases" / "b" / path.name).symlink_to(path)
    command = COMMANDS["predict by a run that synthesizes"]
    with unchanged(tmp_path):
        for out in (archive / "b", archive / "b" / "out", archive):
            told = refusal(command, workshop, tmp_path / "cases", out, overwrite=True)
            assert "what a link in --input leads to" in told


@given("an earlier output of `impute`, with made volumes in it, as input and output of `predict`", "refused")
def test_an_earlier_output_is_an_input_like_any_other(workshop, unchanged, tmp_path):
    cases = shutil.copytree(workshop.data / "cases", tmp_path / "cases")
    for name in ("a", "b", "c"):
        (cases / name / f"{name}_flair.nii.gz").unlink()
    COMMANDS["impute"].call(workshop, cases, tmp_path / "made")
    for path in cases.rglob("*_t[12].nii.gz"):
        shutil.copy(path, tmp_path / "made" / path.parent.name)
    command = COMMANDS["predict by a run that synthesizes"]
    with unchanged(tmp_path):
        assert " is --input " in refusal(command, workshop, tmp_path / "made", tmp_path / "made", overwrite=True)
    command.call(workshop, tmp_path / "made", tmp_path / "again")


@given("a file in the output folder that this program did not write", "kept; the sentence names it and `--overwrite`")
@pytest.mark.parametrize("name", BY_FILES)
def test_a_file_of_somebody_else_is_kept(workshop, unchanged, tmp_path, name):
    command = COMMANDS[name]
    path = tmp_path / "out" / command.file
    path.parent.mkdir(parents=True)
    path.write_text("corrected by hand")
    with unchanged(tmp_path / "out"):
        told = refusal(command, workshop, workshop.data / command.given, tmp_path / "out")
    assert told.startswith(f"{path} is there and was not written by jaxfuse")
    assert told.endswith("pass --overwrite to replace it")


@given("a folder for a whole data set or run in which something else lies", "refused; it is kept")
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - BY_FILES.keys()))
@pytest.mark.parametrize("file", ["thesis.tex", "config.json", "checkpoints/1"])
def test_a_folder_in_which_something_else_lies(workshop, unchanged, tmp_path, name, file):
    command = COMMANDS[name]
    (tmp_path / "out" / file).parent.mkdir(parents=True)
    (tmp_path / "out" / file).write_text("{}")
    with unchanged(tmp_path):
        told = refusal(command, workshop, workshop.data / command.given, tmp_path / "out")
    assert told.endswith(f"name a new or empty folder as {command.option}")


@given("the same call over its own outputs, one of which was changed by hand", "made anew; the changed one is kept")
@pytest.mark.parametrize("name", ["predict by a run that labels", "evaluate, of predictions"])
def test_own_outputs_are_made_anew_and_a_changed_one_is_kept(workshop, tmp_path, name):
    command, out = COMMANDS[name], tmp_path / "out"
    read, path = workshop.data / command.given, out / command.file
    command.call(workshop, read, out)
    made = path.read_bytes()
    path.unlink()
    command.call(workshop, read, out)
    assert path.read_bytes() == made
    path.write_bytes(made + b"\n")
    assert str(path) in refusal(command, workshop, read, out)
    command.call(workshop, read, out, overwrite=True)
    command.call(workshop, read, out)
    assert path.read_bytes() == made


@table(
    "place",
    ("output folder that is a file", "refused", "{file}"),
    ("output folder below a file", "refused", "{file}/out"),
    ("output in a place that nobody can write", "refused before the work begins", "/proc/out"),
)
@pytest.mark.parametrize("name", BY_FILES)
def test_a_place_that_cannot_be_written(workshop, unchanged, tmp_path, name, place):
    command, file = COMMANDS[name], tmp_path / "file"
    file.write_text("a file")
    with unchanged(tmp_path):
        told = refusal(command, workshop, workshop.data / command.given, Path(place.format(file=file)))
    assert "cannot be written" in told
    assert f"name another with {command.option}" in told


@table(
    "output, told",
    ("`fuse`: output that is one of the images", "refused, with `--overwrite` as well", "b.png", "would replace"),
    ("`fuse`: output that is a hard link to one of the images", "refused", "twin.png", "would replace"),
    ("`fuse`: output that is a picture of somebody else", "kept", "c.png", "was not written by jaxfuse"),
    ("`fuse`: output that is a link to a picture of somebody else", "kept", "link.png", "was not written by jaxfuse"),
)
def test_a_fused_image_replaces_no_other(workshop, unchanged, tmp_path, output, told):
    for name in ("a", "b", "c"):
        shutil.copy(workshop.data / "pairs" / "MRI_PET" / "MRI" / f"{name}.png", tmp_path)
    (tmp_path / "twin.png").hardlink_to(tmp_path / "b.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "c.png")
    options = {"run": workshop.fusing, "images": tmp_path / "a.png", "output": tmp_path / output}
    with unchanged(tmp_path), pytest.raises(UserError, match=told):
        call_here(fuse, tmp_path / "b.png", **options, overwrite=told == "would replace")


@given("folders and cases with spaces, brackets and other letters in their names", "done, and done again")
def test_names_are_no_patterns(workshop, unchanged, tmp_path):
    cases, out = tmp_path / "Köpfe [1] (neu)", tmp_path / "aus *[2]?"
    write_case(cases, "Fall [1] ä", head((30, 26, 4), 0))
    with unchanged(cases):
        for _ in range(2):
            call_here(predict, workdir=workshop.labeling, input=cases, output=out)
    assert nib.load(out / "Fall [1] ä.nii.gz").shape == (30, 26, 4)


@given("output folder beside the input whose name only begins like it", "done")
def test_a_name_that_begins_alike_is_another_folder(workshop, tmp_path):
    pred = shutil.copytree(workshop.data / "pred", tmp_path / "pred")
    COMMANDS["evaluate, of predictions"].call(workshop, pred, tmp_path / "pred2")
    assert (tmp_path / "pred2" / "cases.csv").is_file()


@given("a picture that `fuse` wrote, and that was painted over since", "kept")
def test_a_fused_image_that_was_changed_is_kept(workshop, tmp_path):
    images = [workshop.data / "pairs" / "MRI_PET" / kind / "a.png" for kind in ("MRI", "PET")]
    options = {"run": workshop.fusing, "images": images[0], "output": tmp_path / "fused.png"}
    call_here(fuse, images[1], **options)
    call_here(fuse, images[1], **options)
    write_png(tmp_path / "fused.png", np.zeros((30, 28), np.uint8))
    with pytest.raises(UserError, match="was changed since"):
        call_here(fuse, images[1], **options)
