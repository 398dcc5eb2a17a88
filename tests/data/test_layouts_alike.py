"""Arrays and sides that the same heads give in every layout."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sides import sides_of
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.labels import label_scheme
from tests.data.opening import settings
from tests.made_layouts import EVERY, made_case

ASKED = ("t2", "t1ce", "t1", "flair")
HEADS = [made_case(seed) for seed in range(5)]
DRAWN = (
    {"folds": 3, "fold": 2, "split_seed": 12345},
    {"folds": 3, "fold": 3, "stratify": "volume"},
    {"val_fraction": 0.4, "split_seed": 7},
    {"bootstrap": 2},
)


def prepared_of(root: Path, cache: Path, labels: str = "") -> tuple[str, tuple[PreparedCase, ...]]:
    there = volume_root(root, source="brats")
    files = there.find(ASKED, labels_required=True)
    return there.layout, prepare(files, ASKED, label_scheme(labels or there.scheme), cache=cache)


def sides_by_place(root: Path, cache: Path) -> list[dict[str, list[int]]]:
    """The places in the order of names that stand on each side, as the settings of `DRAWN` draw them."""
    files = volume_root(root, source="brats").find(ASKED, labels_required=True)
    places = {one.id: place for place, one in enumerate(files)}
    drawn = [sides_of(settings(root, **asked), files, cache) for asked in DRAWN]
    return [{side: [places[case] for case in cases] for side, cases in split.items()} for split in drawn]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return EVERY["folders"].keep(tmp_path_factory.mktemp("folders") / "set", HEADS)


@pytest.fixture(scope="module")
def expected(folders) -> tuple[PreparedCase, ...]:
    return prepared_of(folders, folders.parent / "cache")[1]


@pytest.fixture(scope="module")
def expected_sides(folders) -> list[dict[str, list[int]]]:
    return sides_by_place(folders, folders.parent / "cache")


@pytest.mark.parametrize("name", list(EVERY)[1:])
def test_arrays_and_sides_are_those_of_folders_of_cases(name, expected, expected_sides, tmp_path):
    kept = EVERY[name]
    root = kept.keep(tmp_path / "set", HEADS)
    told, found = prepared_of(root, tmp_path / "cache", kept.labels)
    assert (told, len(found)) == (kept.layout, len(expected))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
        assert set(np.unique(one.label)) == {0, 1, 2, 3}
        assert one.facts.affine == other.facts.affine
    sides = sides_by_place(root, tmp_path / "cache")
    assert sides == expected_sides
    assert all(split["val"] for split in sides)
