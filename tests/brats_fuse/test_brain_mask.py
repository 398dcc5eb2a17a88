"""Masks of a program that stands in for HD-BET: thresholded, with a header that has lost its place."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.brats_fuse.brain_mask import extract_brain, hd_bet_command, hd_bet_program, read_brain
from tests.made_cases import save_volume
from tests.refusals import refused

STAND_IN = f"""#!{sys.executable}
import sys
import nibabel as nib
import numpy as np
given, made = sys.argv[2], sys.argv[4]
assert sys.argv[1] == "-i" and sys.argv[3] == "-o" and given.endswith(".nii.gz") and "--save_bet_mask" in sys.argv
image = nib.load(given)
values = np.asarray(image.dataobj)
if values.max() > 900:
    sys.exit("CUDA is out of memory")
nib.save(nib.Nifti1Image((values > 500).astype(np.uint8), np.eye(4)), made[:-7] + "_bet.nii.gz")
"""
AFFINE = np.array([[0.0, 0, 2, -9], [-1, 0, 0, 5], [0, 3, 0, 4], [0, 0, 0, 1]])


@pytest.fixture
def program(tmp_path, monkeypatch) -> str:
    path = tmp_path / "bin" / "hd-bet"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o700)
    monkeypatch.setenv("PATH", str(path.parent))
    return hd_bet_program()


@pytest.mark.parametrize("name", ["t1.nii.gz", "t1.nii"])
def test_a_mask_lies_on_the_grid_of_its_image(tmp_path, program, name):
    values = np.random.default_rng(0).uniform(0, 800, (3, 4, 5)).astype(np.float32)
    image, mask = save_volume(tmp_path / name, values, affine=AFFINE), tmp_path / "out" / "A.nii.gz"
    extract_brain(image, mask, program=program, device="cpu")
    found = nib.load(mask)
    np.testing.assert_array_equal(found.affine, AFFINE)
    np.testing.assert_array_equal(np.asarray(found.dataobj), values > 500)
    np.testing.assert_array_equal(read_brain(mask), nib.as_closest_canonical(nib.load(image)).get_fdata() > 500)


def test_options_of_the_program():
    for device, more in (("cpu", "--disable_tta "), ("cuda", "")):
        made = hd_bet_command("hd-bet", Path("in.nii.gz"), Path("out.nii.gz"), device)
        assert " ".join(made) == f"hd-bet -i in.nii.gz -o out.nii.gz -device {device} {more}--save_bet_mask"


def test_what_goes_wrong_is_said(tmp_path, program, monkeypatch):
    def fails(value: float, message: str) -> None:
        image = save_volume(tmp_path / f"{value:g}.nii.gz", np.full((3, 4, 5), value, np.float32), affine=AFFINE)
        refused(message, extract_brain, image, tmp_path / "mask.nii.gz", program=program, device="cpu")
        assert not (tmp_path / "mask.nii.gz").exists()

    fails(1000, r"made no mask of .*1000.nii.gz \(exit code 1: CUDA is out of memory\); try it .* -device cpu")
    fails(1, "finds no brain in .*1.nii.gz")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("no program hd-bet on PATH", hd_bet_program)
