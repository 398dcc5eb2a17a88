"""Two sources in their roles: their order, what is folded, what is absent, running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.fusing import RUNNING
from jaxfuse.learning.two_sources import TwoSources, folded, two_source_system
from jaxfuse.models.baselines.u2fusion import Keeping, KeepingForm
from jaxfuse.nn.batch_norm import BatchNorm
from tests.refusals import refused
from tests.tiny_systems import KEY, gradient_descent, same

SOURCES = jax.random.uniform(KEY, (4, 3, 3, 3))


def three_and_one(pair):
    return 3 * pair[..., :1] + pair[..., 1:]


class Weighing(nn.Module):
    """Three times the first and once the second source, normalized by the batch."""

    @nn.compact
    def __call__(self, pair, *, train=False):
        return BatchNorm(train, name="norm", decay=0.9, eps=1e-5, dtype=None)(three_and_one(pair))


def test_more_than_two_are_fused_one_after_the_other():
    presence = jnp.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 1]], jnp.float32)
    absent_is_nan = jnp.where(presence[:, None, None] > 0, SOURCES, jnp.nan)
    a, b, c = (np.asarray(SOURCES[..., slot]) for slot in range(3))
    expected = [3 * (3 * a[0] + b[0]) + c[0], 3 * a[1] + c[1], c[2], 3 * b[3] + c[3]]
    np.testing.assert_allclose(folded(three_and_one, absent_is_nan, presence)[..., 0], expected, rtol=1e-5)


def test_running_statistics_are_a_part_of_what_is_drawn_and_move_in_training():
    network = TwoSources(Weighing())
    params = network.init(KEY, jax.ShapeDtypeStruct((2, 3, 3, 4), jnp.float32))
    assert set(params) == {"norm", RUNNING}
    assert {name: set(part) for name, part in network.networks(params).items() if name != RUNNING} == {
        "norm": {"scale", "bias"}
    }
    pair = SOURCES[..., :2]
    trained, looked = (network.pass_through(params, pair, train=train) for train in (True, False))
    mean = float(three_and_one(pair).mean())
    assert float(trained.running["norm"]["mean"][0]) == pytest.approx(0.1 * mean, rel=1e-5)
    assert float(trained.values.mean()) == pytest.approx(0, abs=1e-5)
    same(looked.running, params[RUNNING])
    np.testing.assert_allclose(looked.values, three_and_one(pair), rtol=1e-4)
    # Four times as bright as a picture can be.
    fused = network.fuse(params, pair, jnp.ones((4, 2)), None).image
    assert (float(fused.max()), float(fused.min()) >= 0) == (1, True)


def test_roles_are_places_in_the_data():
    def made(combos):
        network = TwoSources(Weighing())
        return two_source_system(
            network,
            Keeping(network, KeepingForm()),
            optimizers=gradient_descent("fusion"),
            modalities=("mri", "ct", "pet"),
            combos=combos,
            pairs=("mri+ct",),
        )

    assert made("pairs").trained_combos == (("mri", "ct"), ("mri", "pet"), ("ct", "pet"))
    refused("'ct\\+mri' is not in the order of data.modalities \\(mri, ct, pet\\)", made, ("ct+mri",))
    refused("fuses 2 images at most", made, ("mri+ct+pet",))
