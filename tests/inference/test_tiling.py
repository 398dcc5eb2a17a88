"""Whole images from tiles, with predictors whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.inference.canvas import windows_of
from jaxfuse.inference.tiling import Asked, canvas_bytes, label_of, output_channels
from jaxfuse.patches import tile_volume
from tests.tiles import by_hand, predict_image
from tests.tiny_systems import Valid

RNG = np.random.default_rng(0)


def identity(tiles):
    return {"same": tiles["image"], "double": 2 * tiles["image"][..., :1], "unasked": tiles["image"]}


def centered(tiles):
    """An answer that depends on the whole tile, but on each tile of a batch alone."""
    image = tiles["image"]
    return {"centered": image - image.mean(tuple(range(1, image.ndim - 1)), keepdims=True)}


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(20, 9, 17), (5, 8, 3), (13, 6)])
def test_a_tiled_identity_returns_the_volume_or_photograph(shape, overlap, batch):
    image, seen = RNG.normal(size=(*shape, 2)).astype(np.float32), []

    def noting(tiles):
        seen.append(tiles["image"].shape)
        return identity(tiles)

    tile = (8,) * len(shape)
    tiling = tile_volume(shape, tile, overlap=overlap)
    outputs = predict_image(noting, image, tiling, values=("same", "double"), batch=batch, overlap=overlap)
    assert set(outputs) == {"same", "double"}
    assert set(seen) == {(batch, *tile, 2)}
    np.testing.assert_allclose(outputs["same"], image, rtol=1e-6)
    np.testing.assert_allclose(outputs["double"], 2 * image[..., :1], rtol=1e-6)
    assert outputs["double"].dtype == np.float32


@pytest.mark.parametrize(("overlap", "batch"), [(0.25, 1), (0.25, 5), (0.6, 3)])
def test_overlapping_tiles_count_equally_and_any_batch_gives_the_same(overlap, batch):
    image = RNG.normal(size=(20, 15, 11, 2)).astype(np.float32)
    tiling = tile_volume(image.shape[:3], (8, 8, 8), overlap=overlap)
    made = predict_image(centered, image, tiling, values=("centered",), batch=batch, overlap=overlap)["centered"]
    expected = by_hand(lambda tiles: centered(tiles)["centered"], image, tiling)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_labels_are_the_most_probable_classes_of_the_mean_and_alone_leave_the_device():
    image = RNG.normal(size=(12, 10, 9, 5)).astype(np.float32)
    tiling = tile_volume(image.shape[:3], (8, 8, 8), overlap=0.5)
    outputs = predict_image(centered, image, tiling, labels=("centered", "absent"), overlap=0.5)
    assert {name: (one.dtype, one.shape) for name, one in outputs.items()} == {"centered": (np.uint8, (12, 10, 9))}
    mean = by_hand(lambda tiles: centered(tiles)["centered"], image, tiling)
    np.testing.assert_array_equal(outputs["centered"], mean.argmax(-1))


@pytest.mark.parametrize(("overlap", "batch"), [(0.0, 4), (0.5, 3)])
def test_every_picture_of_a_stack_is_tiled_alone(overlap, batch):
    stack = RNG.normal(size=(5, 13, 6, 2)).astype(np.float32)
    tiling = tile_volume(stack.shape[:3], (1, 8, 8), overlap=overlap)
    options = {"values": ("centered",), "batch": batch, "overlap": overlap}
    made = predict_image(centered, stack, tiling, **options, stacked=True)["centered"]
    tiling = tile_volume((13, 6), (8, 8), overlap=overlap)
    for picture, found in zip(stack, made, strict=True):
        expected = by_hand(lambda tiles: centered(tiles)["centered"], picture, tiling)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_window_centered_on_a_small_picture_gives_the_picture():
    image = RNG.normal(size=(13, 5, 2)).astype(np.float32)
    tiling = tile_volume((13, 5), (8, 8), centered=True)
    np.testing.assert_array_equal(predict_image(identity, image, tiling, values=("same",), batch=2)["same"], image)


LAYERS = 9
NETWORK = Valid(LAYERS)
PARAMS = NETWORK.init(jax.random.key(1), jnp.zeros((1, 1, 1, 1, 2)))


def logits(tiles):
    return {"logits": NETWORK(PARAMS, tiles["image"])}


@pytest.mark.parametrize(
    ("tile", "batch"), [((9, 9, 9), 7), ((17, 8, 16), 2), ((33, 8, 32), 1)], ids=["paper", "anisotropic", "one tile"]
)
def test_valid_convolutions_give_the_same_for_any_tile(tile, batch):
    """One pass over the volume amid its background, and tiles of it; the volume is thinner than the smallest tile."""
    image = RNG.normal(size=(33, 8, 32, 2)).astype(np.float32)
    whole = jax.jit(NETWORK)(PARAMS, np.pad(image[None], [(0, 0), *[(LAYERS, LAYERS)] * 3, (0, 0)]))[0]
    tiling = tile_volume(image.shape[:3], tile, margin=(LAYERS,) * 3)
    made = predict_image(logits, image, tiling, values=("logits",), batch=batch)["logits"]
    assert made.shape == (33, 8, 32, 2)
    np.testing.assert_allclose(made, whole, atol=1e-5)
    assert np.std(made) > 0.1


def test_an_output_of_another_size_than_the_geometry_says_is_refused():
    tiling = tile_volume((12, 12), (4, 4), margin=(2, 2))
    for n in (1, 3):
        with pytest.raises(UserError, match=r"the output logits of a tile of \(8, 8\) has the sides"):
            predict_image(
                lambda t, n=n: {"logits": t["image"][:, n:-n, n:-n]},
                np.zeros((12, 12, 1), np.float32),
                tiling,
                values=("logits",),
            )


def test_what_lies_on_the_device_for_the_whole_image_is_counted():
    windows = windows_of(tile_volume((12, 12), (4, 4), margin=(2, 2)), 3)

    def predict(weights, tiles):
        return {"a": tiles["image"][:, 2:-2, 2:-2, :1], "b": jnp.zeros((3, 4, 4, 5))}

    asked = Asked(values=("a",), labels=("b",))
    summed = output_channels(predict, None, windows, asked, 2)
    assert summed == {"a": 1, "b": 5}
    found = canvas_bytes((16, 16), windows, asked, channels=2, summed=summed)
    assert found == 4 * 20 * 20 * 2 + 16 * 16 * (4 + 4 + 4 * 5 + 1)


def test_the_label_is_the_first_of_the_largest_or_of_the_undefined():
    values = np.array(
        [[0.2, 0.2, 0.1], [0.1, 0.3, 0.3], [0.5, np.nan, 0.9], [np.nan, np.nan, 1.0], [-1.0, -np.inf, 2.0]]
    )
    labels = label_of(jnp.asarray(values, jnp.float32))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, values.argmax(-1))
    np.testing.assert_array_equal(label_of(jnp.zeros((3, 1))), [0, 0, 0])
