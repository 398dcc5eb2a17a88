import base64
import zlib

import numpy as np
import pytest

from jaxfuse.report.pictured import Pictured
from jaxfuse.report.slices import sliced
from tests.made_cases import ellipsoid, nested_cubes

SHAPE = (20, 18, 12)
NOTES = [
    f"{levels} gray levels and means of {step} x {step} x {step} voxels" for levels, step in ((64, 2), (64, 3), (32, 4))
]


def pictured(image: np.ndarray | None, **predictions: np.ndarray) -> Pictured:
    truth = nested_cubes(SHAPE, {1: 4, 2: 2})
    return Pictured(image, "t1", truth, predictions, (1.0, 1.0, 2.0))


def unpacked(packed: dict, shape: list[int]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(shape)


def noise() -> np.ndarray:
    return np.where(ellipsoid(SHAPE, (7, 6, 5)), np.random.default_rng(0).integers(1, 1000, SHAPE), 0)


def test_volumes_come_back_cropped_to_the_head():
    image, moved = noise(), np.roll(nested_cubes(SHAPE, {1: 4, 2: 2}), 1, axis=1)
    found = sliced("a", pictured(image, A=moved), 100_000)
    document = found.document
    shape, offset = document["shape"], document["offset"]
    box = tuple(slice(start, start + side) for start, side in zip(offset, shape, strict=True))
    assert (box[0], found.note) == (slice(1, 19), "")
    assert np.count_nonzero(image[box]) == np.count_nonzero(image)
    assert [layer["name"] for layer in document["layers"]] == ["", "A"]
    np.testing.assert_array_equal(unpacked(document["layers"][0], shape), nested_cubes(SHAPE, {1: 4, 2: 2})[box])
    np.testing.assert_array_equal(unpacked(document["layers"][1], shape), moved[box])
    low, high = np.quantile(image[image > 0], (0.005, 0.995))
    expected = np.where(image > 0, (image - low) / (high - low), 0).clip(0, 1)[box] * 256
    np.testing.assert_allclose(unpacked(document["image"], shape), expected, atol=1.0)
    assert [start + place for start, place in zip(offset, document["start"], strict=True)] == [10, 9, 6]


def test_an_image_is_as_coarse_as_the_room_asks_and_says_so():
    shown, limit, notes = pictured(noise()), 100_000, []
    while (found := sliced("a", shown, limit)) is not None:
        assert found.size <= limit
        limit = found.size - 1  # a byte too few
        notes.append(found.note)
    assert notes == ["", "64 gray levels", "32 gray levels", *NOTES, "no image"]


def test_without_an_image_the_box_is_that_of_all_labels():
    far = np.zeros(SHAPE, np.uint8)
    far[2, 9, 6] = 1
    document = sliced("a", pictured(None, A=far), 10_000).document
    assert document["image"] is None
    # From the voxel of the prediction to the last of the truth, with a margin of two.
    assert (document["offset"][0], document["offset"][0] + document["shape"][0]) == (0, 16)


def test_values_that_are_not_finite_are_dark():
    image = noise().astype(np.float32)
    image[10, 9, 6] = np.nan
    document = sliced("a", pictured(image), 100_000).document
    place = tuple(at - start for at, start in zip((10, 9, 6), document["offset"], strict=True))
    assert unpacked(document["image"], document["shape"])[place] == 0


@pytest.mark.parametrize("shape", [(16, 12, 1), (1, 1, 1)])
def test_a_single_slice_is_scrolled_through_too(shape):
    image = np.ones(shape, np.float32)
    shown = Pictured(image, "t1", np.ones(shape, np.uint8), {}, (1.0, 1.0, 1.0))
    assert sliced("a", shown, 10_000).document["shape"] == list(shape)
