"""PASCAL VOC segmentation: photographs with class maps, for networks that are pre-trained on natural images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from jaxfuse.data.cache import prepare_with
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.cases import Image as Picture
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.intensities import moments
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.preprocess import count_classes, flat_indices, is_marked
from jaxfuse.data.shelf import Shelf
from jaxfuse.errors import UserError
from jaxfuse.labels import IGNORED

CLASSES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CHANNELS = ("red", "green", "blue")
_LISTS = Path("ImageSets") / "Segmentation"


def find_images(root: str | Path) -> dict[str, tuple[CaseFiles, ...]]:
    """The images of the published lists `train` and `val`, each sorted by id.

    `root` is a year's folder (VOC2012), the VOCdevkit folder with one year in it, or the folder around that.
    Each image lies under the key `rgb`.

    Raises:
        UserError: where lists or listed files are missing.
    """
    year = _year_folder(Path(root))
    sides = {}
    for side in ("train", "val"):
        path = year / _LISTS / f"{side}.txt"
        if not path.is_file():
            raise UserError(f"{path} is missing; unpack the VOC archive again")
        names = sorted(path.read_text(encoding="utf-8").split())
        if not names:
            raise UserError(f"{path} lists no image; unpack the VOC archive again")
        sides[side] = tuple(_files(year, name) for name in names)
    return sides


def load_image(files: CaseFiles) -> tuple[Float[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Colors in 0..255 as float32, and class indices with 255 where a pixel does not count.

    Raises:
        UserError: for a damaged file, a class map without palette or beyond the 21 classes, and unequal sizes.
    """
    assert files.label is not None  # `find_images` always sets it
    image = _open(files.images["rgb"].path, None)
    label = _open(files.label, "P")
    if image.shape[:2] != label.shape:
        raise UserError(
            f"image {files.id} has the size {image.shape[:2]}, its class map {label.shape}; they must be equal"
        )
    # Object borders and difficult objects are ignored.
    strange = sorted({int(v) for v in np.unique(label)} - {*range(len(CLASSES)), IGNORED})
    if strange:
        raise UserError(
            f"class map {files.label} holds the values {strange}; 0 to {len(CLASSES) - 1} and {IGNORED} are expected"
        )
    return image.astype(np.float32), label


def prepare_image(files: CaseFiles) -> Prepared:
    """One photograph in the form of a prepared case: not cropped, each channel z-scored over the image.

    `tumor` holds the pixels of objects (neither background nor ignored), `brain` all pixels.
    """
    image, label = load_image(files)
    shape = label.shape
    means, stds = zip(*(moments(files.id, name, image[..., c]) for c, name in enumerate(CHANNELS)), strict=True)
    facts = CaseFacts(
        id=files.id,
        group=files.group,
        modalities=CHANNELS,
        affine=(),
        spacing_mm=(1.0, 1.0),
        original_shape=shape,
        crop_start=(0, 0),
        shape=shape,
        voxels_per_class=count_classes(label, len(CLASSES)),
        mean=means,
        std=stds,
    )
    normed = (image - np.asarray(means, np.float32)) / np.asarray(stds, np.float32)
    objects = flat_indices(is_marked(label))
    return Prepared(facts, normed, label, objects, flat_indices(np.ones(shape, bool)))


def prepare_images(
    files: Sequence[CaseFiles],
    *,
    cache: str | Path | Shelf,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares each photograph once below the folder `cache`; see `jaxfuse.data.cache.prepare`."""
    recipe = {"source": "voc", "classes": CLASSES}
    return prepare_with(prepare_image, files, recipe, images=("rgb",), label=True, cache=cache, on_case=on_case)


def _year_folder(root: Path) -> Path:
    if (root / _LISTS).is_dir():
        return root
    years = sorted({p.parents[1] for pattern in ("*", "VOCdevkit/*") for p in root.glob(f"{pattern}/{_LISTS}")})
    if len(years) != 1:
        found = ", ".join(str(y) for y in years) or "none"
        raise UserError(
            f"one VOC folder with {_LISTS} is expected in {root}, found {found}; give a folder such as VOC2012"
        )
    return years[0]


def _files(year: Path, name: str) -> CaseFiles:
    image, label = year / "JPEGImages" / f"{name}.jpg", year / "SegmentationClass" / f"{name}.png"
    for path in (image, label):
        if not path.is_file():
            raise UserError(f"image {name} is listed, but {path} is missing; unpack the VOC archive again")
    return CaseFiles(name, {"rgb": Picture(image)}, label)


def _open(path: Path, mode: str | None) -> UInt8[np.ndarray, "h w *c"]:
    """Pixels of a file; `mode` is the one it must have, or None to convert to RGB."""
    try:
        with Image.open(path) as image:
            if mode and image.mode != mode:
                raise UserError(f"{path} has pixels of mode {image.mode}; a class map with a palette is expected")
            return np.asarray(image if mode else image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} is damaged or no image ({error}); unpack the VOC archive again") from error
