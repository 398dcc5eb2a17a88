"""Cases by a network of which nothing is known but what it answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.preprocess import prepare_case
from jaxfuse.inference.tiling import Asked
from jaxfuse.prediction.predictor import CasePredictor, Network, Way, bound_shapes, seen_axes
from jaxfuse.prediction.programs import over_canvas
from tests.refusals import refused
from tests.untrained_run import case_of


def network(predict, *, ndim=3, margin=0, memory=None):
    return Network(predict, "doubled", ndim, margin, 2, False, partial(over_canvas, predict), lambda: memory)


def doubled(weights, tiles):
    return {"doubled": weights * tiles["image"]}


@pytest.mark.parametrize(("ndim", "tile"), [(3, (6, 6, 6)), (2, (6, 6))])
def test_a_network_goes_over_volumes_and_over_their_slices(ndim, tile):
    case = prepare_case(case_of((14, 12, 10)))
    predict = CasePredictor(network(doubled, ndim=ndim), 1, Way(0.5, 0, "gaussian", (0, 2)), lambda *_: tile)
    found = predict(jnp.float32(2), case, Asked(values=("doubled",)))["doubled"]
    np.testing.assert_allclose(found, 2 * case.image, rtol=1e-6, atol=1e-6)


def test_a_volume_that_does_not_fit_is_refused():
    case = prepare_case(case_of((14, 12, 10)))
    predict = CasePredictor(network(doubled, memory=1000), 2, Way(0, 0, "equal", ()), lambda *_: (6, 6, 6))
    sentence = "an image of 12 x 10 x 8 and the sums of its tiles take 0 MB of the device, which has 0 MB"
    refused(sentence, predict, jnp.float32(2), case, Asked(values=("doubled",)))


def test_axes_that_a_network_sees_are_those_of_the_volume():
    assert seen_axes(3, 1) == (0, 1, 2)
    assert [set(seen_axes(2, axis)) for axis in range(3)] == [{1, 2}, {0, 2}, {0, 1}]


def test_shapes_are_bound_where_arrays_are():
    free, bound = jnp.zeros(3), jax.device_put(jnp.zeros((2, 1)), jax.devices()[0])
    shapes = bound_shapes({"free": free, "bound": bound, "host": np.zeros(4, np.float32)})
    found = {name: (one.shape, one.sharding) for name, one in shapes.items()}
    assert found == {"free": ((3,), None), "bound": ((2, 1), bound.sharding), "host": ((4,), None)}
