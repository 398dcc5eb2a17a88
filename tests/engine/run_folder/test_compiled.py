"""Compiled programs that were cut short are removed, whole ones are kept, and each is looked at once."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from jaxfuse.engine.run_folder import compiled
from jaxfuse.engine.run_folder.compiled import NOTED, remove_cut

CONTENT = zlib.compress(os.urandom(400))


@pytest.fixture
def zlib_only(monkeypatch):
    monkeypatch.setattr(compiled, "_decompressor", lambda: zlib.decompress)


@pytest.mark.usefixtures("zlib_only")
def test_what_is_cut_goes_and_what_is_whole_stays(tmp_path):
    entries = {"a-cache": CONTENT, "b-cache": CONTENT[:-7], "c-cache": b"", "notes.txt": b"other"}
    for name, content in entries.items():
        (tmp_path / name).write_bytes(content)
    assert sorted(remove_cut(tmp_path)) == ["b-cache", "c-cache"]
    assert {path.name for path in tmp_path.iterdir()} == {"a-cache", "notes.txt", NOTED}
    assert remove_cut(tmp_path) == []


@pytest.mark.usefixtures("zlib_only")
def test_an_entry_is_read_once_unless_its_size_is_another(tmp_path, monkeypatch):
    entry = tmp_path / "a-cache"
    entry.write_bytes(CONTENT)
    remove_cut(tmp_path)
    looked: list[str] = []
    is_whole = compiled._is_whole
    monkeypatch.setattr(compiled, "_is_whole", lambda path: looked.append(path.name) or is_whole(path))
    remove_cut(tmp_path)
    assert looked == []
    entry.write_bytes(CONTENT[:-7])
    assert remove_cut(tmp_path) == ["a-cache"]
    assert looked == ["a-cache"]


@pytest.mark.usefixtures("zlib_only")
def test_notes_that_are_damaged_are_made_anew(tmp_path):
    (tmp_path / "a-cache").write_bytes(CONTENT)
    (tmp_path / NOTED).write_text("[1, 2]", encoding="utf-8")
    assert remove_cut(tmp_path) == []
    assert remove_cut(tmp_path / "absent") == []
    (tmp_path / NOTED).write_text("{cut", encoding="utf-8")
    assert remove_cut(tmp_path) == []


PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jaxfuse.engine.run_folder.workdir import compilation_cache
compilation_cache(Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).sum()))
"""


@pytest.mark.slow
def test_jax_compiles_a_cut_program_once_and_keeps_it(tmp_path):
    def call() -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        )  # fmt: skip
        return done.stdout, done.stderr

    first, _ = call()
    entries = {path: path.stat().st_size for path in tmp_path.glob("compiled-*/*-cache")}
    for path in entries:
        os.truncate(path, path.stat().st_size // 2)
    assert call() == (first, "")
    assert {path: path.stat().st_size for path in tmp_path.glob("compiled-*/*-cache")} == entries
