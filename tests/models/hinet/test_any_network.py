"""Hi-Net's networks from any sources to any target: what is not there is of no account, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.hinet.any_network import AnyToAny, Judged, Question, TargetCritic
from jaxfuse.models.hinet.any_task import Ask
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.fusion import mixed, mixed_over
from tests.refusals import refused
from tests.tiny_systems import KEY, count, counts, drawn, largest, same, shape

SOURCES = ("t1", "t1ce", "t2", "flair")
TINY = HiNetForm(width=1, critic_width=1)
MAPS = tuple(jax.random.normal(key, (3, 2, 2, 2)) for key in jax.random.split(KEY, 3))


def _question(side=8, batch=2, asked=1):
    there = jax.ShapeDtypeStruct((batch, 4), bool)
    return Question(shape(batch, side, side, 4), there, (Ask(there, there),) * asked)


def test_what_is_mixed_by_hand():
    two, three, five = (np.float32(value) for value in (2.0, -3.0, 5.0))
    maps = [jnp.full((1, 1, 1, 1), value) for value in (two, three, five)]

    def joined(*there):
        return mixed_over(maps, jnp.array([there])).ravel().tolist()

    assert joined(True, False, False) == [4, 4, 2]
    assert joined(True, True, False) == [-1, -6, 2]
    np.testing.assert_allclose(joined(True, True, True), [2 / 3 * 4, (-6 + 10 - 15) / 3, 5], rtol=1e-6)
    assert joined(False, False, False) == [0, 0, 0]


def test_of_two_sources_it_is_the_block_of_the_paper():
    present = jnp.array([[True, False, True]] * 3)
    np.testing.assert_array_equal(mixed_over(MAPS, present), mixed([MAPS[0], MAPS[2]]))


def test_an_absent_map_is_of_no_account_and_learns_nothing():
    present = jnp.array([[True, False, False], [True, True, False], [False, True, False]])

    def total(maps):
        return jnp.sin(mixed_over(maps, present)).sum()

    absent = [present[:, place].reshape(-1, 1, 1, 1) for place in range(3)]
    other = tuple(jnp.where(there, one, jnp.nan) for one, there in zip(MAPS, absent, strict=True))
    np.testing.assert_array_equal(mixed_over(other, present), mixed_over(MAPS, present))
    for gradient, there in zip(jax.grad(total)(MAPS), absent, strict=True):
        found = np.abs(gradient).max((1, 2, 3))
        np.testing.assert_array_equal(found > 0, there.ravel())


def test_counts_of_the_paper_size():
    network = AnyToAny(HiNetForm(), SOURCES)
    variables = jax.eval_shape(lambda question: network.init(KEY, question), _question())
    params = variables["params"]
    # The networks of each source and the fusion are those of Hi-Net from two sources.
    for name in SOURCES:
        assert (count(params[f"encoder_{name}"]), count(params[f"decoder_{name}"])) == (287_328, 434_785)
    assert count(params["fusion"]) == 46_368 + 258_624 + 738_048
    blocks = {"block_1": 590_400, "block_2": 147_744, "block_3": 46_272}
    # One hidden layer of 32 reads four targets and four sources; 512 channels are scaled and shifted.
    blocks |= {"layer_1": 295_680, "layer_2": 295_296, "image": 9_601, "target": 9 * 32 + 33 * 2 * 512}
    assert counts(params["synthesis"]) == blocks
    # Four constant channels more, nine weights each for 32 features.
    there = jax.ShapeDtypeStruct((1, 4), bool), jax.ShapeDtypeStruct((1,), bool)
    critic = jax.eval_shape(lambda x: TargetCritic(HiNetForm()).init(KEY, x), Judged(shape(1, 40, 40, 1), *there))
    assert count(critic["params"]) == 391_041 + 4 * 9 * 32


@pytest.fixture(scope="module")
def network():
    """In training: (variables, question) -> what is made, the statistics, and gradients of it all."""
    network = AnyToAny(TINY, SOURCES)
    shapes = jax.eval_shape(lambda question: network.init(KEY, question), _question())
    variables = drawn(shapes, 0.3, positive=("var", "scale"))

    @jax.jit
    def answered(question):
        def loss(params):
            all_of = {"params": params, "batch_stats": variables["batch_stats"]}
            answer, changed = network.apply(all_of, question, train=True, mutable=["batch_stats"])
            back = jnp.where(question.presence[:, None, None], answer.given_back, 0.0)
            return jnp.sin(answer.made[0]).sum() + back.sum(), (answer.made, changed["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    return variables["batch_stats"], answered


@pytest.mark.slow
def test_in_training_what_no_example_is_asked_from_matters_nowhere(network):
    """The target's own image among them: neither the answer, nor a statistic, nor a gradient knows of it."""
    before, answered = network
    sources = jnp.array([[True, False, True, False], [True, False, False, False]])
    target = jnp.array([[False, False, False, True], [False, True, False, False]])
    image = jax.random.uniform(KEY, (2, 8, 8, 4), minval=-1, maxval=1)
    gradient, (made, stats) = answered(Question(image, sources, (Ask(sources, target),)))
    other = jnp.where(sources[:, None, None], image, jnp.nan)
    same(answered(Question(other, sources, (Ask(sources, target),))), (gradient, (made, stats)))
    for name, seen in zip(SOURCES, sources.any(0), strict=True):
        assert (largest(gradient[f"encoder_{name}"]) > 0) == seen
        assert (largest(gradient[f"decoder_{name}"]) > 0) == seen
        if not seen:
            same(stats[f"encoder_{name}"], before[f"encoder_{name}"])
    # What is told of the target is heard.
    _, (others, _) = answered(Question(image, sources, (Ask(sources, target[::-1]),)))
    assert all(np.abs(np.asarray(others[0] - made[0])).max((1, 2, 3)) > 1e-3)


def test_slices_that_do_not_fit_are_refused():
    question = _question()._replace(image=shape(2, 8, 8, 3))
    refused("made for the sources t1, t1ce, t2, flair, got slices of 3", jax.eval_shape, _init, question)
    refused("multiples of 8, got shape", jax.eval_shape, _init, _question(side=12))


def _init(question):
    return AnyToAny(TINY, SOURCES).init(KEY, question)
