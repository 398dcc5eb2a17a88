"""Peers in PyTorch are the same computations as the Systems that they are timed against; loaders; lines to tables."""

import importlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments.throughput import loader
from experiments.throughput.ceilings import measure
from experiments.throughput.systems import CASES
from experiments.throughput.table import read_lines, table

SCRIPT = Path(__file__).parents[2] / "experiments" / "throughput" / "run_h200.sh"


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_a_peer_is_the_same_computation(name):
    pytest.importorskip("torch")
    parity = importlib.import_module("experiments.throughput.parity")
    found = parity.compare(name)
    assert found["outputs"] < parity.FORWARD
    assert found["losses"] < parity.FORWARD
    assert found["gradients"] < CASES[name]("tiny").gradient


@pytest.mark.torch
def test_a_name_on_one_side_only_is_told():
    torch = pytest.importorskip("torch")
    names = importlib.import_module("experiments.throughput.names")
    with pytest.raises(ValueError, match=r"on one side only: \['bias', 'conv.weight', 'weight'\]"):
        names.copy_weights({"conv": {"kernel": torch.zeros(1, 1).numpy()}}, torch.nn.Linear(1, 1))
    kernel = torch.zeros(3, 1).numpy()
    with pytest.raises(ValueError, match=r"weight is \(1, 2\) there and \(1, 3\) here"):
        names.copy_weights({"kernel": kernel}, torch.nn.Linear(2, 1, bias=False))


def test_the_table_takes_the_better_layout_and_says_what_is_not_measured(tmp_path):
    common = {"system": "cmff", "size": "cpu", "batch": 2, "dtype": "float32"}
    ours = {**common, "side": "jaxfuse", "form": "compiled", "best_s": 1.0, "flops": 123e9, "compile_s": 10.2}
    theirs = {**common, "side": "torch", "best_s": 0.9, "form": "eager contiguous"}
    better = {**theirs, "best_s": 0.8, "form": "eager channels_last"}
    alone = {**theirs, "system": "cmft"}
    product = {"ceiling": "product", "side": 2048, "dtype": "float32", "flops_per_s": 180e9}
    file = tmp_path / "lines.jsonl"
    lines = [ours, theirs, better, alone, product, {"item": "hinet", "skipped": "3 s were left"}]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    text = table(read_lines([file]))
    assert "| cmff | 32 x 32 x 32 x 2, float32 | 0.800 (channels_last) | 1.000 | 0.80 | 123 | 10 |" in text
    assert "| cmft | 32 x 32 x 32 x 2, float32 | 0.900 (contiguous) | not measured | not measured |  |  |" in text
    assert "| hinet | 128 x 128, float32 | not measured | not measured | not measured |  |  |" in text
    assert "Product of 2048^2 matrices, float32: 180 GFLOP/s." in text
    assert "hinet: skipped, 3 s were left." in text


def test_ceilings_are_rates():
    lines = list(measure(side=32, copied_bytes=4096, rounds=1, calls=1))
    assert [(line["ceiling"], line.get("dtype")) for line in lines] == [
        ("product", "float32"),
        ("product", "bfloat16"),
        ("copy", None),
    ]
    assert all(line.get("flops_per_s", line.get("bytes_per_s")) > 0 for line in lines)


@pytest.mark.parametrize("part", ["first", "second"])
def test_the_prepared_run_names_systems_that_there_are(part, tmp_path):
    run = subprocess.run(
        ["bash", str(SCRIPT), "560", part, str(tmp_path)],
        env={**os.environ, "DRY": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    asked = [line.split("--system ")[1].split()[0] for line in run.stdout.splitlines() if "--system" in line]
    assert asked
    assert set(asked) <= set(CASES)
    assert run.stderr == ""


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
