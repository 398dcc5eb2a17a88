"""Arithmetic by name: float32 follows inputs and weights, or casts to it."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.errors import UserError
from jaxfuse.nn.conv import Conv
from jaxfuse.nn.precision import cast_dtype, layer_dtype


def test_names():
    assert (layer_dtype("float32"), layer_dtype("bfloat16")) == (None, jnp.bfloat16)
    assert (cast_dtype("float32"), cast_dtype("bfloat16")) == (jnp.float32, jnp.bfloat16)
    for read in (layer_dtype, cast_dtype):
        with pytest.raises(UserError, match="dtype is 'half'; choose one of float32, bfloat16"):
            read("half")


@pytest.mark.parametrize(
    ("dtype", "given", "made"),
    [
        (layer_dtype("float32"), jnp.float32, jnp.float32),
        (cast_dtype("float32"), jnp.float32, jnp.float32),
        # A map that a bfloat16 layer left behind.
        (layer_dtype("float32"), jnp.bfloat16, jnp.float32),
        (cast_dtype("bfloat16"), jnp.float32, jnp.bfloat16),
    ],
)
def test_layers_answer_in_it(dtype, given, made):
    image = jax.ShapeDtypeStruct((1, 4, 4, 1), given)
    out = jax.eval_shape(lambda x: Conv(2, 3, dtype=dtype).init_with_output(jax.random.key(0), x)[0], image)
    assert out.dtype == made
