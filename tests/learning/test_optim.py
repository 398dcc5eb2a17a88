"""Schedules by their closed forms, and what a change of length costs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.optim import SCHEDULES, adam, scale_by_schedule, schedule_named, sgd, with_total_steps
from tests.refusals import refused


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
        ("linear_after_third", [2.0, 2.0, 1.5, 0.75, 0.0, 0.0]),
        ("poly", [2 * (1 - i / 4) ** 0.9 for i in range(4)] + [0.0, 0.0]),
    ],
)
def test_rates_follow_the_schedule_and_stay_at_its_end(schedule, expected):
    np.testing.assert_allclose(_rates(schedule, 2.0, 4, 6), expected, atol=1e-6)


def test_hinet_keeps_its_rate_for_100_of_300_epochs_and_ends_at_0():
    rates = 2e-4 * SCHEDULES["linear_after_third"](jnp.array([0, 50, 100, 150, 200, 300]) / 300)
    np.testing.assert_allclose(rates, [2e-4, 2e-4, 2e-4, 1.5e-4, 1e-4, 0.0], rtol=1e-6, atol=1e-12)


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


def test_halving_halves_after_each_stage_and_no_further():
    """140 epochs in stages of 20, with counts whose quotients are rounded in float32."""
    progress = jnp.arange(141, dtype=jnp.float32) / jnp.float32(140)
    rates = schedule_named("halving", stages=7)(progress)
    np.testing.assert_array_equal(rates[:140], [0.5 ** (epoch // 20) for epoch in range(140)])
    assert rates[140] == 0.5**6


def test_stepwise_takes_its_factor_after_each_stage():
    """FILM's: 0.6 of the rate after 50 and after 100 of 150 epochs."""
    progress = jnp.arange(151, dtype=jnp.float32) / jnp.float32(150)
    rates = schedule_named("stepwise", stages=3, factor=0.6)(progress)
    np.testing.assert_allclose(rates[:150], [0.6 ** (epoch // 50) for epoch in range(150)], rtol=1e-6)
    np.testing.assert_allclose(rates[150], 0.36, rtol=1e-6)
    transform = adam(learning_rate=0.5, total_steps=2, schedule="stepwise", stages=2, factor=0.1)
    state, moves = transform.init(jnp.array(0.0)), []
    for _ in range(2):
        update, state = transform.update(jnp.array(3.0), state)
        moves.append(float(update))
    np.testing.assert_allclose(moves, [-0.5, -0.05], rtol=1e-5)


def test_sgd_by_hand():
    """m <- 0.9 m + g + 0.1 w from w = 2, first g = 1 and then g = 3, at rates 0.5 and 0.5 / 2^0.9."""
    transform = sgd(learning_rate=0.5, total_steps=2, momentum=0.9, weight_decay=0.1, schedule="poly")
    w = jnp.array(2.0)
    state = transform.init(w)
    for gradient, momentum, rate in ((1.0, 1.2, 0.5), (3.0, 0.9 * 1.2 + 3 + 0.1 * 1.4, 0.5 * 0.5**0.9)):
        update, state = transform.update(jnp.array(gradient), state, w)
        np.testing.assert_allclose(update, -rate * momentum, rtol=1e-6)
        w = w + update


def test_nesterov_looks_ahead_and_plain_descent_does_not_remember():
    plain = sgd(learning_rate=1.0, total_steps=1)
    state = plain.init(jnp.array(0.0))
    for _ in range(2):
        update, state = plain.update(jnp.array(2.0), state)
        assert float(update) == -2.0
    ahead = sgd(learning_rate=1.0, total_steps=1, momentum=0.5, nesterov=True)
    # m = 2, and the step is 2 + 0.5 m.
    assert float(ahead.update(jnp.array(2.0), ahead.init(jnp.array(0.0)))[0]) == -3.0


def test_clipping_is_over_all_leaves_and_before_all_else():
    gradient = {"x": jnp.array([3.0, 0.0]), "y": jnp.array(4.0)}
    transform = sgd(learning_rate=1.0, total_steps=1, clip_norm=1.0)
    update, _ = transform.update(gradient, transform.init(gradient))
    np.testing.assert_allclose(update["x"], [-0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(update["y"], -0.8, rtol=1e-6)
    clipped = adam(learning_rate=1.0, total_steps=1, clip_norm=1.0)
    small = adam(learning_rate=1.0, total_steps=1)
    _, state = clipped.update(gradient, clipped.init(gradient))
    _, expected = small.update(jax.tree.map(lambda g: g / 5, gradient), small.init(gradient))
    np.testing.assert_allclose(state[1].mu["x"], expected[0].mu["x"], rtol=1e-6)


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
    refused("learning_rate is 0.0; it must be positive", adam, learning_rate=0.0, total_steps=1)
    with pytest.raises(UserError, match="'halving' needs stages of at least 1, got None"):
        adam(learning_rate=1.0, total_steps=1, schedule="halving")
    with pytest.raises(UserError, match="stages is 3, but only halving and stepwise have stages, not 'constant'"):
        adam(learning_rate=1.0, total_steps=1, stages=3)
    with pytest.raises(UserError, match="'stepwise' needs a factor above 0 and at most 1, got None"):
        adam(learning_rate=1.0, total_steps=1, schedule="stepwise", stages=3)
    with pytest.raises(UserError, match="'stepwise' needs a factor above 0 and at most 1, got 1.5"):
        sgd(learning_rate=1.0, total_steps=1, schedule="stepwise", stages=3, factor=1.5)
    with pytest.raises(UserError, match="factor is 0.6, but only the schedule 'stepwise' has one, not 'halving'"):
        adam(learning_rate=1.0, total_steps=1, schedule="halving", stages=3, factor=0.6)
    refused("clip_norm is 0.0; give a positive length", sgd, learning_rate=1.0, total_steps=1, clip_norm=0.0)
    refused("weight_decay is -0.1; it must not be negative", sgd, learning_rate=1.0, total_steps=1, weight_decay=-0.1)
    refused("momentum, which is 0", sgd, learning_rate=1.0, total_steps=1, nesterov=True)
