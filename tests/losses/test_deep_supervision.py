"""The mean over levels by hand."""

import jax.numpy as jnp
import numpy as np

from jaxfuse.losses.deep_supervision import supervised


def _error(logits, label):
    """Mean difference of the first channel and the label."""
    return (logits[..., 0] - label).mean()


def test_levels_count_by_halves_on_every_second_and_fourth_voxel():
    label = jnp.asarray(np.arange(16.0).reshape(1, 4, 4))
    fine, half, quarter = jnp.zeros((1, 4, 4, 2)), jnp.ones((1, 2, 2, 2)), jnp.full((1, 1, 1, 2), 7.0)
    # Means of the label: all 7.5; of 0, 2, 8, 10: 5; of 0: 0.
    expected = (-7.5 + 0.5 * (1 - 5) + 0.25 * 7) / 1.75
    np.testing.assert_allclose(supervised(_error)((fine, half, quarter), label), expected, rtol=1e-6)
    thick = jnp.ones((1, 4, 2, 2))  # halved along one axis only
    np.testing.assert_allclose(supervised(_error)((fine, thick), label), (-7.5 + 0.5 * (1 - 7)) / 1.5, rtol=1e-6)


def test_logits_alone_are_held_against_the_label_as_it_is():
    assert float(supervised(_error)(jnp.full((1, 2, 2, 1), 3.0), jnp.ones((1, 2, 2)))) == 2
