"""Arrays that the same heads give in every layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.labels import label_scheme
from tests.made_cases import write_case
from tests.made_layouts import BRATS, coded, made_case, write_bids, write_datalist, write_decathlon, write_nnunet

ASKED = ("t2", "t1ce", "t1", "flair")
CASES = {"sub-1": made_case(0), "sub-2": made_case(1)}


def write_folders(root: Path) -> Path:
    for name, arrays in CASES.items():
        write_case(root, name, {**arrays, "seg": coded(arrays, BRATS)})
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "generic": write_folders,
    "nnunet": lambda root: write_nnunet(root, CASES),
    "decathlon": lambda root: write_decathlon(root, CASES),
    "bids": lambda root: write_bids(root, CASES),
    "datalist": lambda root: write_datalist(root, CASES),
}


def prepared_of(root: Path, cache: Path):
    there = volume_root(root, source="brats")
    files = there.find(ASKED, labels_required=True)
    return there.layout, prepare(files, ASKED, label_scheme(there.scheme), cache=cache)


@pytest.mark.parametrize("layout", list(WRITERS)[1:])
def test_arrays_are_those_of_folders_of_cases(layout, tmp_path):
    _, expected = prepared_of(write_folders(tmp_path / "folders"), tmp_path / "cache")
    told, found = prepared_of(WRITERS[layout](tmp_path / "set"), tmp_path / "cache")
    assert (told, len(found)) == (layout, len(expected))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
        assert set(np.unique(one.label)) == {0, 1, 2, 3}
        assert one.facts.affine == other.facts.affine
