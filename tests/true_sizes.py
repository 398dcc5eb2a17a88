"""Cases of the true sizes of the papers' data sets, with nothing in them but a head and a lesion: two of each set.

There are three of BraTS: one validates, and some schemes of Fuse4Seg hold one of the training subjects out.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from jaxfuse.data.sources.isles import LESION, SEQUENCES
from tests.made_cases import ellipsoid, save_pair, save_volume

# Along the canonical axes: to the right, to the front, up.
BRATS, ISEG, STROKE, ISLES = (240, 240, 155), (144, 192, 256), (256, 256, 32), (230, 230, 154)
# Half axes of a head as a share of the sides: 140 x 172 x 136 voxels of a BraTS volume are brain.
_HEAD = np.array([0.29, 0.36, 0.44])
CASES = 2


def _images(shape: tuple[int, int, int], seed: int, lesion: int) -> tuple[Callable[[int], np.ndarray], np.ndarray]:
    """A function from a number to an image, int16 and 0 outside the head, and a label of `lesion` in a small ball."""
    rng, sides = np.random.default_rng(seed), np.array(shape)
    brain, ball = ellipsoid(shape, _HEAD * sides), ellipsoid(shape, np.maximum(sides / 10, 2))
    texture = rng.integers(100, 200, shape, dtype=np.int16)
    return lambda number: np.where(brain, texture + 50 * number * ball, 0).astype(np.int16), lesion * ball


def write_brats(root: Path) -> None:
    """Labels of BraTS: edema around an enhancing core."""
    for number in range(CASES + 1):
        image, label = _images(BRATS, number, 2)
        label[ellipsoid(BRATS, (6, 6, 6))] = 4
        label[ellipsoid(BRATS, (3, 3, 3))] = 1
        stem = root / f"made_{number}" / f"made_{number}"
        for place, name in enumerate(("t1", "t1ce", "t2", "flair")):
            save_volume(stem.with_name(f"{stem.name}_{name}.nii"), image(place))
        save_volume(stem.with_name(f"{stem.name}_seg.nii"), label.astype(np.uint8))


def write_iseg(root: Path) -> None:
    """Three tissues in layers, as Analyze pairs."""
    for number in range(1, CASES + 1):
        image, label = _images(ISEG, number, 0)
        for share, value in ((0.9, 10), (0.75, 150), (0.5, 250)):
            label[ellipsoid(ISEG, share * _HEAD * ISEG)] = value
        for place, name in enumerate(("T1", "T2")):
            save_pair(root / f"subject-{number}-{name}.hdr", image(place))
        save_pair(root / f"subject-{number}-label.hdr", label.astype(np.uint8))


def write_stroke(root: Path) -> None:
    """Thick slices of which most show no lesion."""
    for number in range(CASES):
        image, label = _images(STROKE, number, 1)
        stem = root / f"made_{number}" / f"made_{number}"
        for place, name in enumerate(("t2", "dwi_b1000", "dwi_b0")):
            save_volume(stem.with_name(f"{stem.name}_{name}.nii"), image(place), spacing_mm=(0.9, 0.9, 5.0))
        save_volume(stem.with_name(f"{stem.name}_lesion.nii"), label.astype(np.uint8), spacing_mm=(0.9, 0.9, 5.0))


def write_isles(root: Path) -> None:
    """Volumes in a folder each, as uploaded."""
    for number in range(1, CASES + 1):
        image, label = _images(ISLES, number, 1)
        made = {kind: image(place) for place, kind in enumerate(SEQUENCES.values())}
        for kind, array in {**made, LESION: label.astype(np.uint8)}.items():
            name = f"VSD.Brain.XX.O.{kind}.{number}"
            save_volume(root / "training" / str(number) / name / f"{name}.nii", array)


def write_voc(root: Path) -> None:
    """Photographs upright and across, with class maps in a palette."""
    year = root / "VOC2012"
    for number, side in enumerate(("train", "val")):
        name, size = f"2007_00000{number}", ((375, 500), (500, 333))[number]
        rng = np.random.default_rng(number)
        picture = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        classes = Image.fromarray((ellipsoid((*size, 1), (60, 60, 1))[..., 0] * 15).astype(np.uint8), mode="P")
        classes.putpalette([0, 0, 0] * 256)
        for folder, image, end in (("JPEGImages", picture, "jpg"), ("SegmentationClass", classes, "png")):
            (year / folder).mkdir(parents=True, exist_ok=True)
            image.save(year / folder / f"{name}.{end}")
        (year / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (year / "ImageSets" / "Segmentation" / f"{side}.txt").write_text(f"{name}\n")


def write_pairs(root: Path) -> None:
    """Pictures of the Harvard collection's sides, and of a camera's, under every name that a recipe asks for."""
    for first, second, sides in (("MRI", "CT", 256), ("MRI", "PET", 256), ("MRI", "SPECT", 256), ("VIS", "IR", 300)):
        for number in range(CASES):
            rng = np.random.default_rng(number)
            head = ellipsoid((sides, sides, 1), (90, 80, 1))[..., 0]
            for name in (first, second):
                levels = rng.integers(30, 255, (sides, sides), dtype=np.uint8) * head
                path = root / f"{first}_{second}" / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(levels.astype(np.uint8)).save(path)


WRITE: dict[str, Callable[[Path], None]] = {
    "brats": write_brats,
    "iseg": write_iseg,
    "stroke": write_stroke,
    "isles": write_isles,
    "voc": write_voc,
    "pairs2d": write_pairs,
}
