"""Zip files of results."""

import zipfile
from pathlib import Path

from jaxfuse.io.archive import check_name, write_zip
from tests.refusals import refused


def test_files_lie_flat_by_their_names_and_bytes_repeat(tmp_path):
    files = []
    for name in ("b.nii.gz", "a.nii.gz"):
        (tmp_path / name[0]).mkdir()
        files.append(tmp_path / name[0] / name)
        files[-1].write_bytes(name.encode())
    for out in ("one.zip", "two.zip"):
        write_zip(tmp_path / out, files)
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["a.nii.gz", "b.nii.gz"]
        assert archive.read("b.nii.gz") == b"b.nii.gz"
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_name_says_that_it_is_a_zip_file():
    check_name(Path("a.ZIP"), "--zip")
    refused("--zip a.tar does not end in .zip", check_name, Path("a.tar"), "--zip")
