"""Linear interpolation that keeps corners where they are."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.interpolation import upsample_linear


@pytest.mark.parametrize("factor", [2, 4])
def test_a_ramp_stays_a_ramp_between_the_same_ends(factor):
    sides = (3, 4, 2)
    ramps = np.stack(np.meshgrid(*(np.linspace(-1, 5, side) for side in sides), indexing="ij"), axis=-1)
    finer = np.stack(np.meshgrid(*(np.linspace(-1, 5, factor * side) for side in sides), indexing="ij"), axis=-1)
    made = upsample_linear(jnp.asarray(ramps[None], jnp.float32), factor)
    np.testing.assert_allclose(made[0], finer, atol=1e-5)


def test_one_voxel_fills_its_axis():
    made = upsample_linear(jnp.full((2, 1, 3, 1), 7.0), 2)
    np.testing.assert_array_equal(made, np.full((2, 2, 6, 1), 7.0))
