"""The pool of fakes, the order of the updates, and which weights each term moves, on players of a few numbers."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.adversarial import (
    Cycle,
    CycleLosses,
    FakePool,
    adversarial_update,
    critic_objective,
    cyclic_update,
    empty_pool,
    exchange,
    maker_objective,
)
from jaxfuse.learning.state import Aux, create_state
from jaxfuse.losses.adversarial import gan_form
from jaxfuse.losses.image import l1
from tests.tiny_systems import KEY, agree, moved

LOSSES = CycleLosses(gan_form("lsgan"), l1, 10.0)


def _images(*values):
    """A batch with one pixel of one channel per example."""
    return jnp.array(values, jnp.float32).reshape(-1, 1, 1)


def test_until_it_is_full_every_fake_is_stored_and_shown():
    pool = empty_pool(50, _images(0))
    assert pool.images.dtype == jnp.bfloat16
    for first, last in ((0, 30), (30, 50)):
        shown, pool = jax.jit(exchange)(pool, _images(*range(first, last)), jax.random.key(last))
        np.testing.assert_array_equal(shown.ravel(), np.arange(first, last))
        assert int(pool.count) == last
    np.testing.assert_array_equal(pool.images.ravel(), np.arange(50))


def test_a_full_pool_hands_out_a_stored_fake_half_of_the_time_and_keeps_the_new_one_only_then():
    full = FakePool(_images(*-np.arange(1.0, 51.0)).astype(jnp.bfloat16), jnp.int32(50))
    fresh = jnp.arange(1.0, 2001.0)

    @jax.jit
    @jax.vmap
    def once(fake, key):
        shown, pool = exchange(full, fake.reshape(1, 1, 1), key)
        return shown.ravel()[0], pool.images.ravel().astype(jnp.float32), pool.count

    shown, after, count = once(fresh, jax.random.split(KEY, len(fresh)))
    swapped = np.asarray(shown < 0)
    # 2000 draws: the standard deviation of the share is 0.011.
    assert abs(swapped.mean() - 0.5) < 0.045
    np.testing.assert_array_equal(shown[~swapped], fresh[~swapped])
    before = np.asarray(full.images.ravel(), np.float32)
    changed = np.asarray(after) != before
    assert not changed[~swapped].any()
    assert (changed[swapped].sum(1) == 1).all()
    slots = changed[swapped].argmax(1)
    # The one that was handed out is the one that gave its place, to the new fake.
    np.testing.assert_array_equal(before[slots], np.asarray(shown)[swapped])
    stored = np.asarray(after)[swapped][np.arange(len(slots)), slots]
    np.testing.assert_array_equal(stored, np.asarray(fresh.astype(jnp.bfloat16), np.float32)[swapped])
    # Every place is drawn: 1000 draws miss one of 50 with probability 50 exp(-20).
    assert set(slots) == set(range(50))
    assert set(np.asarray(count)) == {50}


def test_examples_of_a_batch_pass_one_after_another():
    """With a pool of one, the second fake can find the first in it."""
    pool = empty_pool(1, _images(0))
    found = set()
    for seed in range(16):
        shown, after = exchange(pool, _images(1, 2), jax.random.key(seed))
        found.add((*map(float, shown.ravel()), float(after.images.ravel()[0])))
    assert found == {(1.0, 2.0, 1.0), (1.0, 1.0, 2.0)}


def test_a_pool_of_size_zero_shows_the_fakes_unrounded():
    fakes = _images(1.0000001, 2)
    shown, after = exchange(empty_pool(0, _images(0)), fakes, KEY)
    np.testing.assert_array_equal(shown, fakes)
    assert after.images.shape == (0, 1, 1)


DUEL = {"maker": optax.sgd(1.0), "critic": optax.sgd(1.0)}


def _updated(state, make, remember):
    """The state after a step in which critic v scores v x, and its metrics."""
    functions = {"make": make, "remember": remember, "judge": lambda v, x: (v * x, Aux({}))}
    return adversarial_update(state, maker="maker", critic="critic", optimizers=DUEL, **functions)


def test_the_maker_moves_against_the_old_critic_and_the_critic_on_the_old_fakes():
    """Maker w gives the fake w; critic v scores v x. Losses w v and v x have gradients v and x."""
    state = create_state(KEY, {"maker": jnp.float32(5.0), "critic": jnp.float32(3.0)}, DUEL)
    seen = []

    def remember(state, fakes):
        seen.append((float(state.params["maker"]), float(state.params["critic"]), float(fakes)))
        return state, fakes + 100.0

    def make(w, v):
        return w * v, Aux({"term": w}, values=w)

    state, metrics = _updated(state, make, remember)
    assert seen == [(2.0, 3.0, 5.0)]  # the maker has moved (5 - 3), the critic not; the fake is the old maker's
    assert float(state.params["critic"]) == 3.0 - 105.0
    assert metrics == {"maker/loss": 15.0, "maker/term": 5.0, "critic/loss": 315.0}
    assert int(state.step) == 1


def test_the_critic_sends_no_gradient_into_the_maker():
    """Fakes arrive without gradient even where the critic's loss would reach the maker through them."""

    def make(w, v):
        return jnp.float32(0) * v, Aux({}, values=w)

    def critic_of(w):
        state = create_state(KEY, {"maker": w, "critic": jnp.float32(3.0)}, DUEL)
        return _updated(state, make, lambda state, fakes: (state, fakes))[0].params["critic"]

    assert float(jax.grad(critic_of)(jnp.float32(5.0))) == 0.0


