"""Crop and normalization of one case."""

import numpy as np
import pytest

from jaxfuse.data.intensities import NORMALIZATIONS, normalization
from jaxfuse.data.preprocess import prepare_case, uncrop
from jaxfuse.engine.judging.assessment import whole_truth
from jaxfuse.labels import IGNORED
from tests.data.tiny_case import BOX, SHAPE, case_in_memory, class_map, intensities
from tests.made_cases import channels_of
from tests.refusals import refused


def test_crop_is_the_box_of_the_brain():
    prepared = prepare_case(case_in_memory())
    assert prepared.facts.shape == prepared.image.shape[:3] == (4, 2, 8)
    assert (prepared.facts.crop_start, prepared.facts.original_shape) == ((2, 3, 1), SHAPE)
    assert (prepared.image.dtype, prepared.image.flags.c_contiguous) == (np.float32, True)


def test_brain_normalization_is_over_voxels_that_any_modality_has():
    prepared = prepare_case(case_in_memory())
    brain = np.any(intensities() != 0, axis=-1)
    assert brain.sum() == 4 * 2 * 8 - 1
    np.testing.assert_array_equal(prepared.brain, np.flatnonzero(brain[BOX]))
    for m in range(2):
        inside = prepared.image.reshape(-1, 2)[prepared.brain, m]
        assert inside.mean(dtype=float) == pytest.approx(0, abs=1e-6)
        assert inside.std(dtype=float) == pytest.approx(1, abs=1e-6)
        values = intensities()[..., m][brain].astype(float)
        assert prepared.facts.mean[m] == pytest.approx(values.mean())
        assert prepared.facts.std[m] == pytest.approx(values.std())
    # Background within the box stays 0; a brain voxel that one modality lacks does not.
    np.testing.assert_array_equal(prepared.image[1, 1, 4], [0, 0])
    assert prepared.image[0, 0, 0, 0] == pytest.approx(-prepared.facts.mean[0] / prepared.facts.std[0])


def test_volume_normalization_counts_the_background():
    prepared = prepare_case(case_in_memory(), normalize=NORMALIZATIONS["volume"])
    whole = intensities().astype(float)
    mean, std = whole.mean((0, 1, 2)), whole.std((0, 1, 2))
    assert prepared.facts.crop_start == (0, 0, 0)
    np.testing.assert_allclose(prepared.image, (whole - mean) / std, atol=1e-5)


def test_ignored_voxels_are_of_no_class():
    label = class_map()
    ignored = np.flatnonzero(label)[0]
    label.flat[ignored] = label.flat[0] = IGNORED
    known, prepared = prepare_case(case_in_memory(), classes=5), prepare_case(case_in_memory(label=label), classes=5)
    assert sum(prepared.facts.voxels_per_class) == sum(known.facts.voxels_per_class) - 1
    assert (len(prepared.facts.voxels_per_class), len(prepared.tumor)) == (5, len(known.tumor) - 1)
    # Those outside the crop are still known to be ignored.
    assert (whole_truth(prepared) == IGNORED).sum() == 2


def test_tumor_indices_and_class_counts():
    prepared = prepare_case(case_in_memory(), classes=5)
    at = np.argwhere(np.isin(np.arange(64), prepared.tumor).reshape(4, 2, 8)).tolist()
    assert at == [[1, 0, 2], [1, 0, 3], [1, 0, 4], [2, 1, 3]]
    assert (len(prepared.tumor), prepared.facts.voxels_per_class) == (4, (60, 1, 2, 1, 0))
    bare = prepare_case(case_in_memory(label=None))
    assert (bare.label, bare.tumor.size, bare.facts.voxels_per_class) == (None, 0, ())


def test_uncrop_puts_every_voxel_back():
    prepared = prepare_case(case_in_memory())
    np.testing.assert_array_equal(uncrop(prepared.label, prepared, 0), class_map())
    whole = uncrop(prepared.image, prepared, -9)
    np.testing.assert_array_equal(whole[BOX], prepared.image)
    assert np.count_nonzero(whole == -9) == (np.prod(SHAPE) - 64) * 2
    refused(r"\(4, 2, 7\)", uncrop, np.zeros((4, 2, 7)), prepared, 0)


def test_empty_and_constant_images_are_refused():
    black = case_in_memory(channels=channels_of(np.zeros((*SHAPE, 2), np.float32)))
    refused("case c: every voxel of t1, flair is 0", prepare_case, black)
    constant = intensities()
    constant[..., 1][np.any(constant != 0, axis=-1)] = 7
    refused("case c: modality flair is 7 everywhere", prepare_case, case_in_memory(channels=channels_of(constant)))
    refused("choose brain or volume", normalization, "head")
