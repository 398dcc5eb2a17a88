"""Exported bundles that are cut short, changed, or of another kind."""

import json
from pathlib import Path

import pytest

from jaxfuse.errors import UserError
from jaxfuse.prediction.bundle import Bundle
from jaxfuse.prediction.bundle_files import FORMAT, HASHES, RECORD, damage_of, digest_of
from tests.faults.catalogue import given, table

FILES = {"weights.safetensors": b"weights", "programs/0_whole.stablehlo": b"program", "preparation.json": b"{}"}
REFUSED = "refused, with the file and what to do"


def bundle(folder: Path, form: int = FORMAT) -> Path:
    """Files as of a bundle; what they hold is not read before all are as they were written."""
    for name, content in {**FILES, RECORD: json.dumps({"format": form}).encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    digests = {name: digest_of(folder / name) for name in (*FILES, RECORD)}
    (folder / HASHES).write_text(json.dumps(digests))
    return folder


@table(
    "name,content,told",
    ("a bundle whose weights were cut short", REFUSED, "weights.safetensors", b"weight", "is not as it was written"),
    ("one whose program was changed", REFUSED, "programs/0_whole.stablehlo", b"Program", "is not as it was written"),
    ("one that lacks a file", REFUSED, "preparation.json", None, "cannot be read .No such file or directory."),
    ("one whose list of digests was cut short", REFUSED, HASHES, b'{"a": ', "hashes.json is damaged"),
    ("one whose list of digests names no file", REFUSED, HASHES, b"{}", "hashes.json is damaged"),
    ("one whose list of digests is no list", REFUSED, HASHES, b"[1]", "hashes.json is damaged"),
)
def test_a_damaged_bundle_is_refused(name, content, told, tmp_path):
    folder = bundle(tmp_path / "bundle")
    assert damage_of(folder) == ""
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{told}.*; fetch the bundle again, or export the run anew") as refused:
        Bundle(folder)
    assert "\n" not in str(refused.value)


@given("a folder that is no bundle", "refused")
@given("a bundle of another form than the module that opens it", "refused, with the way that reads it")
def test_what_is_no_bundle_of_this_form_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no bundle: it has no hashes.json; name a folder that"):
        Bundle(tmp_path)
    told = f"is a bundle of form {FORMAT + 1}, and this reads form {FORMAT}; use the run.py that lies in it"
    with pytest.raises(UserError, match=told):
        Bundle(bundle(tmp_path / "newer", form=FORMAT + 1))
