"""Stored values below the background, or a background that is not 0, in scores of synthesized volumes."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.io.tables import read_rows
from jaxfuse.scoring.protocol import Call
from jaxfuse.scoring.synthesis import score_synthesis
from tests.faults.catalogue import given, table
from tests.made_cases import ellipsoid, save_volume

SHAPE = (40, 40, 30)
HEAD = ellipsoid(SHAPE, (16, 17, 11))
REAL = np.where(HEAD, np.random.default_rng(0).normal(300, 60, SHAPE), 0).astype(np.float32)


def changed(value, *at):
    image = REAL.copy()
    image[at] = value
    return image


def scores(folder, real, made):
    """The scores of one case, by metric."""
    save_volume(folder / "ref" / "a.nii.gz", real)
    save_volume(folder / "pred" / "a.nii.gz", made)
    score_synthesis(folder / "pred", folder / "ref", folder / "out", Call(), target=None, emulate=None, window=None)
    (row,) = read_rows(folder / "out" / "cases.csv")
    return {metric: row[metric] for metric in ("psnr_db", "nmse", "ssim")}


NOISE = np.where(HEAD, REAL, np.random.default_rng(1).normal(0, 1e-3, SHAPE)).astype(np.float32)


@table(
    "real",
    ("a real volume from 0 up", "0.3² = 0.09, if 0.7 of it is made", REAL),
    ("a least value of -44 beside a background of 0", "the same NMSE", changed(-44, 20, 20, slice(10, 20))),
    ("one voxel of -1000", "the same NMSE", changed(-1000, 20, 20, 15)),
    ("noise of 1e-3 around the head", "the same NMSE", NOISE),
)
def test_errors_are_measured_from_the_background(tmp_path, real):
    assert scores(tmp_path, real, (0.7 * real).astype(np.float32))["nmse"] == pytest.approx(0.09, rel=1e-4)


@given("one voxel of -1000 in the real volume", "PSNR moves by less than 0.2 dB, SSIM by less than 0.005")
def test_an_outlier_changes_nothing_that_matters(tmp_path):
    made = (0.7 * REAL).astype(np.float32)
    plain, outlier = scores(tmp_path, REAL, made), scores(tmp_path, changed(-1000, 20, 20, 15), made)
    assert outlier["psnr_db"] == pytest.approx(plain["psnr_db"], abs=0.2)
    assert outlier["ssim"] == pytest.approx(plain["ssim"], abs=5e-3)


@given("a background of -1024 in both volumes", "the scores of the same volumes with a background of 0")
def test_a_background_below_zero_scores_as_one_of_0(tmp_path):
    made = (0.7 * REAL).astype(np.float32)
    assert scores(tmp_path, REAL - 1024, made - 1024) == pytest.approx(scores(tmp_path, REAL, made), rel=1e-4)


@given("blank slices in a file whose least value lies below them", "they do not count for SSIM")
def test_blank_slices_are_those_of_the_file(tmp_path):
    real = changed(-44, 20, 20, slice(10, 20))
    rough = (real + np.where(HEAD, 50 * np.random.default_rng(2).normal(size=SHAPE), 0)).astype(np.float32)
    more = [np.pad(image, ((0, 0), (0, 0), (9, 9))) for image in (real, rough)]
    assert scores(tmp_path, *more)["ssim"] == pytest.approx(scores(tmp_path, real, rough)["ssim"], rel=1e-6)


@given("a FLAIR of glioma whose least value is -45, and 0.7 of it made", "NMSE 0.09")
def test_a_real_volume(shared_data, tmp_path):
    path = shared_data / "tcga_lgg_brats" / "TCGA-FG-6692" / "TCGA-FG-6692_flair.nii.gz"
    real = nib.load(path).get_fdata(dtype=np.float32)[::2, ::2, ::2]
    assert real.min() < 0
    assert scores(tmp_path, real, (0.7 * real).astype(np.float32))["nmse"] == pytest.approx(0.09, rel=1e-4)
