"""Devices that predict: so many, or groups that share each tile."""

import json
import os
import subprocess
import sys

import jax
import pytest

from jaxfuse.engine.trained.chosen_devices import chosen_devices, first_device
from tests.refusals import refused

# Runs in a process of its own, which has four devices.
_FOUR = """
import json
import numpy as np
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.trained.chosen_devices import chosen_devices
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from tests.engine.valid_phases import drawn, valid_phase, volume

asked, case = Asked(values=("valid",)), volume()
found = {"groups": [len(one.devices) for one in chosen_devices("all", 2)]}
kinds = (("patch", (12, 9, 9), 0, 4), ("chosen", (9, 9, 9), 100, 4), ("odd", (9, 9, 9), 0, 2))
kinds += (("mirrored", (12, 9, 9), 0, 4),)
for name, patch, memory_mb, space in kinds:
    way = {"overlap": 0.4, "weighting": "gaussian", "mirror": "all"} if name == "mirrored" else {}
    phase = valid_phase(patch=patch, memory_mb=memory_mb, validation=way)
    system, weights = drawn(phase)
    try:
        (where,) = chosen_devices(str(space), space)
        many = case_predictor(system, phase, where=where).on_device(where.keep(weights), case, asked)
        one = case_predictor(system, phase)(one_device().keep(weights), case, asked)
        apart = np.abs(many.on_host()["valid"] - one["valid"]).max()
        found[name] = [float(apart), len(many.outputs["valid"].sharding.device_set)]
    except UserError as error:
        found[name] = str(error)
flat = valid_phase(patch=(8, 8))
try:
    case_predictor(drawn(flat)[0], flat, where=chosen_devices("2", 2)[0])
except UserError as error:
    found["flat"] = str(error)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_groups_of_devices_predict_what_one_does():
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "4"}
    done = subprocess.run([sys.executable, "-c", _FOUR], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["groups"] == [2, 2]
    for name in ("patch", "chosen", "mirrored"):
        apart, devices = found[name]
        assert apart < 1e-5
        assert devices == 4
    assert found["odd"].startswith("space is 2, but phase transition predicts in tiles of 9 x 9 x 9, which cannot be")
    assert found["odd"].endswith("give another space, or memory_mb for larger tiles")
    assert found["flat"].endswith("predicts pictures, which fit one device; leave it out")


def test_devices_that_are_not_there_or_make_no_group_are_refused():
    assert chosen_devices("all") == chosen_devices("1") == first_device() == (jax.devices()[0],)
    refused("devices is 2, and this machine has 1", chosen_devices, "2")
    refused("space is 2, but the devices are 1, which cannot be parted into groups of 2", chosen_devices, "1", 2)
