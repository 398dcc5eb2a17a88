"""Random changes of an example: what they keep, how often they act, and refusals."""

import numpy as np
import pytest

from jaxfuse.data.transforms import TRANSFORMS, apply_all, flip, intensity, transforms_from
from tests.refusals import refused


def _example():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 4, 3, 2)).astype(np.float32)
    image[0] = 0
    return {"image": image, "label": rng.integers(0, 4, (5, 4, 3)).astype(np.int32)}


def test_flip_with_certainty_mirrors_every_axis_of_image_and_label_alike():
    example = _example()
    flipped = flip(example, np.random.default_rng(0), probability=1.0)
    np.testing.assert_array_equal(flipped["image"], example["image"][::-1, ::-1, ::-1])
    np.testing.assert_array_equal(flipped["label"], example["label"][::-1, ::-1, ::-1])
    assert flipped["image"].flags["C_CONTIGUOUS"]


def test_flip_acts_on_each_axis_by_itself_with_its_probability():
    index = {"image": np.stack(np.indices((2, 2, 2)), -1).astype(np.float32)}
    rng = np.random.default_rng(1)
    # The first voxel's indices say which axes were mirrored.
    flipped = np.array([flip(index, rng, probability=0.3)["image"][0, 0, 0] for _ in range(2000)])
    np.testing.assert_allclose(flipped.mean(0), 0.3, atol=0.045)
    assert np.corrcoef(flipped.T)[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.1)
    np.testing.assert_array_equal(flip(_example(), rng, probability=0.0)["image"], _example()["image"])
    # Photographs have two axes to mirror.
    image = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(flip({"image": image}, rng, probability=1.0)["image"], image[::-1, ::-1])


def test_intensity_is_one_line_per_modality_and_leaves_background_and_label():
    example = _example()
    changed = intensity(example, np.random.default_rng(2), scale=0.2, shift=0.5)
    assert changed["label"] is example["label"]
    assert changed["image"].dtype == np.float32
    np.testing.assert_array_equal(changed["image"][0], 0)
    gains = []
    for m in range(2):
        x, y = example["image"][1:, ..., m].ravel(), changed["image"][1:, ..., m].ravel()
        gain, offset = np.polyfit(x, y, 1)
        np.testing.assert_allclose(y, gain * x + offset, atol=1e-5)
        assert 0.8 <= gain <= 1.2
        assert -0.5 <= offset <= 0.5
        gains.append(gain)
    assert gains[0] != pytest.approx(gains[1], abs=1e-3)


def test_intensity_of_a_voxel_that_only_one_modality_has_counts_as_brain():
    image = np.array([[[0.0, 2.0], [0.0, 0.0]]], np.float32)
    changed = intensity({"image": image}, np.random.default_rng(0), scale=0.0, shift=1.0)["image"]
    assert changed[0, 0, 0] != 0
    np.testing.assert_array_equal(changed[0, 1], 0)


def test_only_what_is_switched_on_is_applied_in_order():
    off = {"flip": {"probability": 0.0}, "intensity": {"scale": 0.0, "shift": 0.0}}
    assert transforms_from(off) == transforms_from({}) == ()
    both = transforms_from({"intensity": {"scale": 0.1, "shift": 0.0}, "flip": {"probability": 0.5}})
    assert [t.func.__name__ for t in both] == list(TRANSFORMS) == ["flip", "intensity"]
    rng = np.random.default_rng(4)
    expected = intensity(flip(_example(), rng, probability=0.5), rng, scale=0.1, shift=0.0)
    made = apply_all(both, _example(), np.random.default_rng(4))
    np.testing.assert_array_equal(made["image"], expected["image"])


def test_unknown_names_and_settings_are_refused():
    refused("augment names elastic; choose from flip, intensity", transforms_from, {"elastic": {}})
    refused(r"augment.flip has no option chance; it has probability", transforms_from, {"flip": {"chance": 1.0}})
