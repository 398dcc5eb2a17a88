"""Memory and disk that a preparation takes, as told beforehand."""

import dataclasses
import os

from jaxfuse.data import memory, needs
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.memory import PROCESS_BYTES
from jaxfuse.data.needs import Needs, preparation_needs
from jaxfuse.data.settings import read_data
from jaxfuse.recipes import brats_data
from tests.made_cases import head, nested_cubes, write_case

SHAPE = (24, 20, 16)
NEEDS = Needs(20, 2, 350_000_000, 700_000_000, "float32", 3_600_000_000, 2_000_000_000, 2_100_000_000)


def test_what_shrinks_it_is_named():
    assert NEEDS.told() == (
        "preparing 20 cases takes at most 700 MB of memory (2.1 GB are free) in 2 processes, 350 MB with "
        "data.prepare_workers=1, and a cache of at most 3.6 GB of disk (2.0 GB with data.cache_dtype=float16)"
    )
    halved = dataclasses.replace(NEEDS, processes=1, memory_bytes=350_000_000, cache_dtype="float16", free_bytes=None)
    assert halved.told() == ("preparing 20 cases takes at most 350 MB of memory, and a cache of at most 3.6 GB of disk")


def data_of(root, cache, **changed):
    options = brats_data(modalities=("t1", "t1ce", "t2", "flair"), shape=SHAPE, cases=2, spacing_mm=6.0)
    options.root, options.cache = str(root), str(cache)
    options.update(changed)
    return read_data("data", options)


def test_the_cache_of_a_config_is_no_larger_than_is_told_and_files_are_not_read(tmp_path, monkeypatch):
    for case in ("a", "b", "c"):
        write_case(tmp_path / "root", case, head(SHAPE, ord(case)) | {"seg": nested_cubes(SHAPE, {2: 3, 1: 2, 4: 1})})
    with monkeypatch.context() as blind:
        blind.setattr("jaxfuse.io.nifti._read", None)
        told = {
            dtype: preparation_needs(data_of(tmp_path / "root", "", cache_dtype=dtype))
            for dtype in ("float32", "float16")
        }
        two = preparation_needs(data_of(tmp_path / "root", "", prepare_workers=2))
    assert (told["float32"].cases, told["float32"].processes, two.processes) == (3, 1, 2)
    assert PROCESS_BYTES < told["float32"].memory_bytes < PROCESS_BYTES + 2_000_000
    assert two.memory_bytes == 2 * told["float32"].memory_bytes
    assert told["float32"].half_bytes == told["float16"].cache_bytes < told["float32"].cache_bytes
    for dtype, one in told.items():
        cache = tmp_path / dtype
        open_dataset(data_of(tmp_path / "root", cache, cache_dtype=dtype), lambda *_: None)
        arrays = sum(os.path.getsize(path) for path in cache.rglob("*.npy"))
        assert one.cache_bytes / 3 < arrays < one.cache_bytes + 3 * 5 * 128  # and the headers of five arrays


def test_slices_are_told_and_phantoms_and_pictures_are_not(tmp_path, monkeypatch):
    write_case(tmp_path, "a", head(SHAPE, 0) | {"seg": nested_cubes(SHAPE, {2: 3, 1: 2, 4: 1})})
    told = preparation_needs(data_of(tmp_path, "", source="slices", normalize="percentiles"))
    assert told is not None
    assert told.cases == 1
    assert preparation_needs(data_of("", "")) is None
    assert preparation_needs(dataclasses.replace(data_of(tmp_path, ""), source="pairs2d")) is None


def test_processes_are_those_that_fit(tmp_path, monkeypatch):
    write_case(tmp_path, "a", head(SHAPE, 0))
    write_case(tmp_path, "b", head(SHAPE, 1))
    monkeypatch.setattr(needs, "available_bytes", lambda: 130_000_000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)  # is asked once
    told = preparation_needs(data_of(tmp_path, "", prepare_workers=2))
    assert (told.processes, told.free_bytes) == (1, 130_000_000)
