"""Strata by the group of a layout, a column, and the volume of labels."""

import numpy as np
import pytest

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.strata import strata_of
from tests.made_cases import save_volume
from tests.refusals import refused


def files_of(folder, *voxels, **more):
    files = []
    for number, count in enumerate(voxels):
        label = np.zeros((4, 4, 4), np.uint8)
        label.flat[:count] = 1
        path = save_volume(folder / f"{number}.nii.gz", label, spacing_mm=(1, 1, number + 1))
        files.append(CaseFiles(f"p{number}", {}, path, group="HGG", told={"sex": "FM"[number % 2]}, **more))
    return files


def test_groups_columns_and_none(tmp_path):
    files = files_of(tmp_path, 1, 2)
    assert strata_of(files, "", size=2) == {"p0": "HGG", "p1": "HGG"}
    assert strata_of(files, "sex", size=2) == {"p0": "F", "p1": "M"}
    assert strata_of(files, "none", size=2) == {"p0": "", "p1": ""}
    refused("data.stratify is 'age', and the data set tells sex of case p0", strata_of, files, "age", size=2)


def test_volumes_are_in_mm3_and_read_once(tmp_path, monkeypatch):
    files, cache = files_of(tmp_path, 12, 5, 2, 20), tmp_path / "cache"  # 12, 10, 6 and 80 mm3
    cache.mkdir()
    expected = {"p2": "000000", "p1": "000000", "p0": "000001", "p3": "000001"}
    assert strata_of(files, "volume", size=2) == expected
    assert strata_of(files, "volume", size=2, cache=cache) == expected
    monkeypatch.setattr("jaxfuse.data.strata._label_volume", lambda path: pytest.fail("a label was read again"))
    assert strata_of(files, "volume", size=2, cache=cache) == expected
    refused("case x has no label", strata_of, [CaseFiles("x", {})], "volume", size=2)
