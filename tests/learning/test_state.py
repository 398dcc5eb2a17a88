"""Players, the gradient step and keys, on problems of a few numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.state import Aux, apply_gradient, create_state, descend, initializer_key
from tests.tiny_systems import same

SGD = {"leader": optax.sgd(0.5), "follower": optax.adam(0.1)}
PARAMS = {"leader": {"x": jnp.array([1.0, 2.0])}, "follower": {"y": jnp.array(3.0)}}


def _state(**more):
    return create_state(jax.random.key(7), PARAMS, SGD, **more)


def test_a_fresh_state():
    state = _state(memory={"pool": jnp.ones(2)})
    assert int(state.step) == 0
    assert set(state.params) == set(state.opt_state) == {"leader", "follower"}
    assert state.stats == {"leader": {}, "follower": {}}
    same(state.memory, {"pool": jnp.ones(2)})


def test_players_and_optimizers_must_agree():
    with pytest.raises(ValueError, match=r"players \['follower', 'leader'\] and optimizers \['leader'\]"):
        create_state(jax.random.key(0), PARAMS, {"leader": optax.sgd(1.0)})


def test_descend_is_one_gradient_step_of_one_player():
    def objective(params):
        loss = jnp.sum(params["x"] ** 2)
        return loss, Aux({"half": loss / 2}, stats={"follower": {"mean": jnp.array(9.0)}}, values=params["x"] * 10)

    before = _state()
    after, aux = descend(before, "leader", SGD["leader"], objective)
    # x - 0.5 * 2 x = 0, from the loss 1 + 4.
    np.testing.assert_array_equal(after.params["leader"]["x"], [0.0, 0.0])
    assert {name: float(value) for name, value in aux.metrics.items()} == {"leader/loss": 5.0, "leader/half": 2.5}
    # What an objective hands on is what it computed before the update.
    np.testing.assert_array_equal(aux.values, [10.0, 20.0])
    same(after.stats, {"leader": {}, "follower": {"mean": jnp.array(9.0)}})
    kept = [(s.step, s.memory, s.params["follower"], s.opt_state["follower"]) for s in (after, before)]
    same(*kept)


def test_a_gradient_found_elsewhere_is_applied_as_if_descended():
    before, optimizer = _state(), SGD["leader"]
    gradient, loss = {"x": jnp.array([2.0, 4.0])}, jnp.array(5.0)
    after, aux = apply_gradient(before, "leader", optimizer, gradient, loss, Aux({"half": loss / 2}, values=3))
    expected, said = descend(before, "leader", optimizer, lambda p: (jnp.sum(p["x"] ** 2), Aux({"half": loss / 2})))
    same((after.params, after.opt_state, aux.metrics), (expected.params, expected.opt_state, said.metrics))
    assert aux.values == 3


def test_the_key_of_a_step_depends_on_root_and_step_alone():
    state = _state()
    later = state.advance().advance()
    assert int(later.step) == 2
    expected = jax.random.fold_in(jax.random.key(7), 2)
    np.testing.assert_array_equal(jax.random.key_data(later.key()), jax.random.key_data(expected))
    assert not np.array_equal(jax.random.key_data(state.key()), jax.random.key_data(later.key()))


def test_initializer_keys_are_of_the_fast_generator_and_follow_the_root():
    drawn = [jax.random.normal(initializer_key(jax.random.key(seed)), (4,)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert jax.random.key_impl(initializer_key(jax.random.key(0))) == "rbg"
    assert jax.random.key_impl(_state().rng) == "threefry2x32"
