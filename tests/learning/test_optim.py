"""Schedules by their closed forms, and what a change of length costs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.config import _OPTIMIZERS
from jaxfuse.learning.optim import (
    SCHEDULES,
    accumulated,
    adam,
    by_part,
    held,
    rmsprop,
    scale_by_schedule,
    schedule_named,
    sgd,
    with_total_steps,
)
from tests.refusals import refused
from tests.tiny_systems import largest, minus, same


def _moves(transform, gradients):
    """The updates of one weight of 0 by these gradients."""
    state, moves = transform.init(jnp.array(0.0)), []
    for gradient in gradients:
        update, state = transform.update(jnp.array(gradient), state)
        moves.append(float(update))
    return moves


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
    moves = _moves(scale_by_schedule(SCHEDULES[schedule], 2.0, 4), [-1.0] * 6)
    np.testing.assert_allclose(moves, expected, atol=1e-6)


def test_hinet_keeps_its_rate_for_100_of_300_epochs_and_ends_at_0():
    rates = 2e-4 * SCHEDULES["linear_after_third"](jnp.array([0, 50, 100, 150, 200, 300]) / 300)
    np.testing.assert_allclose(rates, [2e-4, 2e-4, 2e-4, 1.5e-4, 1e-4, 0.0], rtol=1e-6, atol=1e-12)


def test_adam_is_that_of_optax():
    ours, theirs = adam(learning_rate=0.1, total_steps=9, b1=0.5, b2=0.9), optax.adam(0.1, b1=0.5, b2=0.9)
    params = {"x": jnp.array([1.0, -2.0])}
    state, expected_state = ours.init(params), theirs.init(params)
    for gradient in ([1.0, 2.0], [-3.0, 0.5]):
        update, state = ours.update({"x": jnp.array(gradient)}, state, params)
        expected, expected_state = theirs.update({"x": jnp.array(gradient)}, expected_state, params)
        np.testing.assert_allclose(update["x"], expected["x"], rtol=1e-6)


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
    np.testing.assert_allclose(_moves(transform, [3.0, 3.0]), [-0.5, -0.05], rtol=1e-5)


def test_sgd_by_hand():
    """m <- 0.9 m + g + 0.1 w from w = 2, first g = 1 and then g = 3, at rates 0.5 and 0.5 / 2^0.9."""
    transform = sgd(learning_rate=0.5, total_steps=2, momentum=0.9, weight_decay=0.1, schedule="poly")
    w = jnp.array(2.0)
    state = transform.init(w)
    for gradient, momentum, rate in ((1.0, 1.2, 0.5), (3.0, 0.9 * 1.2 + 3 + 0.1 * 1.4, 0.5 * 0.5**0.9)):
        update, state = transform.update(jnp.array(gradient), state, w)
        np.testing.assert_allclose(update, -rate * momentum, rtol=1e-6)
        w = w + update


def test_rmsprop_by_hand():
    optimizer = rmsprop(learning_rate=0.1, total_steps=10, decay=0.75, momentum=0.5)
    state, square, moved = optimizer.init(jnp.array(0.0)), 0.0, 0.0
    for gradient in (2.0, -1.0, 4.0):
        update, state = optimizer.update(jnp.array(gradient), state)
        square = 0.75 * square + 0.25 * gradient**2
        moved = 0.5 * moved + gradient / square**0.5
        assert float(update) == pytest.approx(-0.1 * moved, rel=1e-5)


def test_nesterov_looks_ahead_and_plain_descent_does_not_remember():
    assert _moves(sgd(learning_rate=1.0, total_steps=1), [2.0, 2.0]) == [-2.0, -2.0]
    # m = 2, and the step is 2 + 0.5 m.
    assert _moves(sgd(learning_rate=1.0, total_steps=1, momentum=0.5, nesterov=True), [2.0]) == [-3.0]


def test_clipping_is_over_all_leaves_and_before_all_else():
    gradient = {"x": jnp.array([3.0, 0.0]), "y": jnp.array(4.0)}
    transform = sgd(learning_rate=1.0, total_steps=1, clip_norm=1.0)
    update, _ = transform.update(gradient, transform.init(gradient))
    np.testing.assert_allclose([*update["x"], update["y"]], [-0.6, 0.0, -0.8], rtol=1e-6)
    clipped, small = (adam(learning_rate=1.0, total_steps=1, clip_norm=limit) for limit in (1.0, None))
    _, state = clipped.update(gradient, clipped.init(gradient))
    _, expected = small.update(jax.tree.map(lambda g: g / 5, gradient), small.init(gradient))
    np.testing.assert_allclose(state[1].mu["x"], expected[0].mu["x"], rtol=1e-6)


def test_adam_with_weight_decay_is_adamw_of_optax():
    params, gradient = {"x": jnp.array([1.0, -2.0])}, {"x": jnp.array([0.3, 4.0])}
    ours, theirs = adam(learning_rate=0.1, total_steps=9, weight_decay=0.2), optax.adamw(0.1, weight_decay=0.2)
    found, _ = ours.update(gradient, ours.init(params), params)
    expected, _ = theirs.update(gradient, theirs.init(params), params)
    np.testing.assert_allclose(found["x"], expected["x"], rtol=1e-6)


def test_a_warm_up_rises_in_equal_parts_and_the_schedule_begins_after_it():
    transform = sgd(learning_rate=2.0, total_steps=8, schedule="linear_second_half", warmup_steps=4)
    np.testing.assert_allclose(_moves(transform, [-1.0] * 8), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 1.0], rtol=1e-6)
    longer = with_total_steps(transform.init(jnp.array(0.0)), 12)
    late = (longer[0]._replace(count=jnp.int32(10)),)
    assert float(transform.update(jnp.array(-1.0), late)[0]) == 1.0


def test_accumulated_steps_make_one_update_of_their_mean_gradient():
    transform = accumulated(sgd(learning_rate=1.0, total_steps=8, schedule="linear_second_half"), 2)
    # Updates after steps 2, 4, 6, 8, at the rates of steps 0, 2, 4, 6 of 8.
    assert _moves(transform, [1.0, 3.0] * 4) == [0, -2, 0, -2, 0, -2, 0, -1]
    clipped = accumulated(sgd(learning_rate=1.0, total_steps=2, clip_norm=1.0), 2)
    assert _moves(clipped, [10.0, -8.0]) == [0, -1], "the mean is cut, not each gradient"
    both = accumulated(adam(learning_rate=1.0, total_steps=4, warmup_steps=4), 2)
    np.testing.assert_allclose(_moves(both, [5.0] * 4), [0, -0.5, 0, -1], rtol=1e-4)


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
    stepwise = {"schedule": "stepwise", "stages": 3}
    for make, said, options in (
        (adam, "'step' is not known; choose one of constant, cosine, linear_second_half", {"schedule": "step"}),
        (adam, "learning_rate is 0.0; it must be positive", {"learning_rate": 0.0}),
        (adam, "'halving' needs stages of at least 1, got None", {"schedule": "halving"}),
        (adam, "stages is 3, but only halving and stepwise have stages, not 'constant'", {"stages": 3}),
        (adam, "'stepwise' needs a factor above 0 and at most 1, got None", stepwise),
        (sgd, "'stepwise' needs a factor above 0 and at most 1, got 1.5", stepwise | {"factor": 1.5}),
        (
            adam,
            "factor is 0.6, but only the schedule 'stepwise' has one, not 'halving'",
            stepwise | {"schedule": "halving", "factor": 0.6},
        ),
        (sgd, "clip_norm is 0.0; give a positive length", {"clip_norm": 0.0}),
        (sgd, "weight_decay is -0.1; it must not be negative", {"weight_decay": -0.1}),
        (sgd, "momentum, which is 0", {"nesterov": True}),
    ):
        refused(said, make, **{"learning_rate": 1.0, "total_steps": 1} | options)


# Whatever a recipe can say of a player, where momentum or weight decay would move weights that have no gradient.
RESTLESS = {
    "adam": ({}, {"b1": 0.5}, {"clip_norm": 1.0}, {"schedule": "halving", "stages": 2}),
    "rmsprop": ({"momentum": 0.5},),
    "sgd": ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}, {"clip_norm": 1.0}),
}


def _trained(optimizer, steps, params):
    """(parameters, optimizer state) after steps of (gradients, moves)."""
    state = optimizer.init(params)
    for gradient, moves in steps:
        update, after = optimizer.update(gradient, state, params)
        moved = optax.apply_updates(params, update)
        params, state = held(moves, moved, params), held(moves, after, state)
    return params, state


@pytest.mark.parametrize(("kind", "options"), [(kind, one) for kind, all_ in RESTLESS.items() for one in all_])
def test_a_part_that_rests_keeps_weights_and_moments_bit_by_bit(kind, options):
    optimizer = by_part(_OPTIMIZERS[kind](learning_rate=0.1, total_steps=16, **options))
    params = {name: {"x": jnp.array([1.0, -2.0])} for name in ("shown", "absent")}
    slope, none = {"x": jnp.array([0.3, -4.0])}, {"x": jnp.zeros(2)}
    both = ({"shown": slope, "absent": slope}, {"shown": jnp.array(True), "absent": jnp.array(True)})
    one = ({"shown": slope, "absent": none}, {"shown": jnp.array(True), "absent": jnp.array(False)})
    before, _ = _trained(optimizer, [both] * 3, params)
    after, state = _trained(optimizer, [both] * 3 + [one] * 5, params)
    same(after["absent"], before["absent"])
    assert largest(minus(after["shown"], before["shown"])) > 0.01
    # It goes on as if it had not rested, but for a rate that has meanwhile gone down.
    later, _ = _trained(optimizer, [both] * 3 + [one] * 5 + [both], params)
    without, _ = _trained(optimizer, [both] * 4, params)
    halved = 0.5 if "schedule" in options else 1.0
    gone, all_of_it = (minus(tree["absent"], before["absent"])["x"] for tree in (later, without))
    np.testing.assert_allclose(gone, halved * all_of_it, rtol=1e-5)
    counts = {part: int(own[-1].count) for part, own in state.items()}
    assert counts == {"shown": 8, "absent": 8}


def test_every_optimizer_of_a_recipe_can_rest_and_one_that_mixes_parts_is_refused():
    assert set(RESTLESS) == set(_OPTIMIZERS)
    mixed = adam(learning_rate=0.1, total_steps=4).init({"a": jnp.zeros(2)})
    with pytest.raises(ValueError, match="make the optimizer by_part"):
        held({"a": jnp.array(True)}, mixed, mixed)
