"""Color images for fusion: their luminance is fused, their chrominance put back onto the result.

Full-range YCbCr after ITU-R BT.601: Y = 0.299 R + 0.587 G + 0.114 B, Cb = 0.564 (B - Y) + 0.5 and
Cr = 0.713 (R - Y) + 0.5, everything in [0, 1]. The way back is the exact inverse of these three lines, not the
rounded table that is often printed beside them, so that a color that is not fused stays what it was.
"""

from __future__ import annotations

from difflib import get_close_matches

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from jaxfuse.errors import UserError

Image = Float[np.ndarray, "*space"]
Color = Float[np.ndarray, "*space 3"]
Chroma = Float[np.ndarray, "*space 2"]

NEUTRAL = 0.5
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
_TO_CB, _TO_CR = 0.564, 0.713
_ROUNDING = 1e-5
# Levels by which the channels of a gray image differ once it went through JPEG: no eye sees them as color.
_NOISE = 4


def gray_content(pixels: UInt8[np.ndarray, "h w *rgb"]) -> UInt8[np.ndarray, "h w"] | None:
    """The one channel of a gray image, also where it is stored as three equal ones; None for a color image."""
    if pixels.ndim == 2:
        return pixels
    first = pixels[..., 0]
    equal = all(np.array_equal(first, pixels[..., channel]) for channel in range(1, pixels.shape[-1]))
    return np.ascontiguousarray(first) if equal else None


def nearly_gray_content(pixels: UInt8[np.ndarray, "h w *rgb"]) -> UInt8[np.ndarray, "h w"] | None:
    """The luminance of an RGB image whose channels differ by a few levels at most, as JPEG leaves them; else None.

    An image of equal channels is not meant: that is `gray_content`.
    """
    if pixels.ndim == 2 or int(np.ptp(pixels.astype(np.int16), axis=-1).max(initial=0)) not in range(1, _NOISE + 1):
        return None
    return np.rint(pixels @ np.array([_RED, _GREEN, _BLUE])).astype(np.uint8)


def color_map(name: str) -> Float[np.ndarray, "256 3"]:
    """The colors in [0, 1] of the matplotlib color map of this name, for levels 0 to 255; `UserError` if unknown."""
    from matplotlib import colormaps  # here, since few need it and it takes long to load

    if name not in colormaps:
        near = get_close_matches(name, list(colormaps), 3, 0.5) or ["hot", "inferno", "viridis"]
        raise UserError(f"{name!r} is no color map; choose one of matplotlib's, such as {', '.join(near)}")
    return colormaps[name](np.arange(256) / 255)[:, :3].astype(np.float32)


def colored(image: Image, table: Float[np.ndarray, "256 3"], shown: Bool[np.ndarray, "*space"]) -> Color:
    """A gray image in [0, 1] in the colors of a map; black where it shows nothing, whatever the map begins with."""
    _refuse_beyond_one("the gray image", image)
    rgb = table[np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)]
    rgb[~shown] = 0
    return rgb


def to_ycbcr(rgb: Color) -> Color:
    """Red, green and blue in [0, 1] as Y, Cb and Cr in [0, 1]; refuses other values."""
    _refuse_beyond_one("the color image", rgb)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    y = _RED * red + _GREEN * green + _BLUE * blue
    return np.stack([y, _TO_CB * (blue - y) + NEUTRAL, _TO_CR * (red - y) + NEUTRAL], axis=-1)


def to_rgb(ycbcr: Color) -> Color:
    """Y, Cb and Cr as red, green and blue, not clipped: luminance and chrominance of two images may not fit."""
    y, cb, cr = np.moveaxis(ycbcr, -1, 0)
    red = (cr - NEUTRAL) / _TO_CR + y
    blue = (cb - NEUTRAL) / _TO_CB + y
    return np.stack([red, (y - _RED * red - _BLUE * blue) / _GREEN, blue], axis=-1)


def seen_in_gray(image: Float[np.ndarray, "*space c"]) -> Image:
    """The luminance of an image in [0, 1] of one, two or three channels: gray, red and cyan, or red, green and blue."""
    return image[..., 0] if image.shape[-1] == 1 else seen_in_color(image) @ np.array([_RED, _GREEN, _BLUE], np.float32)


def seen_in_color(image: Float[np.ndarray, "*space c"]) -> Color:
    """Red, green and blue of an image of two channels, red and cyan, or of three; where they are equal it is gray."""
    return image[..., [0, 1, 1]] if image.shape[-1] == 2 else image


def combined_chroma(*chromas: Chroma) -> Chroma:
    """Cb and Cr of several images: the mean weighted by |value - 0.5|, each pixel and channel for itself.

    So an image without color at a pixel has no say there (Prabhakar et al., DeepFuse, ICCV 2017, with 0.5 for their
    128); 0.5 where no image has color.
    """
    stacked = np.stack(chromas)
    weights = np.abs(stacked - NEUTRAL)
    total = weights.sum(0)
    mean = (weights * stacked).sum(0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, NEUTRAL).astype(stacked.dtype)


def recombine(fused: Image, *sources: Float[np.ndarray, "... 3"]) -> Color:
    """A fused luminance (*space) in the colors of one or more color sources (*space 3), clipped to [0, 1].

    Clipping changes hue and luminance where the fused luminance is too bright or too dark for the color. Raises
    `UserError` for another size or range, and where there is no color source.
    """
    if not sources:
        raise UserError("no color source was given; give the RGB image of each source that has color")
    _refuse_beyond_one("the fused image", fused)
    for source in sources:
        if source.shape[:-1] != fused.shape:
            raise UserError(
                f"the fused image has the size {fused.shape} and a color source {source.shape[:-1]}; they must be equal"
            )
    chroma = combined_chroma(*(to_ycbcr(source)[..., 1:] for source in sources))
    return np.clip(to_rgb(np.concatenate([fused[..., None], chroma], axis=-1)), 0, 1)


def _refuse_beyond_one(what: str, values: Shaped[np.ndarray, ...]) -> None:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where they are NaN
        raise UserError(f"{what} runs from {low:g} to {high:g}; values from 0 to 1 are expected: divide levels by 255")
