"""A small VOC folder with palette class maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxfuse.data.dataset import dataset_facts
from jaxfuse.data.sources.voc import CHANNELS, CLASSES, find_images, load_image, prepare_images
from tests.refusals import refused

SIZE = (12, 9)  # rows, columns


LABEL = np.zeros(SIZE, np.uint8)
LABEL[2:4, 3:6] = 15
LABEL[4, 3:6] = 255


def save_image(year: Path, name: str, label: np.ndarray = LABEL, *, mode: str = "P") -> None:
    for folder in ("JPEGImages", "SegmentationClass"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(year / "JPEGImages" / f"{name}.jpg")
    image = Image.fromarray(label)
    if mode == "P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([i // 3 for i in range(768)])
    image.save(year / "SegmentationClass" / f"{name}.png")


def make(year: Path, train: str = "b\na\n", val: str = "c\n") -> Path:
    lists = year / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(train)
    (lists / "val.txt").write_text(val)
    for name in (train + val).split():
        save_image(year, name)
    return year


def test_published_lists_from_every_level(tmp_path):
    year = make(tmp_path / "VOCdevkit" / "VOC2012")
    for root in (year, year.parent, tmp_path):
        sides = find_images(root)
        assert {side: [f.id for f in files] for side, files in sides.items()} == {"train": ["a", "b"], "val": ["c"]}


def test_there_are_21_classes():
    assert (len(CLASSES), CLASSES[15]) == (21, "person")


def test_pixels_and_class_map_keep_rows_before_columns(tmp_path):
    files = find_images(make(tmp_path))["val"][0]
    image, label = load_image(files)
    assert (image.shape, image.dtype) == ((*SIZE, 3), np.float32)
    np.testing.assert_array_equal(label, LABEL)


def test_prepared_image_takes_the_form_of_a_prepared_case(tmp_path):
    cases = prepare_images(find_images(make(tmp_path))["train"], cache=tmp_path / "cache")
    case = cases[0]
    assert case.image.shape == (*SIZE, 3)
    np.testing.assert_allclose(case.image.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(case.image.std((0, 1)), 1, atol=1e-5)
    np.testing.assert_array_equal(case.label, LABEL)
    assert [np.unravel_index(i, SIZE) for i in case.tumor] == [(r, c) for r in (2, 3) for c in (3, 4, 5)]
    assert (len(case.brain), len(case.facts.voxels_per_class)) == (12 * 9, 21)
    # 255 counts in no class.
    assert {i: n for i, n in enumerate(case.facts.voxels_per_class) if n} == {0: 99, 15: 6}
    facts = dataset_facts(cases, CHANNELS, None, {"train": ("a", "b"), "val": ()}, classes=CLASSES)
    assert (facts.classes, facts.voxels_per_class[15]) == (CLASSES, 12)


def test_color_class_map_strange_value_and_size_are_refused(tmp_path):
    year = make(tmp_path)
    files = find_images(year)["val"][0]
    for message, label, mode in (
        ("mode L", LABEL, "L"),
        (r"holds the values \[21\]", np.full(SIZE, 21, np.uint8), "P"),
        (r"\(9, 12\)", np.zeros((9, 12), np.uint8), "P"),
    ):
        save_image(year, "c", label, mode=mode)
        refused(message, load_image, files)


def test_missing_and_damaged_files_are_refused(tmp_path):
    year = make(tmp_path / "VOC2012")
    path = year / "JPEGImages" / "c.jpg"
    path.write_bytes(path.read_bytes()[:200])
    refused("c.jpg is damaged", load_image, find_images(year)["val"][0])
    path.unlink()
    refused("c.jpg is missing", find_images, year)
    refused("found none", find_images, year / "JPEGImages")
    make(tmp_path / "VOC2007")
    refused("VOC2007, .*VOC2012", find_images, tmp_path)
