"""Layers of mmFormer that have values of their own."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.models.baselines.mmformer_layers import Positions, PreNormConv
from tests.tiny_systems import KEY


def test_a_map_is_reflected_beyond_its_edge():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 4, 2)), jnp.float32)
    layer = PreNormConv(3)
    variables = layer.init(KEY, x)
    wide = jnp.pad(x, ((0, 0), *((1, 1),) * 3, (0, 0)), mode="reflect")
    # Statistics are those of the map itself.
    mean, std = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
    shown = jax.nn.leaky_relu((wide - mean) / jnp.sqrt(std**2 + 1e-5), 0.2)
    kernel, bias = (variables["params"]["conv"]["layer"][name] for name in ("kernel", "bias"))
    expected = jax.lax.conv_general_dilated(
        shown, kernel, (1, 1, 1), "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x), expected + bias, atol=1e-5)


def test_positions_have_their_grid_and_are_interpolated_for_others():
    positions = Positions((2, 2, 2), 4)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 2, 4)), jnp.float32)
    variables = {"params": {"table": table}}
    np.testing.assert_array_equal(positions.apply(variables, (2, 2, 2))[0], table)
    wider = positions.apply(variables, (4, 2, 2))
    assert wider.shape == (1, 4, 2, 2, 4)
    # Between the centers of the table's cells, and constant beyond them.
    np.testing.assert_allclose(wider[0, [0, 3]], table, atol=1e-6)
    np.testing.assert_allclose(wider[0, 1], 0.75 * table[0] + 0.25 * table[1], atol=1e-6)
