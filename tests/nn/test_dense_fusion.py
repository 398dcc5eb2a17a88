"""Two sources to one image by dense layers: what each layer reads, the range, norms that are asked for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.nn.batch_norm import BatchNorm
from jaxfuse.nn.dense_fusion import DenseFusion, Layer
from jaxfuse.nn.initializers import truncated_normal
from tests.tiny_systems import KEY, count

COMMON = {"growth": 2, "layers": 2, "narrowing": (3,), "slope": 0.2, "kernel_init": truncated_normal(0.5)}
SOURCES = jax.random.uniform(KEY, (2, 6, 5, 2))


def norm(name: str, train: bool) -> nn.Module:
    return BatchNorm(train, name=name, decay=0.9, eps=1e-3, dtype=None)


def test_a_layer_reads_all_results_before_it():
    params = jax.eval_shape(DenseFusion(**COMMON).init, KEY, SOURCES)["params"]
    read = {name: layer["conv"]["conv"]["kernel"].shape[2:] for name, layer in params["encoder"].items()}
    assert read == {"enter": (2, 2), "dense_1": (2, 2), "dense_2": (4, 2)}
    assert params["decoder"]["narrow_1"]["conv"]["conv"]["kernel"].shape == (3, 3, 6, 3)
    assert params["decoder"]["image"]["conv"]["kernel"].shape == (3, 3, 3, 1)


def test_the_image_is_half_of_one_plus_tanh():
    module = DenseFusion(**{**COMMON, "layers": 0, "narrowing": ()})
    made, variables = jax.jit(module.init_with_output)(KEY, SOURCES)
    entered = Layer(2, 0.2, COMMON["kernel_init"], None, None)
    x = entered.apply({"params": variables["params"]["encoder"]["enter"]}, SOURCES, train=False)
    assert float(x.min()) < 0 < float(x.max())
    kernel = variables["params"]["decoder"]["image"]["conv"]["kernel"]
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    last = jax.lax.conv_general_dilated(wide, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(made, (1 + jnp.tanh(last)) / 2, atol=1e-5)


def test_norms_stand_behind_every_convolution_but_the_last():
    shapes = jax.eval_shape(DenseFusion(**COMMON, norm=norm).init, KEY, SOURCES)
    plain = jax.eval_shape(DenseFusion(**COMMON).init, KEY, SOURCES)
    scales_and_shifts = 2 * (2 + 2 + 2 + 3)
    assert count(shapes["params"]) - count(plain["params"]) == scales_and_shifts == count(shapes["batch_stats"])
    assert "batch_stats" not in plain
