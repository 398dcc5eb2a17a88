"""The choice of convolutions that oneDNN computes."""

import jax
import jax.numpy as jnp
import pytest

from jaxfuse.nn import library_rule
from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.onednn import convolutions

LARGE = Window((8, 8, 8), (3, 3, 3), (1, 1, 1), (1, 1, 1))
TINY = Window((2, 2, 2), (3, 3, 3), (1, 1, 1), (1, 1, 1))


def _programs(window, dtype):
    x, kernel = jnp.ones((1, *window.sides, 4), dtype), jnp.ones((3, 3, 3, 4, 4), dtype)
    runs = (library_rule.convolve, kernel), (library_rule.input_gradient, kernel), (library_rule.kernel_gradient, x)
    return [str(jax.make_jaxpr(lambda a, b, run=run: run(a, b, window))(x, other)) for run, other in runs]


@pytest.mark.parametrize(
    ("there", "window", "dtype", "taken"),
    [
        (True, LARGE, jnp.float32, True),
        (False, LARGE, jnp.float32, False),
        (True, TINY, jnp.float32, False),
        (True, LARGE, jnp.bfloat16, False),
    ],
)
def test_float32_maps_that_are_not_tiny_go_to_the_library_where_it_is(monkeypatch, there, window, dtype, taken):
    monkeypatch.setattr(convolutions, "available", lambda: there)
    assert ["ffi_call" in program for program in _programs(window, dtype)] == [taken] * 3
