"""Background that is not exactly 0: noise, another value, single voxels, or content that happens to be 0."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from jaxfuse.data.brain import find_brain
from jaxfuse.data.cases import Case
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.data.verify import verify
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, channels_of, ellipsoid, write_case

SHAPE = (48, 48, 36)
HEAD = ellipsoid(SHAPE, (20, 20, 15))
OUTSIDE = ~HEAD
LOWER = OUTSIDE & (np.arange(36) < 18)
STORED = np.where(HEAD[..., None], np.random.default_rng(0).normal(303.2, 32.3, (*SHAPE, 4)), 0).astype(np.float32)


def noise(where, sigma, *, whole=False):
    image = STORED.copy()
    image[where] += np.random.default_rng(1).normal(0, sigma, (where.sum(), 4))
    return np.rint(image).astype(np.float32) if whole else image


def with_value(value, where):
    image = STORED.copy()
    image[where] = value
    return image


def case(image):
    return Case("a", MODALITIES, channels_of(image), None, np.eye(4), (1.0, 1.0, 1.0))


def with_modality(values):
    return np.concatenate([STORED[..., :3], values[..., None].astype(np.float32)], axis=-1)


HEADS = (
    ("noise of sigma 1e-4 in half of the background, the other half exactly 0", noise(LOWER, 1e-4)),
    ("noise of sigma 1e-4 all around the head", noise(OUTSIDE, 1e-4)),
    ("noise of half a percent of the intensities", noise(OUTSIDE, 1.5)),
    ("whole numbers from -2 to 2 in the background", noise(OUTSIDE, 0.7, whole=True)),
    ("noise in one corner of the volume", noise(OUTSIDE & (np.indices(SHAPE).sum(0) < 14), 1e-4)),
    ("a background of -1024", with_value(-1024, OUTSIDE)),
    ("one bright voxel in a corner", with_value(4000, (0, 0, 0))),
    ("one voxel of -1000 in a corner", with_value(-1000, (47, 47, 35))),
    ("one voxel of 0 within the head", with_value(0, (24, 24, 18))),
    (
        "one modality of noise alone",
        with_modality(9 * np.random.default_rng(2).random(SHAPE)),
    ),
)


@table("image", *((f"a head with {what}", "crop and moments are those of the head", image) for what, image in HEADS))
def test_the_brain_is_the_head(image):
    prepared = prepare_case(case(image))
    assert prepared.facts.shape == (40, 40, 30)
    values = STORED[HEAD][:, 0].astype(float)
    assert prepared.facts.mean[0] == pytest.approx(values.mean(), rel=1e-3)
    assert prepared.facts.std[0] == pytest.approx(values.std(), rel=0.02)
    assert len(prepared.brain) == HEAD.sum()


@given("volumes whose background is exactly 0", "their brain is what is not 0, bit by bit")
def test_an_exact_background_stays_what_it_was():
    np.testing.assert_array_equal(find_brain(STORED).mask, np.any(STORED != 0, axis=-1))
    cut = STORED[8:40, 8:40, 6:30]
    np.testing.assert_array_equal(find_brain(cut).mask, HEAD[8:40, 8:40, 6:30])


@given("a head resampled by cubic splines, which ring", "the brain is the head and a rim, not the whole volume")
def test_ringing_is_no_brain():
    moved = np.stack([ndimage.shift(STORED[..., c], (0.5, 0.3, 0.2), order=3) for c in range(4)], axis=-1)
    assert np.count_nonzero(moved) > 0.9 * moved.size
    assert prepare_case(case(moved)).facts.shape <= (46, 46, 36)
    assert find_brain(moved).mask.sum() < 1.4 * HEAD.sum()


UNTOLD = (
    ("noise of a tenth of the intensities around the head", noise(OUTSIDE, 30)),
    ("such noise in half of the background, the other half 0", noise(LOWER, 30)),
    ("a head that fills the volume", STORED[14:34, 14:34, 11:25]),
)


@table(
    "image", *((what, "every voxel is brain, and one warning says so of each image", image) for what, image in UNTOLD)
)
def test_what_cannot_be_told_is_said(tmp_path, image):
    write_case(tmp_path, "a", dict(zip(MODALITIES, np.moveaxis(image, -1, 0), strict=True)))
    assert find_brain(image).mask.all()
    said = [p.message for p in verify(tmp_path).problems if "background" in p.message]
    assert len(said) == 4
    assert all("has no background that can be told" in text and "data.background" in text for text in said)


@given(
    "BraTS 2015 with a background of -3.8 to -6.2, as it is or with one voxel of the brain set to 0",
    "the brain of its mask; verify names the value either way",
)
def test_a_background_below_zero(shared_data, tmp_path):
    folder = shared_data / "brats2015_2mod" / "brats_2013_pat0004_1"
    images = {name: nib.load(folder / f"{folder.name}_{name}.nii.gz") for name in ("t1ce", "flair", "brainmask")}
    arrays = {name: image.get_fdata(dtype=np.float32)[::2, ::2, ::2] for name, image in images.items()}
    told = []
    for number in range(2):
        arrays["flair"][60, 60, 40] *= 1 - number
        write_case(tmp_path, "a", {name: arrays[name] for name in ("t1ce", "flair")})
        mask = find_brain(np.stack([arrays["t1ce"], arrays["flair"]], -1)).mask
        assert np.count_nonzero(mask != (arrays["brainmask"] > 0.5)) < 10
        told.append([p.message for p in verify(tmp_path, modalities=("t1ce", "flair")).problems])
    assert told[0] == told[1]
    assert [text for text in told[0] if "has the background -5.34" in text]


@given("interpolation left -44 beside a background of 0, or one voxel is -1000", "scaled from the background up")
def test_the_background_is_the_dark_end():
    dark = STORED.copy()
    dark[24, 24, 10:20] = -44
    outlier = dark.copy()
    outlier[24, 24, 18] = -1000
    for image in (dark, outlier):
        facts = prepare_case(case(image), normalize=NORMALIZATIONS["minmax"]).facts
        assert [line[0] for line in facts.scaling] == [(0, 0)] * 4


@given("intensities of mean 0 within the brain and a background of 0", "the brain, and all of its range")
def test_standardized_intensities():
    centered = np.where(HEAD[..., None], (STORED - 303.2) / 32.3, 0).astype(np.float32)
    prepared = prepare_case(case(centered), normalize=NORMALIZATIONS["minmax"])
    assert len(prepared.brain) == HEAD.sum()
    assert prepared.facts.scaling[0][0][0] == centered[..., 0].min()


@given("lesions of multiple sclerosis: values below 0 within the brain", "the brain is what is not 0")
def test_real_values_below_zero(shared_data):
    folder = shared_data / "ms_lesion_mni" / "patient19"
    stored = [nib.load(folder / f"patient19_{name}.nii.gz").get_fdata(dtype=np.float32) for name in ("t1", "flair")]
    image = np.stack(stored, axis=-1)
    np.testing.assert_array_equal(find_brain(image).mask, np.any(image != 0, axis=-1))
