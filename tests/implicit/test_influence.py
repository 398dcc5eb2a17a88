"""Influence of training examples: against derivatives in closed form, and against leaving real ones out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import spearmanr

from jaxfuse import implicit
from tests.implicit.problems import near, refuses

RNG = np.random.default_rng(0)
TRAIN, TEST = ((RNG.normal(size=(count, 3)), RNG.normal(size=count)) for count in (20, 4))
HESSIAN = TRAIN[0].T @ TRAIN[0] / 20 + 0.1 * np.eye(3)
WEIGHTS = np.linalg.solve(HESSIAN, TRAIN[0].T @ TRAIN[1] / 20)


def squared(y, example):
    """The error of one example under a linear model."""
    inputs, answer = example
    return 0.5 * (inputs @ y - answer) ** 2


def decay(y):
    return 0.05 * jnp.sum(y**2)


def test_ridge_regression_in_closed_form():
    """Dense, and with nothing held but a chunk of examples; one solve for each test example, or for their mean."""
    whole = jax.tree.map(lambda leaf: leaf[None], TEST)
    mean = lambda y, examples: jnp.mean(jax.vmap(lambda example: squared(y, example))(examples))
    few = {"chunk": 7, "at_once": 3, "estimator": implicit.cg()}

    @jax.jit
    def found(y):
        of = functools.partial(implicit.influence, squared, TRAIN, penalty=decay)
        return of(TEST, y), of(TEST, y, **few), of(whole, y, test_loss=mean)

    (plain, info), (chunked, _), (averaged, _) = found(WEIGHTS)
    slopes = [(inputs @ WEIGHTS - answers)[:, None] * inputs for inputs, answers in (TRAIN, TEST)]
    exact = slopes[1] @ np.linalg.solve(HESSIAN, slopes[0].T) / 20
    near([plain, chunked, averaged], [exact, exact, exact.mean(0, keepdims=True)], 1e-9)
    assert info.converged.shape == (4,)
    assert info.converged.all()


def test_memory_does_not_grow_with_the_examples_outside_of_a_chunk():
    """A hidden layer of 256 numbers for each example: held for all, or for 16."""
    inputs, y = jnp.ones((512, 4), jnp.float32), jnp.ones((4, 256), jnp.float32)
    loss = lambda y, example: jnp.sum(jnp.tanh(example @ y)) ** 2

    def temporary(chunk):
        options = {"estimator": implicit.identity(), "chunk": chunk}
        program = jax.jit(lambda y: implicit.influence(loss, inputs, inputs[:1], y, **options)[0])
        return program.lower(y).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) < 0.3 * temporary(None)


def test_refused():
    of = lambda train, test=TEST, **options: lambda: implicit.influence(squared, train, test, WEIGHTS, **options)
    refuses(r"train has leaves with first axes of \[19, 20\]", of((TRAIN[0], TRAIN[1][:19])))
    refuses(r"test has leaves with first axes of \['no axis'\]", of(TRAIN, 1.0))
    refuses("train has leaves with first axes of none", of(()))
    refuses("chunk is 0; at least 1", of(TRAIN, chunk=0))
    refuses("at_once is 0; at least 1", of(TRAIN, at_once=0))
    refuses("'fallback' was asked of an influence", of(TRAIN, policy="fallback"))


def cross_entropy(y, example):
    image, label = example
    return -jax.nn.log_softmax(image @ y["w"] + y["b"])[label]


def digits_decay(y):
    return 0.005 * (jnp.sum(y["w"] ** 2) + jnp.sum(y["b"] ** 2))


def mean_entropy(y, examples):
    return jnp.mean(jax.vmap(lambda example: cross_entropy(y, example))(examples))


@functools.partial(jax.jit, static_argnames="steps")
def fit(train, weights, y, steps):
    """Newton steps on the weighted mean loss and its penalty; the model, and the norm of the last slope but one."""
    start, restore = ravel_pytree(y)

    def lower(flat):
        losses = jax.vmap(lambda example: cross_entropy(restore(flat), example))(train)
        return jnp.mean(weights * losses) + digits_decay(restore(flat))

    def step(flat, _):
        slope = jax.grad(lower)(flat)
        return flat - jnp.linalg.solve(jax.hessian(lower)(flat), slope), jnp.linalg.norm(slope)

    flat, slopes = jax.lax.scan(step, start, None, steps)
    return restore(flat), slopes[-1]


@pytest.mark.oracle
def test_fifty_digits_left_out_one_by_one():
    """Real digits, multinomial logistic regression: what is predicted ranks as what retraining to rounding finds."""
    digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn comes with the oracle extra").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = jnp.asarray(digits.data[order] / 16), jnp.asarray(digits.target[order])
    train, test = (images[:250], labels[:250]), (images[250:450], labels[250:450])
    y, slope = fit(train, jnp.ones(250), {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}, 12)
    assert slope < 1e-14
    whole, solver = jax.tree.map(lambda leaf: leaf[None], test), implicit.cg()
    options = {"penalty": digits_decay, "test_loss": mean_entropy, "estimator": solver}
    predicted, info = implicit.influence(cross_entropy, train, whole, y, **options)
    assert info.converged.all()
    found = []
    for place in range(50):
        without, slope = fit(train, jnp.ones(250).at[place].set(0), y, 5)
        assert slope < 1e-12
        found.append(float(mean_entropy(without, test) - mean_entropy(y, test)))
    assert spearmanr(predicted[0, :50], found).statistic >= 0.95
