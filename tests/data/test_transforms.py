"""Random changes of an example: how often they act, by how much, and refusals."""

import numpy as np
import pytest

from jaxfuse.data.sampling import Draw
from jaxfuse.data.transforms import TRANSFORMS, apply_all, flip, intensity, names_of, transforms_from
from tests.refusals import refused

DRAW = Draw(3, (5, 4, -1))


def test_flip_acts_on_each_axis_by_itself_with_its_probability():
    assert flip(DRAW, np.random.default_rng(0), 2, probability=1.0) == Draw(3, (5, 4, -1), (0, 1, 2))
    rng = np.random.default_rng(1)
    assert flip(DRAW, rng, 2, probability=0.0) == DRAW
    drawn = [flip(DRAW, rng, 2, probability=0.3).mirrored for _ in range(2000)]
    flipped = np.array([[axis in axes for axis in range(3)] for axes in drawn])
    np.testing.assert_allclose(flipped.mean(0), 0.3, atol=0.045)
    assert np.corrcoef(flipped.T)[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.1)
    # Photographs have two axes to mirror.
    assert flip(Draw(0, (1, 2)), rng, 3, probability=1.0).mirrored == (0, 1)


def test_intensity_draws_one_gain_and_one_offset_a_modality_within_its_limits():
    drawn = [intensity(DRAW, np.random.default_rng(seed), 2, scale=0.2, shift=0.5) for seed in range(400)]
    assert all((one.case, one.start, one.mirrored) == (3, (5, 4, -1), ()) for one in drawn)
    gains, offsets = np.array([one.gain for one in drawn]), np.array([one.offset for one in drawn])
    assert gains.shape == offsets.shape == (400, 2)
    for found, low, high in ((gains, 0.8, 1.2), (offsets, -0.5, 0.5)):
        assert low <= found.min() < low + 0.02 < high - 0.02 < found.max() <= high
        assert np.corrcoef(found.T)[0, 1] == pytest.approx(0, abs=0.15)
    # Values that float32 holds: the step of a device that is given them changes an image by the same bits.
    assert (gains == gains.astype(np.float32)).all()


def test_only_what_is_switched_on_is_applied_in_order():
    off = {"flip": {"probability": 0.0}, "intensity": {"scale": 0.0, "shift": 0.0}}
    assert transforms_from(off) == transforms_from({}) == ()
    both = transforms_from({"intensity": {"scale": 0.1, "shift": 0.0}, "flip": {"probability": 0.5}})
    assert [t.func.__name__ for t in both] == list(TRANSFORMS) == ["flip", "intensity"]
    rng = np.random.default_rng(4)
    expected = intensity(flip(DRAW, rng, 2, probability=0.5), rng, 2, scale=0.1, shift=0.0)
    assert apply_all(both, DRAW, np.random.default_rng(4), 2) == expected


def test_unknown_names_and_settings_are_refused():
    refused("augment names elastic; choose from flip, intensity", transforms_from, {"elastic": {}})
    refused(r"augment.flip has no option chance; it has probability", transforms_from, {"flip": {"chance": 1.0}})


def test_transforms_that_are_switched_on_are_known_by_name():
    assert names_of(transforms_from({"intensity": {"shift": 0.1}, "flip": {"probability": 0.5}})) == [
        "flip",
        "intensity",
    ]
    assert names_of(transforms_from({"intensity": {"shift": 0.0}, "flip": {"probability": 0.5}})) == ["flip"]
