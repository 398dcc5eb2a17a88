"""Pictures of known levels and the image fused of them, as cases of three modalities and as levels of files."""

from pathlib import Path

import numpy as np

from jaxfuse.data.prepared import PreparedCase
from tests.engine.judging.heads import prepared_slices


def levels(seed: int) -> np.ndarray:
    """A picture of whole gray levels, 20 to 230."""
    return np.random.default_rng(seed).integers(20, 231, (42, 42)).astype(np.float32)


SOURCES = {"t1": levels(1), "t2": levels(2), "flair": levels(3)}
FUSED = np.floor((SOURCES["t1"] + 2 * SOURCES["flair"]) / 3)


def on_the_whole_picture(crop: np.ndarray) -> np.ndarray:
    """The picture of 46 x 48 pixels, black around the crop."""
    return np.pad(crop.astype(float), ((2, 2), (3, 3)))


def pictures(folder: Path) -> tuple[PreparedCase, ...]:
    """Two slices of 42 x 42 pixels in pictures of 46 x 48, with four lesion pixels each; levels in [0, 1]."""
    image = np.stack(list(SOURCES.values()), axis=-1) / np.float32(255)
    label = np.zeros((42, 42), np.uint8)
    label[10, 10:14] = 1
    at = {"whole": (46, 48), "start": (2, 3), "spacing_mm": (1.0, 1.0)}
    return prepared_slices(folder, {"one": label, "two": label}, image, tuple(SOURCES), **at, classes=2)


def fused_in_unit() -> np.ndarray:
    """The fused image (h w 1), above 1 by a rounding in one pixel that is 255 then."""
    fused = FUSED / np.float32(255)
    fused[0, 0] = 1.0000001
    return fused[..., None]


def expected() -> np.ndarray:
    """The fused image in levels, as it is scored."""
    whole = on_the_whole_picture(FUSED)
    whole[2, 3] = 255
    return whole
