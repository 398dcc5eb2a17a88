"""Linear interpolation that keeps corners where they are, or centers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.interpolation import upsample_by_centers, upsample_linear


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


def test_centers_lie_evenly_and_values_stay_beyond_the_outer_ones():
    x = jnp.array([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1)
    made = upsample_by_centers(x, 4)[0, :, :, 0]
    ramp = [0.0, 0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.0, 8.0]
    np.testing.assert_allclose(made, [ramp] * 4, atol=1e-6)
    assert upsample_by_centers(x, 1) is x
