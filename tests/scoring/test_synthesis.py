"""Synthesized volumes scored against files or a data set: scaling, window, the public code's columns, refusals."""

import math
import re

import numpy as np
import pytest

from jaxfuse.errors import CasesLeftOut
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.synthesis import METRICS, OFFICIAL, official_scores, score_synthesized
from jaxfuse.report.synthesis_table import render_synthesis
from jaxfuse.scoring.protocol import Call
from jaxfuse.scoring.synthesis import score_synthesis
from tests.made_cases import save_volume
from tests.refusals import refused

SHAPE = (16, 15, 8)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
RNG = np.random.default_rng(0)


def head(low: int, top: int) -> np.ndarray:
    """Background 0 around values from `low`, the greatest at one voxel."""
    volume = np.zeros(SHAPE, np.int16)
    volume[2:14, 2:13, 1:7] = RNG.integers(low, top, (12, 11, 6))
    volume[2, 2, 2] = top
    return volume


REAL = {name: head(20, top) for name, top in (("a", 400), ("b", 900))}
MADE = {name: volume + RNG.integers(0, 30, SHAPE) * (volume > 0) for name, volume in REAL.items()}


def save(path, array, affine=AFFINE, axes="RAS"):
    save_volume(path, array.astype(np.float32), affine=affine, axes=axes)


@pytest.fixture
def folders(tmp_path):
    """Flat folders of both sides; the prediction of b is stored along other axes."""
    for name in REAL:
        save(tmp_path / "pred" / f"{name}.nii.gz", MADE[name], axes="LPS" if name == "b" else "RAS")
        save(tmp_path / "ref" / f"{name}.nii.gz", REAL[name])
    return tmp_path


def scored(root, *, allow_missing=False, **options):
    options = {"target": None, "emulate": None, "window": None} | options
    return score_synthesis(root / "pred", root / "ref", root / "out", Call(allow_missing), **options)


def left_out(root, told, **options):
    """Asserts that case a alone is left out with this sentence, a pattern, and is in no row."""
    summary = scored(root, **options)
    assert list(summary["refused"]) == ["a"]
    assert re.search(told, summary["refused"]["a"])
    assert "a" not in {row["case"] for row in read_rows(root / "out" / "cases.csv")}


def rows_of(root):
    return {row["case"]: row for row in read_rows(root / "out" / "cases.csv")}


def by_hand(name, box=()):
    """Both volumes by the range of the whole real one."""
    top = float(REAL[name].max())
    return REAL[name][box] / top, MADE[name][box] / top


def test_volumes_are_scaled_by_the_range_of_the_real_one(folders):
    summary = scored(folders)
    rows = rows_of(folders)
    for name in REAL:
        found = {metric: rows[name][metric] for metric in names_of(METRICS)}
        assert found == pytest.approx(score_synthesized(*by_hand(name)))
    assert set(rows["a"]) == {"case", "output", *names_of(METRICS)}
    assert (summary["kind"], summary["protocol"], summary["cases"]) == ("synthesis", "synthesis", 2)
    assert read_json(folders / "out" / "summary.json") == summary
    psnr = summary["outputs"]["synthesized"]["psnr_db"]
    assert psnr["mean"] == pytest.approx(np.mean([rows[name]["psnr_db"] for name in REAL]))
    table = render_synthesis(summary)
    for words in (f"{psnr['mean']:.2f} ± {psnr['std']:.2f}", "Scaling: both volumes by the range of the real one"):
        assert words in table
    assert "official" not in table


def test_the_public_code_is_emulated_where_asked(folders):
    table = render_synthesis(scored(folders, emulate="official"))
    found = rows_of(folders)["b"]
    assert {name: found[name] for name in names_of(OFFICIAL)} == pytest.approx(official_scores(*by_hand("b")))
    for words in ("PSNR (dB), official", "official: as the public code"):
        assert words in table


