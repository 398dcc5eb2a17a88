"""The command as a user runs it, in a process of its own, on small volumes in odd orientations."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.metrics.protocols import BRATS
from jaxfuse.postprocessing.note import note_of
from jaxfuse.postprocessing.plan import Plan
from jaxfuse.postprocessing.steps import KeepLargest
from jaxfuse.report.segmentation_table import render_segmentation
from jaxfuse.scoring.labels import score_labels
from jaxfuse.scoring.pairing import find_references
from jaxfuse.scoring.protocol import Call
from tests.made_cases import save_pair, save_volume

SPACING_MM, MASKS = (1.0, 2.0, 1.5), "brats, brats2023, brats2023_men, brats2023_met, iseg, stroke, isles2022"


def labels() -> np.ndarray:
    """A cube of oedema (2) around core (1) around enhancing tumor (4), in the files' own values."""
    array = np.zeros((12, 10, 8), np.uint8)
    array[2:9, 2:8, 1:7], array[3:8, 3:7, 2:6], array[4:6, 4:6, 3:5] = 2, 1, 4
    return array


save = partial(save_volume, spacing_mm=SPACING_MM)


def run(root: Path, protocol: str, *more: object, ref: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command on the folders below `root`; `ref` lies elsewhere where it is given."""
    folders = {"pred": root / "pred", "ref": ref or root / "ref", "out": root / "out"}
    options = [f"--{name}={folder}" for name, folder in folders.items()] + [f"--protocol={protocol}", *map(str, more)]
    options += [] if protocol in ("synthesis", "fusion") or "--pictures" in str(more) else ["--pictures=0"]
    command = [sys.executable, "-m", "jaxfuse.evaluate", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def evaluated(root: Path, protocol: str, *more: object, ref: Path | None = None) -> tuple[str, list[dict], dict]:
    """Returns the output of the command, and the rows and the summary that it writes."""
    result = run(root, protocol, *more, ref=ref)
    assert result.returncode == 0, result.stderr
    return result.stdout, read_rows(root / "out" / "cases.csv"), read_json(root / "out" / "summary.json")


def by_case_and_region(rows: list[dict]) -> dict[tuple[str, str], dict]:
    return {(row["case"], row["region"]): row for row in rows}


def refusal(root: Path, *, labels: str | None = "brats", one_empty: str | None = None) -> str:
    """The sentence with which the folders below `root` are refused; nothing may have been written."""
    options = {"protocol": BRATS, "labels": labels, "one_empty": one_empty}
    with pytest.raises(UserError) as error:
        score_labels(root / "pred", root / "ref", root / "out", Call(), **options)
    assert not (root / "out" / "cases.csv").exists()
    return str(error.value)


def test_scores_in_the_geometry_of_the_reference(tmp_path):
    """A prediction stored along other axes, off by one voxel of 2 mm, beside a perfect one."""
    for name in ("ref/b_t1.nii.gz", "ref/a-seg.nii", "pred/a.nii.gz"):
        save(tmp_path / name, labels())
    save(tmp_path / "ref" / "b_seg.nii.gz", labels(), axes="LPS")
    save(tmp_path / "pred" / "b.nii.gz", np.roll(labels(), 1, axis=1), axes="PIR")
    printed, rows, summary = evaluated(tmp_path, "brats", "--labels=brats")
    rows = by_case_and_region(rows)
    assert sorted(rows) == [(c, r) for c in "ab" for r in ("ET", "TC", "WT")]
    assert (rows["a", "WT"]["dice"], rows["a", "WT"]["hd95_mm"]) == (1, 0)
    # ET is 2 x 2 x 2 voxels: half of it overlaps after the shift, and the rest is one voxel off.
    assert (rows["b", "ET"]["dice"], rows["b", "ET"]["hd95_mm"]) == (0.5, 2)
    assert rows["b", "ET"]["truth_mm3"] == 8 * math.prod(SPACING_MM)
    assert (summary["cases"], summary["labels"], summary["protocol"]) == (2, "brats", "brats")
    assert summary["outputs"]["prediction"]["ET"]["dice"]["mean"] == 0.75
    for words in ("0.750 ± 0.354", "HD95: 95th percentile"):
        assert words in printed


def test_what_the_reference_ignores_is_not_scored(tmp_path):
    """The value 7 in a reference; in a prediction it is refused."""
    predicted, truth = labels(), labels()
    predicted[9:, 8:], truth[9:, 8:] = 4, 7
    save(tmp_path / "pred" / "a.nii.gz", predicted)
    save(tmp_path / "ref" / "a.nii.gz", truth)
    options = {"protocol": BRATS, "labels": "NCR=1,ED=2,ET=4,ignore=7", "one_empty": "nan"}
    score_labels(tmp_path / "pred", tmp_path / "ref", tmp_path / "out", Call(), **options)
    rows = by_case_and_region(read_rows(tmp_path / "out" / "cases.csv"))
    assert {row["dice"] for row in rows.values()} == {row["specificity"] for row in rows.values()} == {1.0}
    (tmp_path / "out" / "cases.csv").unlink()
    save(tmp_path / "pred" / "a.nii.gz", truth)
    told = refusal(tmp_path, labels=options["labels"], one_empty="nan")
    assert "prediction a.nii.gz holds the value by which labels say ignore" in told


def test_processes_write_what_one_writes(tmp_path):
    """One of three predictions is damaged: it is left out alike."""
    for number, case in enumerate("abc"):
        save(tmp_path / "ref" / f"{case}.nii.gz", labels())
        save(tmp_path / "pred" / f"{case}.nii.gz", np.roll(labels(), number, axis=0))
    (tmp_path / "pred" / "b.nii.gz").write_bytes(b"")
    options = {"protocol": BRATS, "labels": "brats", "one_empty": None}
    for count in (1, 2):
        summary = score_labels(
            tmp_path / "pred", tmp_path / "ref", tmp_path / f"{count}", Call(processes=count), **options
        )
        assert list(summary["refused"]) == ["b"]
    for name in ("cases.csv", "summary.json"):
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_predictions_whose_plan_was_chosen_on_them_are_flagged(tmp_path):
    plan = Plan("brats", (KeepLargest("WT", "background"),))
    for case in "abc":
        save(tmp_path / "ref" / f"{case}.nii.gz", labels())
        note = note_of(plan, on_it=case != "b").encode()
        save(tmp_path / "pred" / f"{case}.nii.gz", labels(), description=note)
    options = {"protocol": BRATS, "labels": "brats", "one_empty": None}
    summary = score_labels(tmp_path / "pred", tmp_path / "ref", tmp_path / "out", Call(), **options)
    assert summary["postprocessing_chosen_on"] == ["a", "c"]
    told = "Warning: the post-processing of 2 of these predictions was chosen on their own cases (a, c)"
    assert told in render_segmentation(summary)
    assert "Warning" not in render_segmentation({**summary, "postprocessing_chosen_on": []})


def test_case_folders_imply_their_scheme(tmp_path):
    """A folder of 2023 writes the enhancing tumor as 3; its penalty is 374."""
    case = "BraTS-GLI-00001-000"
    array = labels()
    array[array == 4] = 3
    for suffix in ("t1n", "t1c", "t2w", "t2f", "seg"):
        save(tmp_path / "ref" / case / f"{case}-{suffix}.nii.gz", array)
    save(tmp_path / "pred" / f"{case}.nii.gz", np.where(array == 3, 1, array))
    _, (*_, et), summary = evaluated(tmp_path, "brats")
    assert (summary["labels"], et["region"], et["dice"], et["hd95_mm"]) == ("brats2023", "ET", 0, 374)
    _, (*_, et), summary = evaluated(tmp_path, "brats", "--one_empty=nan")
    assert math.isnan(et["hd95_mm"])
    assert summary["outputs"]["prediction"]["ET"]["hd95_mm"]["undefined"] == 1


def test_references_in_case_folders_need_no_images(tmp_path):
    """References as a challenge hands them to judges: label files alone, in the folders of their cases."""
    save(tmp_path / "ref" / "HGG" / "Brats18_A_1" / "Brats18_A_1_seg.nii.gz", labels())
    save(tmp_path / "ref" / "LGG" / "Brats18_B_1" / "Brats18_B_1_seg.nii", labels(), axes="LPS")
    found, scheme = find_references(tmp_path / "ref")
    names = ["Brats18_A_1_seg.nii.gz", "Brats18_B_1_seg.nii"]
    assert ([path.name for path in found.values()], scheme) == (names, "brats")
    for case in ("Brats18_A_1", "Brats18_B_1"):
        save(tmp_path / "pred" / f"{case}.nii.gz", labels())
    assert [row["dice"] for row in evaluated(tmp_path, "brats")[1]] == [1] * 6


def test_cases_without_partner_are_fatal_unless_allowed(tmp_path):
    for name in ("pred/a", "pred/b", "ref/a", "ref/c"):
        save(tmp_path / f"{name}.nii.gz", labels())
    result = run(tmp_path, "brats", "--labels=brats")
    assert result.returncode == 2
    said = "error: there is no reference for the prediction of b and no prediction for the reference"
    assert (result.stderr.startswith(said), result.stderr.count("\n")) == (True, 1)
    assert not (tmp_path / "out").exists()
    printed, _, summary = evaluated(tmp_path, "brats", "--labels=brats", "--allow_missing")
    assert "Left out, for they have no prediction: c." in printed
    assert (summary["cases"], summary["without_prediction"], summary["without_reference"]) == (1, ["c"], ["b"])


@pytest.mark.parametrize(
    ("protocol", "option", "owner"),
    [
        ("iseg", "--sources=t1,t2", "fusion"),
        ("fusion", "--pictures=0", MASKS),
        *((name, "--one_empty=nan", MASKS) for name in ("fusion", "synthesis")),
    ],
)
def test_an_option_of_another_protocol_is_refused(tmp_path, protocol, option, owner):
    result = run(tmp_path, protocol, option)
    name = option.partition("=")[0]
    expected = f"error: {name} is an option of the protocol {owner}, not of {protocol}; leave it out\n"
    assert (result.returncode, result.stderr) == (2, expected)


def test_a_missing_option_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "jaxfuse.evaluate", "--pred", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert result.stderr.startswith("error: --ref is missing")


def test_refuses_other_grids_and_label_values_that_the_scheme_does_not_know(tmp_path):
    pred = tmp_path / "pred" / "a.nii.gz"
    save(tmp_path / "ref" / "a.nii.gz", labels())
    save(pred, labels(), origin_mm=(1, 0, 0))
    assert "case a do not fit: affine" in refusal(tmp_path)
    save(pred, labels()[:-1])
    assert "(11, 10, 8)" in refusal(tmp_path)
    save(pred, labels().astype(np.float32) + 0.5)
    assert "not whole numbers" in refusal(tmp_path)
    save(pred, labels() + 1)
    assert "prediction a.nii.gz holds the label values 1, 2, 3, 5, scheme brats knows 0, 1, 2, 4" in refusal(tmp_path)
    save(pred, np.minimum(labels(), 2))
    assert "reference a.nii.gz holds the label values 0, 1, 2, 4" in refusal(tmp_path, labels="brats2023")


def test_refuses_what_it_cannot_use(tmp_path):
    save(tmp_path / "ref" / "a.nii.gz", labels())
    assert "pred is not a folder" in refusal(tmp_path)
    (tmp_path / "pred").mkdir()
    assert "holds no .nii.gz" in refusal(tmp_path)
    save(tmp_path / "pred" / "b.nii.gz", labels())
    assert "name the files of one case alike" in refusal(tmp_path)
    save(tmp_path / "ref" / "b.nii.gz", labels())
    (tmp_path / "ref" / "a.nii.gz").unlink()
    assert "name it with --labels" in refusal(tmp_path, labels=None)
    assert "'brats1999' is not known" in refusal(tmp_path, labels="brats1999")
    assert "one_empty is 'zero'" in refusal(tmp_path, one_empty="zero")
    (tmp_path / "out").write_text("a file")
    assert "out cannot be written" in refusal(tmp_path)
    save(tmp_path / "pred" / "b.nii", labels())
    assert "case b has two files" in refusal(tmp_path)


def tissues() -> np.ndarray:
    """White matter (250) in gray matter (150) in CSF (10), in the values of iSeg's files."""
    array = np.zeros((10, 9, 8), np.uint8)
    array[1:9, 1:8, 1:7], array[2:8, 2:7, 2:6], array[4:6, 4:6, 3:5] = 10, 150, 250
    return array


def test_tissues_from_analyze_and_nifti(tmp_path):
    """Subject 1 as published and predicted in NIfTI, white matter off by one voxel; subject 2 in a pair throughout."""
    for subject in (1, 2):
        save_pair(tmp_path / "ref" / f"subject-{subject}-label.hdr", tissues())
        save_pair(tmp_path / "ref" / f"subject-{subject}-T1.hdr", tissues() // 2)
    moved = np.where(tissues() == 250, 150, tissues())
    moved[5:7, 4:6, 3:5] = 250
    # Of no stated orientation, as `predict` writes it.
    save_volume(tmp_path / "pred" / "subject-1.nii.gz", moved, sform_code=0, qform_code=0)
    save_pair(tmp_path / "pred" / "subject-2.hdr", tissues())
    printed, rows, summary = evaluated(tmp_path, "iseg")
    rows = by_case_and_region(rows)
    assert sorted(rows) == [(f"subject-{n}", tissue) for n in (1, 2) for tissue in ("CSF", "GM", "WM")]
    # 8 voxels of white matter, half of them one voxel off: those 4 of either side are 1 mm from the other.
    wm = rows["subject-1", "WM"]
    assert (wm["dice"], wm["hd_mm"], wm["asd_mm"], wm["iseg_mhd_mm"], wm["iseg_asd_mm"]) == (0.5, 1, 0.5, 1, 0.5)
    assert (rows["subject-1", "CSF"]["dice"], rows["subject-2", "WM"]["mhd_mm"]) == (1, 0)
    assert (summary["protocol"], summary["labels"], summary["cases"]) == ("iseg", "iseg", 2)
    assert summary["outputs"]["prediction"]["WM"]["dice"]["mean"] == 0.75
    for words in ("0.750 ± 0.354", "iSeg MHD (mm)", "Dubuisson MHD: the larger of the mean", "Label scheme: iseg."):
        assert words in printed
    save_pair(tmp_path / "pred" / "subject-2.hdr", tissues() // 10)
    result = run(tmp_path, "iseg")
    told = "left out 1 of 2 cases:\n  subject-2: prediction subject-2.hdr holds the label values 0, 1, 15, 25"
    assert (result.returncode, told in result.stderr) == (1, True)
    assert {row["case"] for row in read_rows(tmp_path / "out" / "cases.csv")} == {"subject-1"}
    assert list(read_json(tmp_path / "out" / "summary.json")["refused"]) == ["subject-2"]


def test_strokes_in_the_folders_of_their_cases(tmp_path):
    """Thick slices; the lesion of b is missed, so that it has no distance."""
    lesion = np.zeros((12, 10, 8), np.uint8)
    lesion[4:6, 4, 3] = 1
    for case in "ab":
        save(tmp_path / "ref" / case / f"{case}_lesion.nii.gz", lesion, axes="LPS")
        save(tmp_path / "ref" / case / f"{case}_dwi_b1000.nii.gz", lesion)
    save(tmp_path / "pred" / "a.nii.gz", np.roll(lesion, 1, axis=1))
    save(tmp_path / "pred" / "b.nii.gz", np.zeros_like(lesion))
    printed, (off, missed), summary = evaluated(tmp_path, "stroke")
    # One voxel of 2 mm along the second axis.
    assert (off["region"], off["dice"], off["hd_mm"], off["hd_voxels"]) == ("lesion", 0, 2, 1)
    assert math.isnan(missed["hd_mm"])
    found = summary["outputs"]["prediction"]["lesion"]["hd_mm"]
    assert (found["mean"], found["n"], found["undefined"]) == (2, 1, 1)
    assert "prediction lesion: exactly one mask empty in 1, distances undefined and left out in 1 of 2" in printed


def test_synthesized_volumes_in_one_command(tmp_path):
    rng = np.random.default_rng(0)
    for case in "ab":
        real = np.pad(rng.integers(50, 200, (12, 11, 7)), 1).astype(np.int16)
        save(tmp_path / "ref" / case / f"{case}_flair.nii.gz", real)
        save(tmp_path / "ref" / case / f"{case}_t1.nii.gz", real)
        save(tmp_path / "pred" / f"{case}.nii.gz", real // 2, axes="LPS")
    options = ("--target=flair", "--emulate=official", "--window=0:14,1:13")
    printed, rows, _ = evaluated(tmp_path, "synthesis", *options)
    assert [row["nmse"] for row in rows] == pytest.approx([0.25] * 2, rel=0.02)
    assert [row["official_psnr_db"] > 30 for row in rows] == [True] * 2  # the stretching undoes the half
    assert "| PSNR (dB), official |" in printed
    assert "Window: voxels x 0:14 and y 1:13" in printed
    assert run(tmp_path, "synthesis", "--emulate=matlab").stderr.startswith("error: --emulate")


# A full-size volume stored along LPS: core, edema and enhancing tumor of 2477, 20862 and 6840 voxels of 1 mm3; and an
# Analyze pair as published: CSF, gray and white matter, voxels of 8 mm3.
@pytest.mark.parametrize(
    ("protocol", "folder", "ends", "distances", "mm3"),
    [
        ("brats", "tcga_lgg_brats", (".nii.gz",), {"hd95_mm": 0}, [30179, 9317, 6840]),
        ("iseg", "iseg_like_mni152", (".hdr", ".img"), {"hd_mm": 0, "iseg_mhd_mm": 0}, [238528, 1113032, 591648]),
    ],
)
def test_a_real_reference_is_its_own_perfect_prediction(tmp_path, shared_data, protocol, folder, ends, distances, mm3):
    root = shared_data / folder
    ((case, path),) = find_references(root)[0].items()
    (tmp_path / "pred").mkdir()
    for end in ends:
        (tmp_path / "pred" / f"{case}{end}").symlink_to(path if len(ends) == 1 else path.with_suffix(end))
    _, rows, _ = evaluated(tmp_path, protocol, ref=root)
    assert [{name: row[name] for name in ("dice", *distances)} for row in rows] == [{"dice": 1, **distances}] * 3
    assert [row["truth_mm3"] for row in rows] == mm3
