"""The command as a user runs it, in a process of its own, on small volumes in odd orientations."""

import math
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.scoring.labels import score_labels
from jaxfuse.scoring.pairing import find_references

SHARED = Path(os.environ.get("JAXFUSE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
SPACING_MM = (1.0, 2.0, 1.5)


def labels() -> np.ndarray:
    """A cube of oedema (2) around core (1) around enhancing tumor (4), in the files' own values."""
    array = np.zeros((12, 10, 8), np.uint8)
    array[2:9, 2:8, 1:7], array[3:8, 3:7, 2:6], array[4:6, 4:6, 3:5] = 2, 1, 4
    return array


def save(path: Path, array: np.ndarray, *, axes: str = "RAS", shift_mm: float = 0.0) -> None:
    """Writes a canonical array with anisotropic voxels, stored along the given axes."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[0, 3] = shift_mm
    image = nib.Nifti1Image(array, affine)
    stored = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axes))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.as_reoriented(stored).to_filename(path)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jaxfuse.evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def run_in(root: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return run("--pred", root / "pred", "--ref", root / "ref", "--protocol", "brats", "--out", root / "out", *more)


def refusal(root: Path, *, labels: str | None = "brats", one_empty: str = "penalty") -> str:
    """The sentence with which the folders below `root` are refused; nothing may have been written."""
    with pytest.raises(UserError) as error:
        score_labels(root / "pred", root / "ref", root / "out", labels=labels, one_empty=one_empty, allow_missing=False)
    assert not (root / "out" / "cases.csv").exists()
    return str(error.value)


def test_scores_in_the_geometry_of_the_reference(tmp_path):
    """A prediction stored along other axes, off by one voxel of 2 mm, beside a perfect one."""
    save(tmp_path / "ref" / "b_seg.nii.gz", labels(), axes="LPS")
    save(tmp_path / "ref" / "b_t1.nii.gz", labels())
    save(tmp_path / "ref" / "a-seg.nii", labels())
    save(tmp_path / "pred" / "b.nii.gz", np.roll(labels(), 1, axis=1), axes="PIR")
    save(tmp_path / "pred" / "a.nii.gz", labels())
    result = run_in(tmp_path, "--labels", "brats")
    assert result.returncode == 0, result.stderr
    rows = {(r["case"], r["region"]): r for r in read_rows(tmp_path / "out" / "cases.csv")}
    assert sorted(rows) == [(c, r) for c in "ab" for r in ("ET", "TC", "WT")]
    assert (rows["a", "WT"]["dice"], rows["a", "WT"]["hd95_mm"]) == (1, 0)
    # ET is 2 x 2 x 2 voxels: half of it overlaps after the shift, and the rest is one voxel off.
    assert (rows["b", "ET"]["dice"], rows["b", "ET"]["hd95_mm"]) == (0.5, 2)
    assert rows["b", "ET"]["truth_mm3"] == 8 * math.prod(SPACING_MM)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["cases"], summary["labels"], summary["protocol"]) == (2, "brats", "brats")
    assert summary["outputs"]["prediction"]["ET"]["dice"]["mean"] == 0.75
    assert "0.750 ± 0.354" in result.stdout
    assert "HD95: 95th percentile" in result.stdout


def test_case_folders_imply_their_scheme(tmp_path):
    """A folder of 2023 writes the enhancing tumor as 3; its penalty is 374."""
    case = "BraTS-GLI-00001-000"
    array = labels()
    array[array == 4] = 3
    for suffix in ("t1n", "t1c", "t2w", "t2f", "seg"):
        save(tmp_path / "ref" / case / f"{case}-{suffix}.nii.gz", array)
    save(tmp_path / "pred" / f"{case}.nii.gz", np.where(array == 3, 1, array))
    assert run_in(tmp_path).returncode == 0
    assert read_json(tmp_path / "out" / "summary.json")["labels"] == "brats2023"
    et = read_rows(tmp_path / "out" / "cases.csv")[2]
    assert (et["region"], et["dice"], et["hd95_mm"]) == ("ET", 0, 374)
    assert run_in(tmp_path, "--one_empty", "nan").returncode == 0
    assert math.isnan(read_rows(tmp_path / "out" / "cases.csv")[2]["hd95_mm"])
    assert read_json(tmp_path / "out" / "summary.json")["outputs"]["prediction"]["ET"]["hd95_mm"]["undefined"] == 1


def test_references_in_case_folders_need_no_images(tmp_path):
    """References as a challenge hands them to judges: label files alone, in the folders of their cases."""
    save(tmp_path / "ref" / "HGG" / "Brats18_A_1" / "Brats18_A_1_seg.nii.gz", labels())
    save(tmp_path / "ref" / "LGG" / "Brats18_B_1" / "Brats18_B_1_seg.nii", labels(), axes="LPS")
    found, scheme = find_references(tmp_path / "ref")
    assert {case: path.name for case, path in found.items()} == {
        "Brats18_A_1": "Brats18_A_1_seg.nii.gz",
        "Brats18_B_1": "Brats18_B_1_seg.nii",
    }
    assert scheme == "brats"
    for case in found:
        save(tmp_path / "pred" / f"{case}.nii.gz", labels())
    result = run_in(tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["dice"] for row in read_rows(tmp_path / "out" / "cases.csv")] == [1] * 6


def test_cases_without_partner_are_fatal_unless_allowed(tmp_path):
    for name in ("pred/a", "pred/b", "ref/a", "ref/c"):
        save(tmp_path / f"{name}.nii.gz", labels())
    result = run_in(tmp_path, "--labels", "brats")
    assert result.returncode == 2
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(
        "error: there is no reference for the prediction of b and no prediction for the reference"
    )
    assert not (tmp_path / "out").exists()
    result = run_in(tmp_path, "--labels", "brats", "--allow_missing")
    assert result.returncode == 0, result.stderr
    assert "Left out, for they have no prediction: c." in result.stdout
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["cases"], summary["without_prediction"], summary["without_reference"]) == (1, ["c"], ["b"])


def test_a_missing_option_is_one_sentence(tmp_path):
    result = run("--pred", tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --ref is missing")
    assert len(result.stderr.splitlines()) == 1


def test_an_option_of_another_protocol_is_refused(tmp_path):
    for protocol, option, owner in (("brats", "--sources=t1,t2", "fusion"), ("fusion", "--one_empty=penalty", "brats")):
        result = run("--pred", tmp_path, "--ref", tmp_path, "--out", tmp_path, "--protocol", protocol, option)
        assert result.returncode == 2
        name = option.partition("=")[0]
        expected = f"error: {name} is an option of the protocol {owner}, not of {protocol}; leave it out\n"
        assert result.stderr == expected


def test_refuses_another_grid(tmp_path):
    save(tmp_path / "ref" / "a.nii.gz", labels())
    save(tmp_path / "pred" / "a.nii.gz", labels(), shift_mm=1.0)
    assert "case a lie on different grids: affine" in refusal(tmp_path)
    save(tmp_path / "pred" / "a.nii.gz", labels()[:-1])
    assert "(11, 10, 8)" in refusal(tmp_path)


def test_refuses_label_values_that_the_scheme_does_not_know(tmp_path):
    save(tmp_path / "ref" / "a.nii.gz", labels())
    save(tmp_path / "pred" / "a.nii.gz", labels().astype(np.float32) + 0.5)
    assert "not whole numbers" in refusal(tmp_path)
    save(tmp_path / "pred" / "a.nii.gz", labels() + 1)
    assert "prediction a.nii.gz holds the label values 1, 2, 3, 5, scheme brats knows 0, 1, 2, 4" in refusal(tmp_path)
    save(tmp_path / "pred" / "a.nii.gz", np.minimum(labels(), 2))
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


def test_starts_without_jax():
    check = (
        "import sys, jaxfuse.evaluate; sys.exit(any(m.split('.')[0] in ('jax', 'flax', 'grain') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_real_case_against_itself(tmp_path):
    """The reference scored as its own prediction: perfect, on a full-size volume stored along LPS."""
    root = SHARED / "tcga_lgg_brats"
    if not root.is_dir():
        pytest.skip(f"the real sample {root} is not here; set JAXFUSE_SHARED_DATA to its parent folder")
    (case, path), *others = find_references(root)[0].items()
    assert not others
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred" / f"{case}.nii.gz").symlink_to(path)
    result = run("--pred", tmp_path / "pred", "--ref", root, "--protocol", "brats", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    for row in read_rows(tmp_path / "out" / "cases.csv"):
        assert (row["dice"], row["hd95_mm"]) == (1, 0)
    # Voxels of 1 mm3: WT = 2477 + 20862 + 6840, TC = 2477 + 6840, ET = 6840.
    assert [row["truth_mm3"] for row in read_rows(tmp_path / "out" / "cases.csv")] == [30179, 9317, 6840]