REAL_A, REAL_B = _images(1.0, 2.0), _images(-1.0, 0.5)
GENERATORS = {"ab": jnp.float32(0.6), "ba": jnp.float32(-0.8)}
CRITICS = {"a": jnp.float32(0.3), "b": jnp.float32(0.9)}


def _translate(generators):
    fake_b, fake_a = generators["ab"] * REAL_A, generators["ba"] * REAL_B
    return Cycle(fake_a, fake_b, generators["ba"] * fake_b, generators["ab"] * fake_a)


def _maker_terms(generators, critics):
    loss, terms = maker_objective(_translate(generators), REAL_A, REAL_B, lambda side, x: critics[side] * x, LOSSES)
    return {"loss": loss, **terms}


def _critic_terms(critics):
    cycle = _translate(GENERATORS)
    fakes = {"a": cycle.fake_a, "b": cycle.fake_b}
    loss, terms = critic_objective(critics, {"a": REAL_A, "b": REAL_B}, fakes, operator.mul, LOSSES)
    return {"loss": loss, **terms}


def test_terms_of_the_generators_by_hand():
    a, b = np.array([1.0, 2.0]), np.array([-1.0, 0.5])
    expected = {
        "adversarial_b": np.mean((0.9 * 0.6 * a - 1) ** 2),
        "adversarial_a": np.mean((0.3 * -0.8 * b - 1) ** 2),
        "cycle_a": np.mean(np.abs(-0.8 * 0.6 * a - a)),
        "cycle_b": np.mean(np.abs(0.6 * -0.8 * b - b)),
    }
    total = expected["adversarial_a"] + expected["adversarial_b"] + 10 * (expected["cycle_a"] + expected["cycle_b"])
    assert _maker_terms(GENERATORS, CRITICS) == pytest.approx(expected | {"loss": total}, rel=1e-5)


def test_terms_of_the_critics_by_hand():
    a, b = np.array([1.0, 2.0]), np.array([-1.0, 0.5])
    critic_a = 0.5 * (np.mean((0.3 * a - 1) ** 2) + np.mean((0.3 * -0.8 * b) ** 2))
    critic_b = 0.5 * (np.mean((0.9 * b - 1) ** 2) + np.mean((0.9 * 0.6 * a) ** 2))
    expected = {"critic_a": critic_a, "critic_b": critic_b, "loss": critic_a + critic_b}
    assert _critic_terms(CRITICS) == pytest.approx(expected, rel=1e-5)


def test_each_term_moves_the_weights_that_it_should_and_no_others():
    gradients = (jax.jacrev(_maker_terms)(GENERATORS, CRITICS), jax.jacrev(_critic_terms)(CRITICS))
    makers, critics = (
        {name: {side for side, slope in slopes.items() if float(slope) != 0} for name, slopes in terms.items()}
        for terms in gradients
    )
    both = {"ab", "ba"}
    assert makers == {"adversarial_a": {"ba"}, "adversarial_b": {"ab"}, "cycle_a": both, "cycle_b": both, "loss": both}
    assert critics == {"critic_a": {"a"}, "critic_b": {"b"}, "loss": {"a", "b"}}


def _cyclic(pool_size):
    """The states before and after a step, and its metrics."""
    optimizers = {"generators": optax.sgd(0.01), "discriminators": optax.sgd(0.1)}
    pool = {"a": empty_pool(pool_size, REAL_A), "b": empty_pool(pool_size, REAL_B)}
    state = create_state(KEY, {"generators": GENERATORS, "discriminators": CRITICS}, optimizers, memory={"pool": pool})

    def step(state):
        return cyclic_update(
            state,
            REAL_A,
            REAL_B,
            optimizers=optimizers,
            maker="generators",
            translate=lambda g: (_translate(g), 7.0 * g["ab"], {"further": g["ab"]}),
            judge=operator.mul,
            losses=LOSSES,
        )

    return state, *jax.jit(step)(state)


def test_a_cyclic_step_moves_generators_by_their_loss_and_critics_by_theirs_at_the_old_fakes():
    before, after, metrics = _cyclic(pool_size=0)
    of_makers = jax.grad(lambda g: _maker_terms(g, CRITICS)["loss"] + 7.0 * g["ab"])(GENERATORS)
    of_critics = jax.grad(lambda critics: _critic_terms(critics)["loss"])(CRITICS)
    for player, rate, wanted in (("generators", 0.01, of_makers), ("discriminators", 0.1, of_critics)):
        agree(moved(before, after, player), {side: rate * slope for side, slope in wanted.items()})
    assert float(metrics["generators/further"]) == pytest.approx(0.6)
    loss = float(_maker_terms(GENERATORS, CRITICS)["loss"]) + 7.0 * 0.6
    assert float(metrics["generators/loss"]) == pytest.approx(loss, rel=1e-5)


def test_each_critic_has_a_pool_of_its_own_fakes():
    _, after, _ = _cyclic(pool_size=2)
    pool = after.memory["pool"]
    cycle = _translate(GENERATORS)
    for side, fakes in (("a", cycle.fake_a), ("b", cycle.fake_b)):
        assert int(pool[side].count) == 2
        np.testing.assert_array_equal(pool[side].images, fakes.astype(jnp.bfloat16))
