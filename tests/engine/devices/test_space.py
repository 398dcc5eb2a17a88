"""Examples that several devices share: convolutions exchange borders, and nothing is gathered."""

import json
import os
import subprocess
import sys

import pytest

from tests.engine.devices.runs import several

# Runs in a process of its own, which has four devices: convolutions of 16 planes, four on each.
_CONVOLUTIONS = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy as np
from jaxfuse.engine.cost.collectives import collectives_of
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.devices.placement import on_mesh
from jaxfuse.nn.conv import conv

placement = on_mesh(jax.devices(), space=4)
rng, found = np.random.default_rng(0), []
for batch, side, strides, padding in [(1, 3, 1, 1), (2, 3, 1, 1), (2, 3, 2, 1), (2, 1, 1, 0)]:
    x = rng.normal(size=(batch, 16, 6, 6, 4)).astype(np.float32)
    kernel = rng.normal(size=(*(side,) * 3, 4, 8)).astype(np.float32)
    def loss(x, kernel):
        return jnp.square(jnp.tanh(conv(x, kernel, strides=strides, padding=padding))).sum()
    def shared(x, kernel):
        with placement.tracing():
            return jax.value_and_grad(loss, (0, 1))(placement.shared(x), kernel)
    given = placement.put(x), placement.keep(kernel)
    lie = placement.state, (placement.batch, placement.state)
    compiled = jax.jit(shared, out_shardings=lie).lower(*given).compile()
    one, many = jax.value_and_grad(loss, (0, 1))(x, kernel), compiled(*given)
    apart = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many))]
    exchanges = collectives_of(CompiledKernels.of(compiled).kernels)
    found.append({"apart": max(apart), "kinds": sorted(exchanges), "most": max(e.largest for e in exchanges.values())})
print(json.dumps(found))
"""


def test_convolutions_exchange_borders_alone():
    done = subprocess.run([sys.executable, "-c", _CONVOLUTIONS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cubes, pairs, strided, single = json.loads(done.stdout)
    for found in (cubes, pairs, strided, single):
        assert found["apart"] < 1e-5
        assert set(found["kinds"]) <= {"all-reduce", "collective-permute"}
    assert single["kinds"] == ["all-reduce"], "kernels of one voxel read nothing of a neighbor"
    # A plane of two examples and of every tap, at most; the gradient of a kernel is summed.
    kernel, plane = 4 * 27 * 4 * 8, 4 * 2 * 6 * 6 * 3 * 8
    assert max(found["most"] for found in (cubes, pairs, strided)) <= max(kernel, plane) + 4


def _whole_volume(wide: bool):
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_ENABLE_X64": str(int(wide))}
    command = [sys.executable, "-m", "tests.engine.devices.whole_volume", "128", "8", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_volume_of_128_voxels_takes_less_than_a_quarter_of_the_memory_on_each_of_eight_devices():
    found = _whole_volume(wide=False)
    assert found["several"]["temporary"] < 0.25 * found["one"]["temporary"]
    # One probability map is put together on every device; all else that is exchanged lies at borders.
    assert found["several"]["collectives"].pop("all-gather")[0] == 1
    assert found["apart"] < 1e-5


@pytest.mark.slow
def test_a_volume_of_128_voxels_is_predicted_as_on_one_device():
    found = _whole_volume(wide=True)
    assert found["apart"] < 1e-6
    assert found["several"]["temporary"] < 0.25 * found["one"]["temporary"]
    assert "all-gather" not in found["several"]["collectives"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "phase", "devices", "space", "batch", "patch", "share"),
    [
        ("cmff", "fusion", 4, 4, 1, (16, 16, 16), 0.4),
        ("cmff", "fusion", 4, 2, 2, (16, 16, 16), 0.4),
        ("cmff", "transition", 4, 4, 1, (16, 16, 16), 0.5),
        ("hyperfusion", "segmentation", 4, 2, 2, (32, 32, 32), 0.5),
    ],
)
def test_a_step_on_shared_examples_equals_that_on_one_device(recipe, phase, devices, space, batch, patch, share):
    found = several(recipe, "tiny", phase, devices, space, False, batch, *patch)
    many, one = found["several"], found["one"]
    assert found["apart"] < 1e-10
    assert many["temporary"] < share * one["temporary"]
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-10)
    assert many["programs"] == 1
