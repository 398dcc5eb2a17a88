"""Scaling to [0, 1] by the whole range or onto landmarks, and the way back."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cases import Case
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.intensities import (
    DARKEST,
    LANDMARKS,
    MATCHED,
    NORMALIZATIONS,
    apply_scaling,
    landmarks_of,
    learned_landmarks,
    matched,
    restore,
    scaling_of,
    stored_range,
)
from jaxfuse.data.preprocess import prepare_case, uncrop
from tests.made_cases import channels_of
from tests.refusals import refused

BOX = (slice(1, 11), slice(0, 10), slice(1, 11))


def case(t1, flair, id_: str = "c") -> Case:
    """1000 brain voxels of these stored values in a volume of 12 x 10 x 12, background around them."""
    image = np.zeros((12, 10, 12, 2), np.float32)
    for channel, values in enumerate((t1, flair)):
        image[(*BOX, channel)] = np.asarray(values, np.float32).reshape(10, 10, 10)
    return Case(id_, ("t1", "flair"), channels_of(image), None, np.eye(4), (1.0, 1.0, 1.0))


def prepared_by(name, given, **options):
    return prepare_case(given, normalize=NORMALIZATIONS[name], **options)


COUNT = np.arange(1, 1001)  # its percentile p is 1 + 9.99 p


def test_minmax_is_a_line_through_the_whole_range_and_the_background_is_0():
    prepared = prepared_by("minmax", case(COUNT, COUNT - 201))
    np.testing.assert_allclose(prepared.image[..., 0].ravel(), COUNT / 1000, atol=1e-7)
    # From -200 to 799, so that a stored 0 within the brain is at 200 / 999; the background is not.
    np.testing.assert_allclose(prepared.image[..., 1].ravel(), (COUNT - 1) / 999, atol=1e-7)
    whole = uncrop(prepared.image, prepared, 0)
    assert (np.count_nonzero(whole[..., 0]), whole.min(), whole.max()) == (1000, 0, 1)
    assert prepared.facts.scaling == (((0.0, 0.0), (1000.0, 1.0)), ((-200.0, 0.0), (799.0, 1.0)))
    assert stored_range(prepared.facts, "flair") == (-200, 799)


def test_background_within_the_box_stays_0_where_values_go_below_it():
    given = case(COUNT, COUNT - 201)
    for channel in given.channels:
        channel[1, 5, 5] = 0
    prepared = prepared_by("minmax", given)
    assert (prepared.image[0, 5, 4].tolist(), len(prepared.brain)) == ([0, 0], 999)


def test_minmax_is_undone_exactly():
    stored = np.random.default_rng(0).integers(-300, 4096, (2, 1000))
    prepared = prepared_by("minmax", case(*stored))
    for channel, modality in enumerate(("t1", "flair")):
        back = restore(prepared.image[..., channel], prepared.facts, modality).ravel()
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, stored[channel], atol=1e-3)


def test_percentiles_of_the_brain_become_the_landmarks():
    prepared = prepared_by("histmatch", case(COUNT, 5 * COUNT + 70))
    for channel, modality in enumerate(("t1", "flair")):
        at = np.percentile(prepared.image[..., channel], MATCHED)
        np.testing.assert_allclose(at, LANDMARKS[modality], atol=1e-3)
    t1 = prepared.image[..., 0].ravel()
    assert (t1[0], t1[-1]) == (0, 1)
    # Halfway between the median 500.5 and the upper quartile 750.25, straight from 190 to 215 of 255.
    assert t1[624] == pytest.approx((190 + 25 * (625 - 500.5) / 249.75) / 255, abs=1e-6)
    assert prepared.facts.scaling[1][6] == (pytest.approx(5 * 750.25 + 70), pytest.approx(178 / 255))


def test_all_brains_have_one_histogram_whatever_their_contrast():
    values = np.random.default_rng(1).gamma(3, 200, (2, 1000)) + 1
    first, second = (prepared_by("histmatch", case(v, v**2)) for v in values)
    assert first.image[..., 0].mean() == pytest.approx(second.image[..., 0].mean(), abs=0.005)
    np.testing.assert_allclose(first.image[..., 0].mean() * 255, 183, atol=4)  # of published images: 184.3


def test_histmatch_is_undone_up_to_its_last_percentile():
    prepared = prepared_by("histmatch", case(COUNT, 3 * COUNT))
    back = restore(prepared.image[..., 1], prepared.facts, "flair").ravel()
    np.testing.assert_allclose(back[:999], 3 * COUNT[:999], rtol=1e-4)
    assert back[-1] == pytest.approx(3 * (1 + 9.99 * 99.9))
    assert stored_range(prepared.facts, "flair") == (3, pytest.approx(3 * (1 + 9.99 * 99.9)))


def test_percentiles_that_fall_together_count_once():
    # Of 1000 values 200 are 7, the rest 8 to 807: percentiles 1, 5 and 10 fall on 7, as the least value does.
    values = np.maximum(np.arange(-192, 808), 7).astype(np.float32)
    scaling = matched("c", "t1", values, LANDMARKS["t1"])
    assert (scaling[0], len(scaling)) == ((7, LANDMARKS["t1"][2]), len(MATCHED) + 1 - 3)
    assert apply_scaling(values, scaling).min() == np.float32(LANDMARKS["t1"][2])
    flat = np.full(5, 7, np.float32)
    refused("case c: modality t1 is 7 in nearly all of the brain", matched, "c", "t1", flat, LANDMARKS["t1"])


def test_modalities_without_landmarks_are_refused():
    assert tuple(landmarks_of(("t2", "t1ce"))) == ("t2", "t1ce")
    assert all(len(marks) == len(MATCHED) and list(marks) == sorted(set(marks)) for marks in LANDMARKS.values())
    only = r"no landmarks for dwi, only for t1, t1ce, t2, flair; name a case .*data.reference"
    refused(only, landmarks_of, ("t1", "dwi"))
    given = replace(case(COUNT, COUNT), modalities=("t1", "dwi"))
    refused("no landmarks for dwi", prepare_case, given, normalize=NORMALIZATIONS["histmatch"])


def test_landmarks_are_learned_from_a_reference():
    learned = learned_landmarks(case(COUNT, 2.0 * COUNT**2))
    percentiles = 1 + 9.99 * np.array(MATCHED)
    np.testing.assert_allclose(learned["t1"], percentiles / percentiles[-1])
    assert learned["flair"][-1] == 1
    # The curved contrast of another volume is bent straight onto the reference.
    prepared = prepared_by("histmatch", case(np.sqrt(COUNT), COUNT), landmarks=learned)
    np.testing.assert_allclose(np.percentile(prepared.image[..., 0], MATCHED), learned["t1"], atol=1e-3)
    message = "case c: flair is 0 everywhere and nothing can be matched to it"
    refused(message, learned_landmarks, case(COUNT, np.zeros(1000)))


def test_percentiles_are_undone_between_them_and_z_scores_have_no_range():
    prepared = prepared_by("percentiles", case(COUNT, COUNT))
    assert scaling_of(prepared.facts, "t1") == ((pytest.approx(5.995), DARKEST), (pytest.approx(995.005), 1.0))
    back = restore(prepared.image[..., 0], prepared.facts, "t1").ravel()
    np.testing.assert_allclose(back[10:990], COUNT[10:990], rtol=1e-4)
    for name in ("brain", "volume"):
        facts: CaseFacts = prepared_by(name, case(COUNT, COUNT)).facts
        refused(r"case c was not scaled to \[0, 1\]; normalize by one of percentiles", restore, back, facts, "t1")
    refused("case c has no t2; it has t1, flair", restore, back, prepared.facts, "t2")


@pytest.mark.parametrize("name", ["brain", "percentiles", "minmax", "histmatch"])
def test_what_is_kept_of_a_volume_does_not_change_its_intensities(name):
    given = case(COUNT, np.roll(COUNT, 7))
    whole = prepared_by(name, given)
    part = prepared_by(name, given, extent=(slice(2, 5), None, slice(None)))
    assert (part.facts.crop_start, part.facts.shape) == ((2, 0, 0), (3, 10, 12))
    np.testing.assert_array_equal(part.image, uncrop(whole.image, whole, 0)[2:5])
    assert (part.facts.scaling, part.facts.mean) == (whole.facts.scaling, whole.facts.mean)


@pytest.mark.parametrize("name", ["minmax", "histmatch"])
def test_real_brains(real_brain, name):
    stored = nib.load(real_brain("flair")).get_fdata(dtype=np.float32)
    given = Case("c", ("flair",), [stored], None, np.eye(4), (1.0, 1.0, 1.0))
    prepared = prepared_by(name, given)
    brain = prepared.image.ravel()[prepared.brain]
    assert (0 <= brain.min() < 0.2, brain.max()) == (True, 1)
    if name == "histmatch":  # of published images: 156.2
        assert brain.mean(dtype=float) * 255 == pytest.approx(156.2, abs=3)
    else:
        back = uncrop(restore(prepared.image[..., 0], prepared.facts, "flair"), prepared, 0)
        # What is darker than the background, by interpolation, became the background.
        np.testing.assert_allclose(np.where(stored != 0, back, 0), np.maximum(stored, 0), rtol=1e-5, atol=1e-3)
