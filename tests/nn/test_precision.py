"""Arithmetic by name: float32 follows inputs and weights, or casts to it."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.nn.conv import Conv
from jaxfuse.nn.precision import cast_dtype, layer_dtype
from tests.refusals import refused

WIDE, NARROW = jnp.float32, jnp.bfloat16


def test_names():
    found = [read(name) for read in (layer_dtype, cast_dtype) for name in ("float32", "bfloat16")]
    assert found == [None, NARROW, WIDE, NARROW]
    for read in (layer_dtype, cast_dtype):
        refused("dtype is 'half'; choose one of float32, bfloat16", read, "half")


@pytest.mark.parametrize(
    ("dtype", "given", "made"),
    # Third: a map that a bfloat16 layer left behind.
    [(None, WIDE, WIDE), (WIDE, WIDE, WIDE), (None, NARROW, WIDE), (NARROW, WIDE, NARROW)],
)
def test_layers_answer_in_it(dtype, given, made):
    image = jax.ShapeDtypeStruct((1, 4, 4, 1), given)
    out = jax.eval_shape(lambda x: Conv(2, 3, dtype=dtype).init_with_output(jax.random.key(0), x)[0], image)
    assert out.dtype == made
