"""Peers in PyTorch are the same computations as the Systems that they are timed against."""

import importlib

import numpy as np
import pytest

from experiments.throughput import loader
from experiments.throughput.systems import CASES


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_a_peer_is_the_same_computation(name):
    pytest.importorskip("torch")
    parity = importlib.import_module("experiments.throughput.parity")
    found = parity.compare(name)
    assert found["outputs"] < parity.FORWARD
    assert found["losses"] < parity.FORWARD
    assert found["gradients"] < parity.GRADIENT


def test_the_loaders_are_compared_on_equal_crops_and_counted_apart_from_their_start(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SHAPE", (20, 22, 18))
    monkeypatch.setattr(loader, "BRAIN", (6, 8, 6))
    monkeypatch.setattr(loader, "CASES", 2)
    files = loader.made_files(tmp_path / "files")
    assert loader.made_files(tmp_path / "files") == files
    for sides in ((8, 8, 8), (8, 8)):
        task = loader.Task("small", sides, batch=2, count=3)
        (way,) = ways = [loader.ours(loader.our_cases(files, tmp_path / "cache", task), task, threads=1)]
        for _ in range(2):
            way.take_turn(task, task.count)
        assert len(way.rates) == 2
        assert loader.fastest(ways) is way
        (first, *_, last) = way.stream(task.count)
        loader.check(last, task)
        with pytest.raises(ValueError, match="is no batch of"):
            loader.check({**first, "label": first["label"].astype(np.int32)}, task)
