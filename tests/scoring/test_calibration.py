"""Class probabilities beside label maps, scored by the command: made so that each error is known."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse import evaluate
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.prediction.probability_maps import PROBABILITIES
from jaxfuse.scoring.calibration import FOLDER
from tests.commands import call_here
from tests.made_cases import placed, save_volume

SHAPE = (6, 5, 4)
# Voxels of the outermost slices are no brain.
INSIDE = np.zeros(SHAPE, bool)
INSIDE[1:-1] = True


def _truth():
    truth = np.zeros(SHAPE, np.uint8)
    truth[1:3] = 1
    return truth


def _save_probabilities(path, chances):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(chances.astype(np.float32), placed()).to_filename(path)


def _written(root, case, confidence, *, image=True, method="pred"):
    """A method that names the true class with this confidence, but in a quarter of the brain the other one."""
    truth = _truth()
    folder = root / "ref" / case
    save_volume(folder / f"{case}_seg.nii.gz", truth)
    if image:
        save_volume(folder / f"{case}_t1.nii.gz", np.where(INSIDE, 50 + np.indices(SHAPE).sum(0), 0).astype(np.int16))
    named = truth.copy()
    named[4] = 1
    chances = np.zeros((*SHAPE, 4))
    chances[..., 0] = np.where(named == 1, 1 - confidence, confidence)
    chances[..., 1] = 1 - chances[..., 0]
    save_volume(root / method / f"{case}.nii.gz", named)
    _save_probabilities(root / method / FOLDER / f"{case}.nii.gz", chances)


def _call(root, *others, **more):
    folders = {"pred": root / "pred", "ref": root / "ref", "out": root / "out"}
    call_here(evaluate, *others, **folders, protocol="brats", labels="brats", pictures=0, calibration=True, **more)


def test_each_case_has_its_errors_and_its_bins(tmp_path, capsys):
    _written(tmp_path, "Brats18_A_1", 0.9)
    _written(tmp_path, "Brats18_B_1", 0.7)
    _call(tmp_path)
    first, second = read_rows(tmp_path / "out" / "calibration.csv")
    assert (first["ece"], first["ace"], first["mce"]) == pytest.approx((0.15,) * 3, abs=1e-6)
    assert second["ece"] == pytest.approx(0.05, abs=1e-6)
    assert first["brier"] == pytest.approx(2 * (0.75 * 0.1**2 + 0.25 * 0.9**2), abs=1e-6)
    assert (first["voxels"], second["voxels"]) == (INSIDE.sum(),) * 2
    bins = read_rows(tmp_path / "out" / "reliability.csv")
    assert [(row["bin"], row["accuracy"], row["share"]) for row in bins] == [(13, 0.75, 1), (10, 0.75, 1)]
    summary = read_json(tmp_path / "out" / "summary.json")["calibration"]
    assert summary["metrics"]["ece"]["mean"] == pytest.approx(0.1, abs=1e-6)
    assert summary["within"].startswith("voxels of the brain")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Calibration</h2>" in page
    assert "0.1000 ± 0.0707" in page
    assert (tmp_path / "out" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "Calibration: ECE 0.1000 ± 0.0707" in capsys.readouterr().out


def test_what_any_image_shows_counts(tmp_path):
    _written(tmp_path, "Brats18_A_1", 0.9)
    more = np.where(np.roll(INSIDE, 1, 0), 50 + np.indices(SHAPE).sum(0), 0).astype(np.int16)
    save_volume(tmp_path / "ref" / "Brats18_A_1" / "Brats18_A_1_flair.nii.gz", more)
    _call(tmp_path)
    (row,) = read_rows(tmp_path / "out" / "calibration.csv")
    assert row["voxels"] == (INSIDE | (more > 0)).sum() > INSIDE.sum()


def test_without_images_all_voxels_count(tmp_path):
    _written(tmp_path, "Brats18_A_1", 0.9, image=False)
    _call(tmp_path)
    (row,) = read_rows(tmp_path / "out" / "calibration.csv")
    assert row["voxels"] == np.prod(SHAPE)
    assert read_json(tmp_path / "out" / "summary.json")["calibration"]["within"].startswith("all voxels")


def test_methods_stand_side_by_side(tmp_path):
    for method, confidence in (("pred", 0.9), ("other", 0.75)):
        _written(tmp_path, "Brats18_A_1", confidence, method=method)
    _call(tmp_path, tmp_path / "other")
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<td>other</td><td class="num">0.0000</td>' in page


def test_predict_writes_where_evaluate_reads():
    assert FOLDER == PROBABILITIES
