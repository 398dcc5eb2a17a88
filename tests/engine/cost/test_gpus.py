"""Cards that programs are compiled for: their descriptions, and what is refused where the compiler is not there."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.engine.cost import gpus
from jaxfuse.engine.cost.gpus import GPUS, compiled_for, gpu_named
from jaxfuse.engine.cost.kernels import CompiledKernels
from tests.refusals import refused

SQUARE = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def product(a, b):
    return jnp.tanh(a @ b)


def test_a_description_names_what_the_compiler_asks_for():
    text = GPUS["l40s"].target()
    assert "cuda_compute_capability { major: 8 minor: 9 }" in text
    assert "core_count: 142" in text
    assert 'device_description_str: "NVIDIA L40S"' in text
    assert text.count("{") == text.count("}")


def test_refusals(monkeypatch):
    refused("the device 'v100' is not known; choose one of h200, h100, a100, l40s", gpu_named, "v100")

    def absent(**_):
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr(gpus.topologies, "get_topology_desc", absent)
    advice = r'install it by pip install "jaxfuse\[h200\]"'
    refused(advice, compiled_for, GPUS["h200"], jax.jit(product), SQUARE, SQUARE)


@pytest.mark.h200
# The cache of the tests cannot read such a program back, and it is compiled again.
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
@pytest.mark.parametrize("name", GPUS)
def test_a_product_is_one_kernel_or_two_on_every_card(name):
    found = CompiledKernels.of(compiled_for(GPUS[name], jax.jit(product), SQUARE, SQUARE))
    assert 1 <= found.launches <= 3
    assert found.moved_bytes >= 3 * 256 * 256 * 4
    assert found.argument_bytes == 2 * 256 * 256 * 4
