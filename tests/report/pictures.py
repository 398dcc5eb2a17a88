"""Pixels of the pictures that panels become."""

from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image


def pixels_of(path: Path, mode: str = "RGB") -> np.ndarray:
    """The pixels (h w channels) of a picture."""
    with Image.open(path) as image:
        return np.asarray(image.convert(mode)).astype(int)


def near(pixels: np.ndarray, color: str, tolerance: int = 30) -> np.ndarray:
    """Marks the pixels whose channels are all less than `tolerance` levels from a color."""
    return np.abs(pixels - 255 * np.array(to_rgb(color))).max(axis=-1) < tolerance
