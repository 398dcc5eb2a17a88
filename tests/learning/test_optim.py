"""Schedules by their closed forms, and what a change of length costs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.optim import SCHEDULES, adam, scale_by_schedule, with_total_steps


def _rates(schedule, peak, total, steps):
    transform = scale_by_schedule(SCHEDULES[schedule], peak, total)
    state, rates = transform.init({}), []
    for _ in range(steps):
        update, state = transform.update(jnp.ones(()), state)
        rates.append(-float(update))
    return rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [2.0] * 6),
        ("cosine", [1 + math.cos(math.pi * i / 4) for i in range(4)] + [0.0, 0.0]),
        ("linear_second_half", [2.0, 2.0, 2.0, 1.0, 0.0, 0.0]),
    ],
)
def test_rates_follow_the_schedule_and_stay_at_its_end(schedule, expected):
    np.testing.assert_allclose(_rates(schedule, 2.0, 4, 6), expected, atol=1e-6)


def test_adam_is_that_of_optax():
    ours, theirs = adam(learning_rate=0.1, total_steps=9, b1=0.5, b2=0.9), optax.adam(0.1, b1=0.5, b2=0.9)
    params = {"x": jnp.array([1.0, -2.0])}
    states = [ours.init(params), theirs.init(params)]
    for gradient in ([1.0, 2.0], [-3.0, 0.5]):
        updates = []
        for i, transform in enumerate((ours, theirs)):
            update, states[i] = transform.update({"x": jnp.array(gradient)}, states[i], params)
            updates.append(update["x"])
        np.testing.assert_allclose(*updates, rtol=1e-6)


def test_another_length_or_peak_is_the_same_program():
    """Both are data of the state, so the compilation cache knows the step of a longer run already."""

    def program(learning_rate, total_steps):
        transform = adam(learning_rate=learning_rate, total_steps=total_steps, schedule="cosine")
        params = jnp.ones(3)
        return jax.jit(transform.update).lower(params, transform.init(params), params).as_text()

    assert program(1e-3, 100) == program(3e-4, 2000)


def test_with_total_steps_moves_the_end_of_every_schedule_and_nothing_else():
    params = {"x": jnp.ones(2)}
    transform = adam(learning_rate=1.0, total_steps=4, schedule="linear_second_half")
    _, opt_state = transform.update(params, transform.init(params), params)
    both = {"net": opt_state, "critic": opt_state}
    longer = with_total_steps(both, 40)
    assert [float(longer[player][1].total) for player in both] == [40.0, 40.0]
    back = with_total_steps(longer, 4)
    assert jax.tree.structure(back) == jax.tree.structure(both)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, both))
    # Step 3 of 4 would be at half rate; of 40 it is at full rate.
    at_three = longer["net"][1]._replace(count=jnp.int32(3))
    update, _ = scale_by_schedule(SCHEDULES["linear_second_half"], 1.0, 4).update(jnp.ones(()), at_three)
    assert float(update) == -1.0


def test_refusals():
    with pytest.raises(UserError, match="'step' is not known; choose one of constant, cosine, linear_second_half"):
        adam(learning_rate=1.0, total_steps=1, schedule="step")
    with pytest.raises(UserError, match="learning_rate is 0.0; it must be positive"):
        adam(learning_rate=0.0, total_steps=1)
