"""Stochastic solvers given what they cannot take: too few batches or too many, other functions or variables."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxfuse.implicit import solvers
from tests.faults.catalogue import given, table
from tests.implicit.problems import refuses
from tests.implicit.solvers.recursions import INNER, LOWER_DATA, OUTER, UPPER_DATA, quadratic

RATES = {"inner": optax.sgd(0.1), "outer": optax.sgd(0.05)}
SOBA = solvers.soba(**RATES)
X, Y = jnp.ones(OUTER), jnp.ones(INNER)


def batches(count):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[:count]), UPPER_DATA)


@table(
    "make,upper,lower,sentence",
    (
        "a step without a batch of one level",
        "refused",
        SOBA,
        1,
        None,
        "soba takes 1 batch of lower a step, and none came",
    ),
    ("two batches for a solver of one", "refused", SOBA, 2, 1, "soba takes 1 batch of upper a step, and the data have"),
    (
        "one batch for a solver of many",
        "refused",
        solvers.stocbio(**RATES, learning_rate=0.1),
        1,
        1,
        "stocbio takes 21 batches of lower a step",
    ),
    (
        "batches for a solver with a memory, without their numbers",
        "refused",
        solvers.saba(**RATES, upper_batches=5, lower_batches=8),
        1,
        1,
        "saba remembers every batch of upper and was not told which came",
    ),
    (
        "batches alone for a solver that passes over all of them now and then",
        "refused",
        solvers.srba(**RATES, period=2),
        1,
        1,
        "srba takes passes over all batches of upper, and they did not come",
    ),
)
def test_batches(make, upper, lower, sentence):
    functions = make.bind(quadratic, quadratic)
    state = functions.init(jnp.asarray(X, float), jnp.asarray(Y, float))
    draws = [None if count is None else batches(count) for count in (upper, lower)]
    refuses(sentence, lambda: functions.update(state, *draws))


@given("a solver that draws random numbers, without a key", "refused")
def test_no_key():
    bsa = solvers.bsa(**RATES, learning_rate=0.1).bind(quadratic, quadratic)
    refuses("bsa draws random numbers of its own: pass init a key", lambda: bsa.init(X, Y))


@given("evidence of a solver that solves no adjoint equation", "refused")
def test_no_adjoint():
    told = lambda: solvers.f2sa(**RATES, penalty=1.0).bind(quadratic, quadratic, evidence=True)
    refuses("f2sa solves no adjoint equation, so there is no residual to measure", told)


@given("whole numbers among the variables of a solver, or none but whole numbers", "refused")
def test_whole_numbers():
    functions = SOBA.bind(quadratic, quadratic)
    refuses("x has a leaf of type int", lambda: functions.init({"a": X, "n": jnp.array(1)}, Y), TypeError)
    refuses("y has no floating-point leaf", lambda: functions.init(X, jnp.array(1)), TypeError)


@given("a function of a solver that returns an auxiliary beside its value", "refused")
def test_auxiliary():
    pair = lambda x, y, batch: (quadratic(x, y, batch), 1.0)
    functions = SOBA.bind(pair, quadratic)
    x, y = jnp.asarray(X, float), jnp.asarray(Y, float)
    told = lambda: functions.update(functions.init(x, y), batches(1), batches(1))
    refuses(r"upper\(x, y, batch\) returned an auxiliary", told, TypeError)


@table(
    "change,sentence",
    ("a run of no steps", "refused", {"steps": 0}, "steps is 0; at least 1"),
    (
        "arrays of data with different numbers of batches",
        "refused",
        {"data": ({"a": jnp.ones((3, 1)), "b": jnp.ones((2, 1))}, None)},
        "the data of upper has arrays with first axes of lengths",
    ),
    (
        "a memory for another number of batches than there are",
        "refused",
        {"solver": solvers.saba(**RATES, upper_batches=5, lower_batches=4)},
        "saba was told of 4 batches of lower, and 8 came",
    ),
)
def test_runs(change, sentence):
    data = jax.tree.map(jnp.asarray, (UPPER_DATA, LOWER_DATA))
    given = {"solver": SOBA, "steps": 1, "key": jax.random.key(0), "data": data} | change
    x, y = jnp.asarray(X, float), jnp.asarray(Y, float)
    refuses(sentence, lambda: solvers.solve(quadratic, quadratic, given.pop("solver"), x, y, **given))


@given("samples that batches of a size do not divide", "refused, with how many to leave out")
def test_cutting():
    data = {"a": jnp.arange(12.0), "b": jnp.ones((12, 2))}
    told = lambda: solvers.split_batches(data, 5)
    refuses("data has 12 samples, which batches of 5 do not divide: leave out 2", told)


@pytest.mark.parametrize("settings", [{"inner_steps": 0}, {"system_steps": -1}])
def test_settings(settings):
    (name,) = settings
    refuses(f"amigo got {name}=.*; a whole number of at least 1", lambda: solvers.amigo(**RATES, **settings))
