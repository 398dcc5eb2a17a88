"""The devices that a run asks for, and where its arrays lie on several."""

import json
import subprocess
import sys

import jax

from jaxfuse.engine.devices import placement as module
from jaxfuse.engine.devices.placement import (
    check_batches,
    check_sharing,
    check_sides,
    idle_sentence,
    one_device,
    placed,
)
from tests.faults.test_devices_asked_for import asking

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


def test_a_run_takes_the_devices_that_it_asks_for(monkeypatch):
    assert placed(asking("auto")) == placed(asking("1")) == placed(asking("all")) == one_device()
    assert idle_sentence(one_device()) == ""
    monkeypatch.setattr(module.jax, "local_devices", lambda: jax.devices() * 3)
    assert idle_sentence(one_device()).startswith("2 of 3 devices of this machine are idle; --config.devices=all")


def test_options_that_so_many_devices_can_serve():
    check_batches({"transition": 6, "fusion": 3}, 3)
    check_sharing(8, 4, alone=False, shard_state=True)
    check_sharing(1, 1, alone=True, shard_state=False)
    check_sides("fusion", (32, 30, 30), 0, 4)
    check_sides("coronal", (30, 30), 0, 1)