def test_a_window_changes_what_is_scored_and_not_the_scale(folders):
    summary = scored(folders, window="1:13,3:15")
    box = (slice(1, 13), slice(3, 15))
    assert REAL["a"][box].max() < REAL["a"].max()
    assert rows_of(folders)["a"]["psnr_db"] == pytest.approx(score_synthesized(*by_hand("a", box))["psnr_db"])
    assert summary["definitions"]["Window"].startswith("voxels x 1:13 and y 3:15 of the canonical axes")
    refused("give the voxels along x and y, such as 40:200,20:200", scored, folders, window="1:13")
    refused("holds no voxel", scored, folders, window="1:13,9:9")
    with pytest.raises(CasesLeftOut, match="0:17 along x, but case a only 16 voxels"):
        scored(folders, window="0:17,0:15")


def test_a_data_set_is_asked_for_its_target(folders):
    for path in (folders / "ref").glob("*"):
        path.unlink()
    for name, volume in REAL.items():
        save(folders / "ref" / name / f"{name}_flair.nii.gz", volume)
        save(folders / "ref" / name / f"{name}_t1.nii.gz", volume // 2)
    assert scored(folders, target="flair")["target"] == "flair"
    found = {name: row["psnr_db"] for name, row in rows_of(folders).items()}
    assert found == {name: pytest.approx(score_synthesized(*by_hand(name))["psnr_db"]) for name in REAL}
    (folders / "pred" / "a.nii.gz").rename(folders / "pred" / "a_flair.nii.gz")  # as predict names it
    scored(folders, target="flair")
    assert {name: row["psnr_db"] for name, row in rows_of(folders).items()} == found
    refused("of a data set, name the modality with --target", scored, folders)
    refused("pd.* choose from", scored, folders, target="pd")
    refused("no reference for the prediction of a_flair, b", scored, folders, target="t2")


def test_values_below_the_real_range_count_and_are_told_of(folders):
    made = MADE["a"].astype(float)
    made[5, 5, 5] = -800
    save(folders / "pred" / "a.nii.gz", made)
    summary = scored(folders)
    greatest = max(float(REAL["a"].max()), made.max())
    expected = 10 * math.log10(greatest**2 / np.mean((made - REAL["a"]) ** 2))
    assert rows_of(folders)["a"]["psnr_db"] == pytest.approx(expected)
    assert summary["definitions"]["Below the range"].startswith("1 cases were made with values below")


def test_cases_that_lack_a_file_are_refused_or_left_out(folders):
    (folders / "ref" / "b.nii.gz").unlink()
    refused("no reference for the prediction of b", scored, folders)
    for side, volume in (("pred", MADE["a"]), ("ref", REAL["a"])):
        save(folders / side / "c_lesion.nii.gz", volume)  # a name, though it ends like that of a label
    summary = scored(folders, allow_missing=True)
    assert (summary["cases"], summary["without_reference"], list(rows_of(folders))) == (2, ["b"], ["a", "c_lesion"])


@pytest.mark.parametrize(
    ("array", "affine", "said"),
    [
        (MADE["a"][:-1], AFFINE, r"case a do not fit: shape \(15, 15, 8\)"),
        (MADE["a"], np.diag([1.0, 1.0, 3.0, 1.0]), "case a do not fit: affine"),
        (np.where(MADE["a"] > 100, np.nan, 1.0), AFFINE, "case a: a.nii.gz has .* voxels that are NaN or infinite"),
    ],
)
def test_predictions_that_do_not_fit_are_left_out(folders, array, affine, said):
    save(folders / "pred" / "a.nii.gz", array, affine)
    left_out(folders, said)


def test_a_blank_truth_and_a_thin_volume_are_left_out(folders):
    save(folders / "ref" / "a.nii.gz", np.zeros(SHAPE))
    left_out(folders, r"case a: .*a.nii.gz is 0 everywhere, so that there is no range to scale by")
    for side, volume in (("pred", MADE["a"]), ("ref", REAL["a"])):
        save(folders / side / "a.nii.gz", volume[..., :5])
    assert scored(folders)["cases"] == 2
    left_out(folders, r"case a: SSIM needs a 3D image of at least 7 pixels", emulate="official")


@pytest.mark.slow
def test_processes_write_what_one_writes(folders):
    written = {}
    for count in (1, 2):
        scored(folders, processes=count, overwrite=True)
        written[count] = [(folders / "out" / name).read_bytes() for name in ("cases.csv", "summary.json")]
    assert written[1] == written[2]
