"""Harder phantom gliomas: each option moves what it should, the usual ones stay what they were."""

import dataclasses

import numpy as np
import pytest

from jaxfuse.data.phantom.brats import make_case, write_brats_phantoms
from jaxfuse.data.phantom.looks import PLAIN, Looks
from jaxfuse.data.phantom.signal import TISSUES_3T
from jaxfuse.data.settings import read_data
from jaxfuse.recipes import brats_data, volume_data
from tests.refusals import refused

SMALL = {"shape": (32, 32, 24), "spacing_mm": 6.0}


def drawn(looks=PLAIN, **options):
    return make_case(3, 0, **SMALL, looks=looks, **options)


@pytest.fixture(scope="module")
def usual():
    return drawn()


def _above(images, label):
    """The mean of the tumor on FLAIR less that of the rest of the brain, in standard deviations of the rest."""
    image, brain = images["flair"], images["flair"] > 0
    rest = image[brain & (label == 0)]
    return (image[label > 0].mean() - rest.mean()) / rest.std()


def test_less_contrast_brings_the_same_tumor_nearer_to_the_brain(usual):
    images, label = drawn(Looks(contrast=0.4))
    np.testing.assert_array_equal(label, usual[1])
    assert 0 < _above(images, label) < 0.75 * _above(*usual)
    # Healthy tissue differs by the gain alone, which is set by the mean of the brain.
    healthy = [one["flair"][(one["flair"] > 50) & (label == 0)] for one in (images, usual[0])]
    ratio = healthy[0] / healthy[1]
    assert np.percentile(ratio, 90) / np.percentile(ratio, 10) < 1.05


def test_contrast_is_a_power_of_the_ratio_to_white_matter():
    faded, white = Looks(contrast=0.5).faded(TISSUES_3T), TISSUES_3T["white"]
    expected = [np.sqrt(own * plain) for own, plain in zip(TISSUES_3T["edema"], white, strict=True)]
    assert faded["edema"] == pytest.approx(expected)
    assert {name for name in faded if faded[name] != TISSUES_3T[name]} == {
        "edema",
        "non-enhancing",
        "enhancing",
        "necrosis",
    }
    assert PLAIN.faded(TISSUES_3T) == TISSUES_3T


def test_noise_grows_by_its_factor_and_nothing_else_changes(usual):
    (twice, label), (none, _) = drawn(Looks(noise_scale=2.0)), drawn(Looks(noise_scale=0.0))
    np.testing.assert_array_equal(label, usual[1])
    inside = none["t1"] > 50
    spread = [float((one["t1"] - none["t1"])[inside].std()) for one in (usual[0], twice)]
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.05)
    clean, _ = drawn(noise=False)
    np.testing.assert_allclose(none["t1"], clean["t1"], rtol=1e-6)


def test_small_lesions_are_small_in_all_their_parts(usual):
    _, label = drawn(Looks(lesion_mm=12.0))
    whole, core = (
        ((one > 0).sum() for one in (label, usual[1])),
        ((one == 1).sum() + (one == 4).sum() for one in (label, usual[1])),
    )
    for small, large in (whole, core):
        assert 0.2 * large < small < 0.6 * large  # (12 / 17)^3 = 0.35


def test_mimics_leave_the_tumor_alone(usual):
    (more, label), (none, _) = drawn(Looks(mimics=4.0)), drawn(Looks(mimics=0.0))
    np.testing.assert_array_equal(label, usual[1])
    bright = [np.percentile(one["flair"][(label == 0) & (one["flair"] > 50)], 99) for one in (none, usual[0], more)]
    assert bright[0] < bright[2]


def test_a_data_set_tells_in_what_it_departs(tmp_path):
    write_brats_phantoms(tmp_path / "hard", cases=1, seed=0, **SMALL, looks=Looks(lesion_mm=13.0))
    write_brats_phantoms(tmp_path / "hard", cases=1, seed=0, **SMALL, looks=Looks(lesion_mm=13.0))
    refused(
        "lesion_mm 13.0 there and None asked for", write_brats_phantoms, tmp_path / "hard", cases=1, seed=0, **SMALL
    )


def test_looks_are_options_of_gliomas():
    sizes = {"modalities": ("t1", "flair"), "shape": (32, 32, 24), "cases": 2, "spacing_mm": 6.0}
    options = brats_data(**sizes)
    assert read_data("data", options).phantom.looks == PLAIN
    options.phantom.update({"contrast": 0.5, "mimics": 2.0})
    found = read_data("data", options).phantom
    assert found.looks == Looks(contrast=0.5, mimics=2.0)
    assert dataclasses.replace(found, contrast=1.0, mimics=1.0).looks.told == {}
    options.phantom.lesion_mm = 9.0
    refused(
        "data.phantom.lesion_mm is 9, and voxels have 6 mm; choose a radius of at least two voxels",
        read_data,
        "data",
        options,
    )
    other = volume_data(source="stroke", **sizes)
    other.phantom.contrast = 0.5
    refused("data.phantom.contrast is 0.5, which only phantoms of gliomas have", read_data, "data", other)
