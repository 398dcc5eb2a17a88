"""Rates of parts."""

import jax.numpy as jnp
import pytest

from jaxfuse.learning.optim import adam
from jaxfuse.learning.part_rates import with_part_rates
from tests.refusals import refused


def test_updates_of_parts_are_multiplied_and_states_are_those_of_the_optimizer():
    params = {"a": {"trunk": jnp.array([1.0, 2.0]), "head": jnp.array(1.0)}, "b": jnp.array(3.0)}
    plain = adam(learning_rate=0.1, total_steps=4, weight_decay=0.5)
    slow = with_part_rates(plain, {"a/trunk": 0.25, "b": 0.0})
    gradient = {"a": {"trunk": jnp.array([4.0, -1.0]), "head": jnp.array(2.0)}, "b": jnp.array(-2.0)}
    (update, state), (expected, other) = (one.update(gradient, one.init(params), params) for one in (slow, plain))
    assert update["a"]["trunk"].tolist() == pytest.approx((0.25 * expected["a"]["trunk"]).tolist())
    assert float(update["a"]["head"]) == float(expected["a"]["head"]) != 0
    assert float(update["b"]) == 0 != float(expected["b"])
    assert str(state) == str(other)


def test_what_is_wrong_is_refused():
    plain = adam(learning_rate=0.1, total_steps=4)
    refused("the rates of parts are {'a': -1.0}; they must not be negative", with_part_rates, plain, {"a": -1.0})
    slow, params = with_part_rates(plain, {"a/trunk": 0.5}), {"a": jnp.array(1.0)}
    refused("a rate is given for a/trunk, and the parameters have no such part", slow.update, params, slow.init(params))
