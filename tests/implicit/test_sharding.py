"""Split parameters and data give the gradient of one device, on 2 and 8 host devices, and keep their places."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

SCRIPT = Path(__file__).with_name("sharded_hypergradients.py")
ROUTES = ("automatic axis", "explicit axis", "shard_map, weights split", "shard_map, data split")


@pytest.fixture(scope="module")
def findings():
    root = SCRIPT.parents[2]
    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("route", ROUTES)
def test_equals_one_device(findings, route, devices):
    found = [one for one in findings["routes"] if (one["route"], one["devices"]) == (route, devices)]
    assert [one["estimator"] for one in found] == ["default", "minres"]
    # In parts where x is: 528 numbers over the devices; whole on each where only the data are split.
    part = 528 if route == "shard_map, data split" else 528 // devices
    for one in found:
        assert one["error"] <= 1e-8
        assert one["residual"] <= 1e-10
        assert (one["converged"], one["places"], one["part"]) == (True, devices, [part])


def test_few_split_unknowns_are_refused_by_dense_and_solved_by_cg_by_default(findings):
    assert findings["dense"] == "dense needs y on one device or automatic mesh axes, and y is split: use cg"
    # y* = x / 2 for each of eight, and upper is their sum.
    assert findings["small"] == "cg 4.000000 True"
