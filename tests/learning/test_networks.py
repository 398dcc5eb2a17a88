"""Networks as functions: drawn apart for each player, with the statistics of each."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from jaxfuse.learning.networks import LinenNetwork, create_state_of
from tests.tiny_systems import KEY


class Scaled(nn.Module):
    """One weight, and a running count of the images seen if `counts`."""

    counts: bool

    @nn.compact
    def __call__(self, image, *, train):
        weight = self.param("weight", nn.initializers.normal(1.0), ())
        if self.counts:
            seen = self.variable("batch_stats", "seen", jnp.zeros, ())
            if train:
                seen.value += len(image)
        return weight * image


def test_players_are_drawn_with_keys_of_their_own():
    image = jnp.ones((2, 1, 1, 1))
    networks = {name: (LinenNetwork(Scaled(name == "a")), image) for name in ("a", "b")}
    state = create_state_of(KEY, networks, {name: optax.sgd(1.0) for name in networks})
    assert state.params["a"]["weight"] != state.params["b"]["weight"]
    assert state.stats == {"a": {"seen": 0.0}, "b": {}}
    network, params, stats = networks["a"][0], state.params["a"], state.stats["a"]
    made, after = network.apply(params, stats, image, train=True)
    np.testing.assert_array_equal(made, params["weight"] * image)
    assert after == {"seen": 2.0}
    assert network.apply(params, after, image, train=False)[1] is after
