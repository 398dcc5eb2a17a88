"""The devices that a run asks for, and where its arrays lie on several."""

import json
import subprocess
import sys
from dataclasses import replace

import jax

from jaxfuse.config import parse
from jaxfuse.engine.devices import placement as module
from jaxfuse.engine.devices.placement import (
    check_batches,
    check_sharing,
    check_sides,
    idle_sentence,
    one_device,
    placed,
)
from tests.recipe_phases import config_of
from tests.refusals import refused

# Runs in a process of its own, which has four devices.
_FOUR = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy as np
from jaxfuse.engine.devices.placement import on_mesh, one_device
from jaxfuse.engine.feed.windows import Block, Places, Windows
from jaxfuse.engine.programs import donating

placement = on_mesh(jax.devices())
batch = np.arange(8.0, dtype=np.float32).reshape(8, 1)
shards = sorted(placement.put({"image": batch})["image"].addressable_shards, key=lambda shard: shard.device.id)
places = Places(np.zeros((2, 8), np.int32), np.zeros((2, 8, 1), np.int32), None)
block = placement.put(Block(Windows(placement.keep(jnp.zeros((1, 4, 1))), None, places, (2,), 0)))
state = placement.keep({"w": jnp.ones(3), "rng": jax.random.key(1)})
step = donating(lambda s, b: ({**s, "w": s["w"] * b["image"].mean()}, {"loss": b["image"].sum()}), placement)
after, measured = step(state, placement.put({"image": batch}))
print(json.dumps({
    "name": placement.device_name, "parts": placement.parts, "alone": one_device().parts,
    "rows": [np.asarray(shard.data).ravel().tolist() for shard in shards],
    "places": {shard.data.shape for shard in block.batch.places.start.addressable_shards}.pop(),
    "copies": len(after["w"].addressable_shards), "whole": bool(after["w"].is_fully_replicated),
    "w": np.asarray(after["w"]).tolist(), "loss": measured.rows(),
    "local": [str(one.devices()) for one in jax.tree.leaves(placement.local(after))],
}))
"""


def test_a_batch_is_parted_and_a_state_copied_among_four_devices():
    done = subprocess.run([sys.executable, "-c", _FOUR], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["name"], found["parts"], found["alone"]) == ("4 x cpu", 4, 1)
    assert found["rows"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found["places"] == [2, 2, 1], "examples are parted, not steps"
    assert (found["copies"], found["whole"]) == (4, True)
    assert found["w"] == [3.5, 3.5, 3.5]
    assert found["loss"] == [{"loss": 28}]
    assert set(found["local"]) == {"{CpuDevice(id=0)}"}


def _asking(devices: str, batch: int = 4):
    experiment = parse(config_of("cmff", "tiny"))
    phases = {name: replace(phase, batch=batch) for name, phase in experiment.phases.items()}
    return replace(experiment, devices=devices, phases=phases)


def test_devices_that_are_not_there_and_batches_that_do_not_divide_are_refused(monkeypatch):
    assert placed(_asking("auto")) == placed(_asking("1")) == placed(_asking("all")) == one_device()
    assert idle_sentence(one_device()) == ""
    refused("devices is 'two'; choose auto, all or a number from 1 on", placed, _asking("two"))
    refused("devices is '0'; choose", placed, _asking("0"))
    refused("devices is 2, and this machine has 1; choose all, or a number up to 1", placed, _asking("2"))
    monkeypatch.setattr(module.jax, "local_devices", lambda: jax.devices() * 3)
    refused(
        "phase transition: a batch of 4 cannot be parted evenly among 3 devices; set transition.batch to a multiple of "
        "3, or devices to a number that divides 4",
        placed,
        _asking("all"),
    )
    check_batches({"transition": 6, "fusion": 3}, 3)
    assert idle_sentence(one_device()).startswith("2 of 3 devices of this machine are idle; --config.devices=all")


def test_options_that_so_many_devices_cannot_serve_are_refused():
    check_sharing(8, 4, alone=False, shard_state=True)
    check_sharing(1, 1, alone=True, shard_state=False)
    refused("space is 3, but the devices are 8, which cannot be parted into groups of 3", _sharing, 8, 3, False)
    refused("space is 2, but the devices are 1, which cannot", _sharing, 1, 2, False)
    refused("shard_state is True, but there is one device only; set devices to all", _sharing, 1, 1, True)
    check_sides("fusion", (32, 30, 30), 0, 4)
    check_sides("coronal", (30, 30), 0, 1)
    refused("phase voc: space is 2, but a network of pictures", check_sides, "voc", (32, 32), 0, 2)
    refused(
        "phase fusion: a patch of 30 x 32 x 32 cannot be divided evenly among 4 devices along its first axis; choose "
        "another fusion.patch, or another space",
        check_sides,
        *("fusion", (30, 32, 32), 0, 4),
    )
    refused("32 x 32 x 32, 14 voxels without the margin of its network, cannot", check_sides, "s", (32,) * 3, 9, 4)


def _sharing(count: int, space: int, shard_state: bool) -> None:
    check_sharing(count, space, alone=count == 1, shard_state=shard_state)
