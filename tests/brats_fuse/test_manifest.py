"""The manifest of a build that is interrupted and gone on with."""

import pytest

from jaxfuse.brats_fuse.manifest import MANIFEST, UNFINISHED, Manifest
from tests.refusals import refused

COLUMNS = ("case", "z", "split", "t1_p_lo")


def row(case, z):
    return {"case": case, "z": z, "split": "train", "t1_p_lo": 0.1 + z}


@pytest.fixture
def begun(tmp_path) -> Manifest:
    """A manifest that holds one row of A."""
    manifest = Manifest(tmp_path, COLUMNS)
    manifest.add("A", [row("A", 1)])
    return manifest


def test_rows_come_back_and_the_manifest_takes_their_place(begun, tmp_path):
    begun.add("007", [row("007", 3), row("007", 4)])
    assert not (tmp_path / MANIFEST).exists()
    again = Manifest(tmp_path, COLUMNS)
    assert again.rows == {"007": [row("007", 3), row("007", 4)], "A": [row("A", 1)]}
    assert again.finish(["A", "007"]) == [row("A", 1), row("007", 3), row("007", 4)]
    assert (tmp_path / MANIFEST).read_text().startswith("case,z,split,t1_p_lo\nA,1,train,1.1\n")
    assert not (tmp_path / UNFINISHED).exists()
    assert Manifest(tmp_path, COLUMNS).rows == begun.rows


def test_a_line_that_was_not_written_to_its_end_is_taken_away(begun, tmp_path):
    whole = (tmp_path / UNFINISHED).read_text()
    (tmp_path / UNFINISHED).write_text(whole + '[{"case": "B", "z"')
    manifest = Manifest(tmp_path, COLUMNS)
    assert manifest.rows == begun.rows
    manifest.add("B", [row("B", 2)])
    assert Manifest(tmp_path, COLUMNS).rows["B"] == [row("B", 2)]
    (tmp_path / UNFINISHED).write_text("not JSON\n" + whole)
    refused("is damaged .* delete it", Manifest, tmp_path, COLUMNS)


def test_equal_rows_are_written_once_and_others_replace_them(begun, tmp_path):
    for z in (1, 2):
        begun.add("A", [row("A", z)])
    assert len((tmp_path / UNFINISHED).read_text().splitlines()) == 2
    assert Manifest(tmp_path, COLUMNS).rows["A"] == [row("A", 2)]


def test_columns_of_another_format_are_refused(begun, tmp_path):
    refused("has the columns case, z, split, t1_p_lo instead of case, z", Manifest, tmp_path, ("case", "z"))
