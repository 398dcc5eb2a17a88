"""Luminance and chrominance by hand-worked colors, and fusion in color."""

import numpy as np

from jaxfuse.data.color import (
    color_map,
    colored,
    combined_chroma,
    gray_content,
    recombine,
    seen_in_color,
    seen_in_gray,
    to_rgb,
    to_ycbcr,
)
from tests.refusals import refused

COLORS = np.random.default_rng(0).random((5, 4, 3))


def test_known_colors():
    # Gray has no chrominance; red: Y 0.299, Cb 0.564 x -0.299 + 0.5, Cr 0.713 x 0.701 + 0.5.
    expected = [[0.3, 0.5, 0.5], [0.299, 0.331364, 0.999813], [0.587, 0.168932, 0.081469], [0.114, 0.999704, 0.418718]]
    np.testing.assert_allclose(to_ycbcr(np.array([[0.3] * 3, *np.eye(3)])), expected, atol=1e-12)


def test_channels_of_fused_images_are_seen_in_gray_and_in_color():
    np.testing.assert_allclose(seen_in_gray(COLORS), to_ycbcr(COLORS)[..., 0], atol=1e-7)
    assert seen_in_color(COLORS) is COLORS
    red, cyan = COLORS[..., 0], COLORS[..., 1]
    np.testing.assert_array_equal(seen_in_color(COLORS[..., :2]), np.stack([red, cyan, cyan], axis=-1))
    np.testing.assert_allclose(seen_in_gray(COLORS[..., :2]), 0.299 * red + 0.701 * cyan, atol=1e-7)
    np.testing.assert_array_equal(seen_in_gray(COLORS[..., :1]), red)


def test_there_and_back_is_exact():
    np.testing.assert_allclose(to_rgb(to_ycbcr(COLORS)), COLORS, atol=1e-13)
    assert to_rgb(to_ycbcr(COLORS.astype(np.float32))).dtype == np.float32
    # An unchanged luminance gives the color image back.
    np.testing.assert_allclose(recombine(to_ycbcr(COLORS)[..., 0], COLORS), COLORS, atol=1e-13)


def test_chroma_of_two_sources_is_weighted_by_the_distance_from_neutral():
    a, b = np.array([[0.8, 0.5]]), np.array([[0.4, 0.5]])
    # (0.3 x 0.8 + 0.1 x 0.4) / 0.4 = 0.7; no color in either: neutral.
    np.testing.assert_allclose(combined_chroma(a, b), [[0.7, 0.5]])
    np.testing.assert_allclose(combined_chroma(b, a), [[0.7, 0.5]])
    np.testing.assert_allclose(combined_chroma(a), a)
    # A gray source leaves the colors of the other alone.
    gray = np.repeat(COLORS[..., :1], 3, axis=-1)
    luminance = to_ycbcr(COLORS)[..., 0]
    np.testing.assert_allclose(recombine(luminance, gray, COLORS), COLORS, atol=1e-12)


def test_a_gray_source_makes_a_gray_image():
    fused = COLORS[..., 0]
    made = recombine(fused, np.full((5, 4, 3), 0.25))
    np.testing.assert_allclose(made, np.repeat(fused[..., None], 3, axis=-1), atol=1e-13)


def test_colors_that_do_not_fit_their_luminance_are_clipped():
    made = recombine(np.array([[0.0, 1.0]]), np.broadcast_to([1.0, 0, 0], (1, 2, 3)))
    # Red's Cr adds (1 - 0.299) to the luminance in the red channel.
    np.testing.assert_allclose(made, [[[0.701, 0, 0], [1, 0.701, 0.701]]], atol=1e-12)


def test_gray_content_is_recognized():
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert gray_content(gray) is gray
    stored = np.repeat(gray[..., None], 3, axis=-1)
    np.testing.assert_array_equal(gray_content(stored), gray)
    for channel in range(3):
        almost = stored.copy()
        almost[1, 2, channel] += 1
        assert gray_content(almost) is None


def test_wrong_ranges_and_sizes_are_refused():
    refused("the color image runs from 0 to 255; values from 0 to 1 are expected", to_ycbcr, np.array([0.0, 3, 255]))
    refused("the fused image runs from 0 to 2", recombine, np.array([[0.0, 2.0]]), np.zeros((1, 2, 3)))
    refused("the fused image runs from nan to nan", recombine, np.array([[0.0, np.nan]]), np.zeros((1, 2, 3)))
    message = r"the fused image has the size \(1, 2\) and a color source \(2, 1\)"
    refused(message, recombine, np.zeros((1, 2)), np.zeros((2, 1, 3)))
    refused("no color source was given", recombine, np.zeros((1, 2)))


def test_a_color_map_keeps_the_background_black():
    table = color_map("viridis")
    assert (table.shape, table.dtype) == ((256, 3), np.float32)
    np.testing.assert_allclose(table[0], [0.267004, 0.004874, 0.329415], atol=1e-6)
    image = np.array([[0, 0.001, 0.5, 1]])
    shown = np.array([[False, True, True, True]])
    np.testing.assert_array_equal(colored(image, table, shown), [[[0, 0, 0], table[0], table[128], table[255]]])
    np.testing.assert_array_equal(colored(image, table, ~shown)[0, 0], table[0])
    np.testing.assert_allclose(color_map("gray")[[0, 51, 255]], np.repeat([[0], [0.2], [1]], 3, -1), atol=1e-6)
    refused("'virid' is no color map; choose one of matplotlib's, such as viridis", color_map, "virid")
    refused("the gray image runs from 0 to 255", colored, np.array([0.0, 255]), table, np.ones(2, bool))
