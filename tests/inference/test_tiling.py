"""Whole volumes from tiles, with predictors whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import predict_stack, predict_volume
from jaxfuse.patches import tile_volume
from tests.tiny_systems import Valid

RNG = np.random.default_rng(0)


def identity(tiles):
    return {"same": tiles["image"], "double": 2 * tiles["image"][..., :1]}


def centered(tiles):
    """An answer that depends on the whole tile, but on each tile of a batch alone."""
    image = tiles["image"]
    return {"centered": image - image.mean(tuple(range(1, image.ndim - 1)), keepdims=True)}


def noting(predict, seen):
    """Gives the same answers; `seen` lists the tiles."""

    def noted(tiles):
        seen.append(tiles["image"])
        return predict(tiles)

    return noted


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(16, 16, 16), (20, 9, 17), (5, 8, 3), (1, 1, 1), (13, 6)])
def test_a_tiled_identity_returns_the_volume_or_photograph(shape, overlap, batch):
    image, seen = RNG.normal(size=(*shape, 2)).astype(np.float32), []
    tile = (8,) * len(shape)
    tiling = tile_volume(shape, tile, overlap=overlap)
    outputs = predict_volume(noting(identity, seen), image, tiling, batch=batch)
    # Every batch is full, so that a compiled predictor is compiled once.
    assert {tiles.shape for tiles in seen} == {(batch, *tile, 2)}
    assert len(seen) == -(-len(tiling) // batch)
    np.testing.assert_allclose(outputs["same"], image, rtol=1e-6)
    np.testing.assert_allclose(outputs["double"], 2 * image[..., :1], rtol=1e-6)
    assert outputs["double"].dtype == np.float32


def test_overlapping_tiles_count_equally():
    """Tile number i answers i everywhere: a voxel gets the mean over the tiles that hold it."""
    tiling = tile_volume((10,), (6,))
    assert tiling.starts == ((0, 4),)
    count = iter(range(2))

    def predict(tiles):
        return {"number": np.full((1, 6, 1), next(count), np.float32)}

    outputs = predict_volume(predict, np.zeros((10, 1), np.float32), tiling)
    np.testing.assert_array_equal(outputs["number"][:, 0], [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1, 1])


def test_any_batch_size_gives_the_same_answer():
    image = RNG.normal(size=(20, 15, 11, 2)).astype(np.float32)
    tiling = tile_volume(image.shape[:3], (8, 8, 8), overlap=0.25)
    single = predict_volume(centered, image, tiling)["centered"]
    for batch in (2, 5, len(tiling), len(tiling) + 3):
        np.testing.assert_array_equal(predict_volume(centered, image, tiling, batch=batch)["centered"], single)


@pytest.mark.parametrize(("overlap", "batch"), [(0.0, 1), (0.0, 4), (0.5, 3)])
def test_every_picture_of_a_stack_is_tiled_alone(overlap, batch):
    stack, seen = RNG.normal(size=(5, 13, 6, 2)).astype(np.float32), []
    tiling = tile_volume(stack.shape[:3], (1, 8, 8), overlap=overlap)
    made = predict_stack(noting(centered, seen), stack, tiling, batch=batch)["centered"]
    assert {tiles.shape for tiles in seen} == {(batch, 8, 8, 2)}
    tiling = tile_volume((13, 6), (8, 8), overlap=overlap)
    assert len(seen) == -(-5 * len(tiling) // batch)
    for picture, expected in zip(stack, made, strict=True):
        np.testing.assert_allclose(predict_volume(centered, picture, tiling)["centered"], expected, atol=1e-6)


def test_a_window_centered_on_a_small_picture_gives_the_picture():
    image, seen = RNG.normal(size=(13, 5, 2)).astype(np.float32), []
    outputs = predict_volume(noting(identity, seen), image, tile_volume((13, 5), (8, 8), centered=True), batch=2)
    np.testing.assert_array_equal(outputs["same"], image)
    np.testing.assert_array_equal(seen[0][0][:, 2:7], image[:8])


LAYERS = 9
NETWORK = Valid(LAYERS)
PARAMS = NETWORK.init(jax.random.key(1), jnp.zeros((1, 1, 1, 1, 2)))
FORWARD = jax.jit(NETWORK)


@pytest.mark.parametrize(
    ("tile", "batch"), [((9, 9, 9), 7), ((17, 8, 16), 2), ((33, 8, 32), 1)], ids=["paper", "anisotropic", "one tile"]
)
def test_valid_convolutions_give_the_same_for_any_tile(tile, batch):
    """One pass over the volume amid its background, and tiles of it; the volume is thinner than the smallest tile."""
    image = RNG.normal(size=(33, 8, 32, 2)).astype(np.float32)
    whole = FORWARD(PARAMS, np.pad(image[None], [(0, 0), *[(LAYERS, LAYERS)] * 3, (0, 0)]))[0]
    tiling = tile_volume(image.shape[:3], tile, margin=(LAYERS,) * 3)
    made = predict_volume(lambda t: {"logits": FORWARD(PARAMS, t["image"])}, image, tiling, batch=batch)["logits"]
    assert made.shape == (33, 8, 32, 2)
    np.testing.assert_allclose(made, whole, atol=1e-5)
    assert np.std(made) > 0.1


def test_an_output_of_another_size_than_the_geometry_says_is_refused():
    tiling = tile_volume((12, 12), (4, 4), margin=(2, 2))
    for n in (1, 3):
        with pytest.raises(UserError, match=r"the output logits of a tile of \(8, 8\) has the sides"):
            predict_volume(lambda t, n=n: {"logits": t["image"][:, n:-n, n:-n]}, np.zeros((12, 12, 1)), tiling)
