"""The moving average of weights: its numbers, and that the weights that learn know nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.learning.averaging import averaging, begun, deployed
from jaxfuse.learning.optim import sgd
from jaxfuse.learning.state import State, create_state
from tests.tiny_systems import same


def _fresh() -> State:
    params = {"net": {"w": jnp.array([1.0, -1.0])}}
    optimizers = {"net": sgd(learning_rate=1.0, total_steps=1)}
    return create_state(jax.random.key(0), params, optimizers, stats={"net": {"mean": jnp.zeros(())}})


def _step(state: State, batch: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    params, stats = {"net": {"w": state.params["net"]["w"] + batch}}, {"net": {"mean": batch}}
    return state.replace(params=params, stats=stats).advance(), {"loss": batch}


def test_the_average_follows_by_its_decay_and_faster_at_first():
    step = jax.jit(averaging(_step, 0.25))
    state, plain = begun(_fresh(), 0.25), _fresh()
    expected, mean = np.array([1.0, -1.0]), 0.0
    for number in range(4):
        state, metrics = step(state, jnp.float32(number))
        plain, _ = _step(plain, jnp.float32(number))
        decay = min(0.25, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * np.asarray(plain.params["net"]["w"])
        mean = decay * mean + (1 - decay) * number
        assert float(metrics["loss"]) == number
    np.testing.assert_allclose(state.average["params"]["net"]["w"], expected, rtol=1e-6)
    np.testing.assert_allclose(state.average["stats"]["net"]["mean"], mean, rtol=1e-6)
    same((state.params, state.stats), (plain.params, plain.stats))
    shown = deployed(state)
    same(shown.params["net"]["w"], state.average["params"]["net"]["w"])
    assert shown.average == {}


def test_without_a_decay_nothing_is_kept_and_the_step_is_the_same():
    assert averaging(_step, 0.0) is _step
    assert begun(_fresh(), 0.0).average == {}
    state = _fresh()
    assert deployed(state) is state
