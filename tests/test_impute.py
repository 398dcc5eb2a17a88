"""`python -m jaxfuse.impute`: what a case lacks is synthesized, and then it is segmented like any other."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse import impute, predict
from jaxfuse.data.cases import Image
from jaxfuse.data.sources.volumes import VOLUMES
from jaxfuse.errors import CasesLeftOut, UserError
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.png import png_size
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.labels import label_scheme
from tests.commands import call_here
from tests.made_cases import head, read_like, save_volume, write_case
from tests.refusals import refused
from tests.untrained_run import SCANNED, labeling_run, synthesis_run

SHAPE = (30, 26, 4)
READ = ("t1", "t2", "flair")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return synthesis_run(folder / "synthesis", "tiny,row=mmsyns"), labeling_run(folder / "labels", READ)


def give(root: Path, name: str, *modalities: str, **geometry) -> Path:
    """Writes a case with these modalities; returns its folder."""
    images = head(SHAPE, name == "rich")
    return write_case(root / "in", name, {one: images[one] for one in modalities}, **SCANNED, **geometry)


@pytest.fixture
def poor_and_rich(tmp_path) -> Path:
    """Two cases, of which the first lacks FLAIR and is stored along other axes."""
    give(tmp_path, "poor", "t1", "t2", axes="ASR")
    return give(tmp_path, "rich", *READ).parent


def command(synthesis: Path, segmentation: Path, cases: Path, output: Path) -> None:
    call_here(impute, synthesis=synthesis, segmentation=segmentation, input=cases, output=output)


def test_a_case_is_completed_and_segmented_and_another_as_it_is(runs, poor_and_rich, capsys, tmp_path):
    output, lacking = tmp_path / "out", poor_and_rich / "poor"
    command(*runs, poor_and_rich, output)
    said = capsys.readouterr().out
    for sentence in (
        "flair from t1 and t2 by synthesis:synthesis, labels by labels:voc",
        "2 cases, 1 without flair, 1 segmented as they are",
        "poor.nii.gz, flair synthesized",
        "rich.nii.gz, with its own flair",
        f"Done: {output / 'report.html'}",
    ):
        assert sentence in said
    names = {f"{case}.{end}" for case in ("poor", "rich") for end in ("nii.gz", "png")}
    assert {path.name for path in output.glob("[!.]*")} == {"cases.csv", "poor", "report.html", *names}
    assert sorted(path.name for path in (output / "poor").iterdir()) == ["poor_flair.json", "poor_flair.nii.gz"]
    assert read_json(output / "poor" / "poor_flair.json")["synthesized"] is True
    assert min(png_size(output / "poor.png")) > 100

    # The same as when somebody puts the volume beside the others and predicts.
    completed = shutil.copytree(lacking, tmp_path / "by_hand" / "poor")
    shutil.copy(output / "poor" / "poor_flair.nii.gz", completed)
    for name, cases in (("poor", completed), ("rich", poor_and_rich / "rich")):
        call_here(predict, workdir=runs[1], input=cases, output=tmp_path / "predicted")
        expected = read_volume(tmp_path / "predicted" / f"{name}.nii.gz").array
        np.testing.assert_array_equal(read_volume(output / f"{name}.nii.gz").array, expected)
        assert len(np.unique(expected)) > 1
    # And the same as a prediction that has them made.
    policy = {"missing": "impute", "synthesis": runs[0]}
    capsys.readouterr()
    call_here(predict, workdir=runs[1], input=poor_and_rich, output=tmp_path / "at_once", **policy)
    said = capsys.readouterr().out
    assert "case poor lacks flair, made from t1, t2 by synthesis:synthesis" in said
    assert "case rich" not in said
    for name in ("poor", "rich"):
        found, expected = (nib.load(folder / f"{name}.nii.gz") for folder in (tmp_path / "at_once", output))
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        assert found.header["descrip"] == expected.header["descrip"]
    read_like(output / "poor.nii.gz", lacking / "poor_t1.nii.gz")
    told = [nib.load(output / f"{name}.nii.gz").header["descrip"].item() for name in ("poor", "rich")]
    assert told == [b"flair synthesized by jaxfuse", b"as the scanner wrote it"]


def test_with_bids_all_that_is_made_bears_its_names(runs, capsys, tmp_path):
    ends = {"t1": "T1w", "t2": "T2w", "flair": "FLAIR"}
    for subject, modalities in (("sub-1", ("t1", "t2")), ("sub-2", READ)):
        images = head(SHAPE, subject == "sub-2")
        for one in modalities:
            path = tmp_path / "in" / subject / "anat" / f"{subject}_space-MNI_{ends[one]}.nii.gz"
            save_volume(path, images[one], **SCANNED)
    output = tmp_path / "out"
    given = {"synthesis": runs[0], "segmentation": runs[1], "input": tmp_path / "in", "output": output}
    call_here(impute, **given, bids=True)
    made = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    volume = "sub-1/anat/sub-1_space-MNI_desc-synthesized_FLAIR"
    assert {name for name in made if not Path(name).name.startswith(".")} == {
        "dataset_description.json",
        "dseg.tsv",
        "cases.csv",
        "report.html",
        *(f"figures/sub-{number}.png" for number in (1, 2)),
        *(f"sub-{number}/anat/sub-{number}_space-MNI_dseg.nii.gz" for number in (1, 2)),
        f"{volume}.nii.gz",
        f"{volume}.json",
    }
    capsys.readouterr()
    plain = tmp_path / "plain"
    refused("--bids names files after those of BIDS, and the cases have the layout", call_here, impute, **{
        **given, "input": give(plain, "poor", "t1", "t2").parent, "output": tmp_path / "none"
    }, bids=True)  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_the_report_says_which_labels_rest_on_what_was_synthesized(runs, poor_and_rich, tmp_path):
    output, scheme = tmp_path / "out", label_scheme("brats")
    command(*runs, poor_and_rich, output)
    page = (output / "report.html").read_text()
    for row in ("<td>poor</td><td><strong>synthesized</strong></td>", "<td>rich</td><td>its own</td>"):
        assert row in page
    assert "1 of 2 cases lack flair" in page
    assert page.count("data:image/png;base64,") == 2
    rows = read_rows(output / "cases.csv", text=("case", "flair", "left_out"))
    assert [(row["case"], row["flair"]) for row in rows] == [("poor", "synthesized"), ("rich", "own")]
    for row in rows:
        labels = nib.load(output / f"{row['case']}.nii.gz").get_fdata()
        for region, classes in scheme.regions.items():
            voxels = np.isin(labels, [scheme.decode[one] for one in classes]).sum()
            assert row[f"{region}_ml"] == pytest.approx(voxels * 1.0 * 1.5 * 2.0 / 1000)
            assert f"{row[f'{region}_ml']:.2f}" in page
    assert any(row["WT_ml"] > 0 for row in rows)


def test_the_figure_marks_what_is_synthesized(runs, poor_and_rich, monkeypatch, tmp_path):
    drawn = []
    panel = "jaxfuse.report.figures.segmentation_panel"
    monkeypatch.setattr(panel, lambda path, **shown: (path.write_bytes(b"a picture"), drawn.append(shown)))
    command(*runs, poor_and_rich, tmp_path / "out")
    poor, rich = drawn
    assert poor["modalities"] == ["t1", "t2", "flair (synthesized)"]
    assert poor["title"] == "poor: flair from t1 and t2, synthesized by synthesis:synthesis"
    assert (rich["modalities"], rich["title"]) == (["t1", "t2", "flair"], "rich: as it was taken")
    assert poor["spacing_mm"] == (1.0, 1.5, 2.0)


def test_what_does_not_go_together_is_refused(runs, tmp_path):
    (synthesis, labels), cases, output = runs, give(tmp_path, "poor", "t1").parent, tmp_path / "out"
    other = labeling_run(tmp_path / "other", ("t1", "t2"))
    stroke = labeling_run(tmp_path / "stroke", READ, "isles_slices", labels="brats")
    for maker, segmenter, told in (
        (synthesis, labels, "case poor has no t2 image, and synthesis:synthesis makes flair alone; add"),
        (synthesis, other, "makes flair, which other:voc does not read .it reads t1, t2.; name a run"),
        (synthesis, stroke, "trained on cases of the kind 'brats' and stroke:voc on 'isles'; name two"),
        (synthesis, synthesis, "makes synthesized, no label map"),
        (labels, labels, "makes .*, no modality; name a run that synthesizes, as of Hi-Net"),
    ):
        refused(told, command, maker, segmenter, cases, output)
    assert not output.exists()
    give(tmp_path, "rich", *READ)
    with pytest.raises(
        UserError, match="lies within --input .*, and nothing is written among what is read; name a folder elsewhere"
    ):
        command(synthesis, labels, cases, cases / "out")


def test_a_source_that_only_the_synthesis_reads_is_asked_of_cases_that_lack_the_target(runs, capsys, tmp_path):
    labels, cases = labeling_run(tmp_path / "labels", ("t1", "flair")), give(tmp_path, "rich", "t1", "flair").parent
    command(runs[0], labels, cases, tmp_path / "out")
    assert "1 cases, 0 without flair, 1 segmented" in capsys.readouterr().out
    give(tmp_path, "poor", "t1")
    with pytest.raises(CasesLeftOut, match="left out 1 of 2 cases:\n  case poor has no t2 image"):
        command(runs[0], labels, cases, tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "layout", "case", "modality", "expected"),
    [
        ("brats", "brats2018", "Brats18_A", "flair", "Brats18_A_flair.nii.gz"),
        ("brats", "brats2023", "BraTS-GLI-1-000", "t1ce", "BraTS-GLI-1-000-t1c.nii.gz"),
        ("stroke", "stroke", "a", "t2", "a_t2.nii.gz"),
        ("iseg", "iseg", "subject-3", "t2", "subject-3-T2.nii.gz"),
        ("isles", "isles2015", "training_1", "t2", "VSD.Brain.XX.O.MR_T2.0/VSD.Brain.XX.O.MR_T2.0.nii.gz"),
    ],
)
def test_a_volume_is_named_as_it_would_be_in_the_input(source, layout, case, modality, expected, tmp_path):
    """And found there by that name."""
    where = VOLUMES[source].place(case, modality, layout)
    assert where == Path(expected)
    folder = {"isles": tmp_path / "training" / "1", "iseg": tmp_path}.get(source, tmp_path / case)
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).touch()
    if source == "stroke":
        (folder / "a_dwi_b1000.nii.gz").touch()
    (found,) = VOLUMES[source].survey(tmp_path, (modality,), layout)
    assert (found.id, found.images) == (case, {modality: Image(folder / where)})


def test_a_background_that_cannot_be_told_is_warned_of(runs, tmp_path, capsys):
    images = head(SHAPE, 1)
    noise = np.random.default_rng(0).integers(100, 1000, SHAPE).astype(np.int16)
    write_case(tmp_path / "in", "full", {"t1": images["t1"], "t2": noise}, **SCANNED)
    command(*runs, tmp_path / "in", tmp_path / "out")
    said = "Warning: the background of 1 of 1 cases cannot be told in some image (the first is full)"
    assert said in capsys.readouterr().out


@pytest.fixture(scope="module")
def any_run(tmp_path_factory) -> Path:
    return synthesis_run(tmp_path_factory.mktemp("any") / "any", "tiny,row=any")


@pytest.mark.slow
def test_whatever_lacks_is_made_of_all_that_is_there(runs, any_run, tmp_path, capsys):
    give(tmp_path, "poor", "t1ce")
    give(tmp_path, "middle", "t1", "t1ce", "flair", axes="ASR")
    cases, output = give(tmp_path, "rich", *READ).parent, tmp_path / "out"
    command(any_run, runs[1], cases, output)
    said = capsys.readouterr().out
    for sentence in (
        "t1 or t1ce or t2 or flair from any of t1, t1ce, t2, flair by any:synthesis, labels by labels:voc",
        "3 cases, 2 without some of t1, t2, flair, 1 segmented as they are",
        "poor.nii.gz, t1, t2, flair synthesized",
        "middle.nii.gz, t2 synthesized",
        "rich.nii.gz, as it is",
    ):
        assert sentence in said
    rows = read_rows(output / "cases.csv", text=("case", *READ, "left_out"))
    assert [(row["case"], *(row[name] for name in READ)) for row in rows] == [
        ("middle", "own", "synthesized", "own"),
        ("poor", "synthesized", "synthesized", "synthesized"),
        ("rich", "own", "own", "own"),
    ]
    made = {case: sorted(path.name for path in (output / case).glob("*.nii.gz")) for case in ("poor", "middle")}
    assert made["middle"] == ["middle_t2.nii.gz"]
    assert made["poor"] == [f"poor_{name}.nii.gz" for name in ("flair", "t1", "t2")]
    origin = read_json(output / "middle" / "middle_t2.json")
    assert (origin["target"], list(origin["sources"])) == ("t2", ["t1", "t1ce", "flair"])
    read_like(output / "middle" / "middle_t2.nii.gz", cases / "middle" / "middle_t1.nii.gz", np.float32)

    policy = {"missing": "impute", "synthesis": any_run}
    call_here(predict, workdir=runs[1], input=cases, output=tmp_path / "at_once", **policy)
    for name in ("poor", "middle", "rich"):
        found, expected = (read_volume(folder / f"{name}.nii.gz").array for folder in (tmp_path / "at_once", output))
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(expected)) > 1
    described = nib.load(tmp_path / "at_once" / "poor.nii.gz").header["descrip"].item()
    assert described == b"t1, t2, flair synthesized by jaxfuse"


@pytest.mark.slow
def test_an_image_of_one_value_is_synthesized_where_it_counts_as_absent(runs, tmp_path, capsys):
    labels = labeling_run(tmp_path / "labels", READ, incomplete="zero", all_background="absent")
    images = head(SHAPE, 0)
    arrays = {"t1": images["t1"], "t2": images["t2"], "flair": 0 * images["flair"]}
    cases, outputs = write_case(tmp_path / "in", "poor", arrays, **SCANNED).parent, [tmp_path / "a", tmp_path / "b"]
    refused(
        "case poor has a flair image of one value everywhere, which counts as absent",
        call_here,
        predict,
        workdir=labels,
        input=cases,
        output=outputs[0],
    )
    call_here(predict, workdir=labels, input=cases, output=outputs[0], missing="zero")
    assert "case poor has t1+t2 alone" in capsys.readouterr().out
    command(runs[0], labels, cases, outputs[1])
    assert "poor.nii.gz, flair synthesized" in capsys.readouterr().out
    told = [nib.load(folder / "poor.nii.gz").header["descrip"].item() for folder in outputs]
    assert told == [b"without flair", b"flair synthesized by jaxfuse"]
