"""Few canvases for many images, and the place of each on its own."""

import itertools

import jax
import numpy as np
import pytest

from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import Asked, predict_canvas
from jaxfuse.patches import crop, tile_volume

RNG = np.random.default_rng(0)
HEADS = [(43, 51, 37), (45, 56, 40), (41, 48, 38), (47, 57, 36), (40, 50, 41)]


def test_five_cropped_heads_take_two_canvases_at_most_in_any_order():
    for order in itertools.permutations(HEADS):
        canvases = Canvases()
        for shape in order:
            canvases.keep(lay(tile_volume(shape, (32, 32, 32)), canvases).sides)
        assert len(canvases.known) <= 2


def test_one_program_serves_all_images_of_a_canvas():
    windows, asked, canvases = windows_of(tile_volume(HEADS[0], (32,) * 3), 2), Asked(values=("image",)), Canvases()
    program = jax.jit(lambda *given: predict_canvas(lambda weights, tiles: tiles, None, *given, windows, asked))
    for shape in HEADS:
        image = RNG.normal(size=(*shape, 1)).astype(np.float32)
        laid = lay(tile_volume(shape, (32, 32, 32)), canvases)
        canvases.keep(laid.sides)
        made = program(laid.image(image), laid.places(windows, 0.0))["image"]
        np.testing.assert_allclose(laid.cut(np.asarray(made)), image, rtol=1e-6)
    assert program._cache_size() == len(canvases.known) <= 2


def test_a_canvas_far_too_large_serves_no_small_image_and_one_not_kept_serves_none():
    canvases = Canvases([(256, 256, 160)])
    assert canvases.holding((240, 240, 130), (128,) * 3) == (256, 256, 160)
    assert canvases.holding((100, 60, 70), (32,) * 3) == (112, 64, 80)
    assert canvases.holding((250, 230, 170), (128,) * 3) == (256, 256, 192)
    assert canvases.known == [(256, 256, 160)]


@pytest.mark.parametrize(
    "tiling",
    [
        tile_volume((13, 5), (8, 8), centered=True),
        tile_volume((13, 5), (4, 4), margin=(3, 2)),
        tile_volume((9, 13, 6), (1, 8, 8), overlap=0.4),
    ],
    ids=["centered", "margin", "stack"],
)
def test_windows_on_the_canvas_are_those_of_the_image(tiling):
    image = RNG.normal(size=(*tiling.shape, 2)).astype(np.float32)
    laid = lay(tiling, Canvases())
    canvas, places = laid.image(image), laid.places(windows_of(tiling, 4), 0.4 if len(tiling.tile) == 3 else 0.0)
    assert (len(places.starts) % 4, int(places.count)) == (0, len(tiling))
    held = np.zeros((*laid.sides, 1))
    for start, place in zip(tiling, places.starts, strict=False):
        np.testing.assert_array_equal(
            crop(canvas, tuple(place.tolist()), tiling.input_tile),
            crop(image, tiling.input_start(start), tiling.input_tile),
        )
        box = tuple(slice(a, a + side) for a, side in zip(place, tiling.tile, strict=True))
        assert all(one.start >= 0 and one.stop <= side for one, side in zip(box, laid.sides, strict=True))
        held[box] += 1
    counted = np.ones(())
    for each in places.held:
        counted = np.multiply.outer(counted, each)
    np.testing.assert_array_equal(held[held > 0], counted[held[..., 0] > 0])
    np.testing.assert_array_equal(laid.cut(canvas[tuple(slice(m, n - m) for m, n in _inner(tiling, canvas))]), image)


def _inner(tiling, canvas):
    return zip(tiling.margin, canvas.shape, strict=False)
