"""`solve` and the step functions: what goes in, what comes out, and what is refused in a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.implicit import hypergradient, solvers
from tests.implicit.problems import near, refuses
from tests.implicit.solvers.recursions import INNER, LOWER_DATA, OUTER, UPPER_DATA, quadratic

RATES = {"inner": optax.sgd(0.1), "outer": optax.sgd(0.05)}
SOBA = solvers.soba(**RATES)


def point():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=OUTER)), jnp.asarray(rng.normal(size=INNER))


def of_tree(x, y, batch):
    return quadratic(jnp.concatenate([x["b"], x["a"][None]]), y[0], batch)


def test_pytrees_and_a_run_that_goes_on():
    """x is a dict and y a tuple; 6 steps are 3 and 3 more, bit by bit."""
    x, y = point()
    x, y = {"a": x[2], "b": x[:2]}, (y,)
    data = {"data": jax.tree.map(jnp.asarray, (UPPER_DATA, LOWER_DATA))}

    @jax.jit
    def run(x, y, state=None):
        return solvers.solve(of_tree, of_tree, SOBA, x, y, steps=3, key=jax.random.key(2), state=state, **data)

    whole = solvers.solve(of_tree, of_tree, SOBA, x, y, steps=6, key=jax.random.key(2), **data)
    first = run(x, y)
    second = run(x, y, first.state)
    assert int(second.state.step) == 6
    near((second.x, second.y), (whole.x, whole.y), 1e-14)
    near(whole.info.value, jnp.concatenate([first.info.value, second.info.value]), 1e-14)
    assert whole.info.adjoint is None
    assert jax.tree.structure(second.state.q) == jax.tree.structure(y)


def test_a_step_compiles_once_and_stays_on_the_device():
    functions = SOBA.bind(quadratic, quadratic, evidence=True)
    state = functions.init(*point())
    step = jax.jit(functions.update)
    draws = [jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), data) for data in (UPPER_DATA, LOWER_DATA)]
    state, _ = step(state, *draws)
    with jax.transfer_guard("disallow"):
        for _ in range(100):
            state, info = step(state, *draws)
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    # One batch again and again is a problem without noise: the solver has found its solution.
    assert float(info.residual) < 0.05
    upper, lower = (lambda x, y, draw=draw: quadratic(x, y, jax.tree.map(lambda leaf: leaf[0], draw)) for draw in draws)
    exact, _ = hypergradient(upper, lower, state.x, state.y)
    assert float(jnp.linalg.norm(exact)) < 0.5


def test_what_is_refused():
    x, y = point()
    functions = SOBA.bind(quadratic, quadratic)
    state = functions.init(x, y)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), UPPER_DATA)
    two = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), UPPER_DATA)
    refuses("soba takes 1 batch of lower a step, and none came", lambda: functions.update(state, one, None))
    refuses("soba takes 1 batch of upper a step, and the data have shapes", lambda: functions.update(state, two, one))
    saba = solvers.saba(**RATES, upper_batches=5, lower_batches=8).bind(quadratic, quadratic)
    refuses("saba remembers every batch of upper and was not told which came", lambda: saba.update(state, one, one))
    stocbio = solvers.stocbio(**RATES, learning_rate=0.1).bind(quadratic, quadratic)
    refuses("stocbio takes 21 batches of lower a step", lambda: stocbio.update(state, one, two))
    bsa = solvers.bsa(**RATES, learning_rate=0.1).bind(quadratic, quadratic)
    refuses("bsa draws random numbers of its own: pass init a key", lambda: bsa.init(x, y))
    told = lambda: solvers.f2sa(**RATES, penalty=1.0).bind(quadratic, quadratic, evidence=True)
    refuses("f2sa solves no adjoint equation, so there is no residual to measure", told)
    srba = solvers.srba(**RATES, period=2).bind(quadratic, quadratic)
    refuses("srba takes passes over all batches of upper, and they did not come", lambda: srba.update(state, one, one))
    refuses("x has a leaf of type int", lambda: functions.init({"a": x, "n": jnp.array(1)}, y), TypeError)
    refuses("y has no floating-point leaf", lambda: functions.init(x, jnp.array(1)), TypeError)
    refuses("inner_steps=0; a whole number of at least 1", lambda: solvers.amigo(**RATES, inner_steps=0))


def test_what_the_driver_refuses():
    x, y = point()
    options = {"steps": 1, "key": jax.random.key(0)}
    solve = lambda **more: solvers.solve(quadratic, quadratic, SOBA, x, y, **options | more)
    refuses("steps is 0; at least 1", lambda: solve(steps=0))
    uneven = {"a": jnp.ones((3, 1)), "b": jnp.ones((2, 1))}
    refuses("the data of upper has arrays with first axes of lengths", lambda: solve(data=(uneven, None)))
    saba = solvers.saba(**RATES, upper_batches=5, lower_batches=4)
    data = {"data": jax.tree.map(jnp.asarray, (UPPER_DATA, LOWER_DATA))}
    told = lambda: solvers.solve(quadratic, quadratic, saba, x, y, **options, **data)
    refuses("saba was told of 4 batches of lower, and 8 came", told)
    pair = lambda x, y, batch: (quadratic(x, y, batch), 1.0)
    told = lambda: solvers.solve(pair, quadratic, SOBA, x, y, **options, **data)
    refuses("upper(x, y, batch) returned an auxiliary".replace("(", r"\(").replace(")", r"\)"), told, TypeError)


def test_batches():
    data = {"a": jnp.arange(12.0), "b": jnp.ones((12, 2))}
    cut = solvers.split_batches(data, 4)
    assert (cut["a"].shape, cut["b"].shape) == ((3, 4), (3, 4, 2))
    drawn = solvers.draw(cut, jnp.array([2, 0]))
    np.testing.assert_array_equal(drawn.data["a"][:, 0], [8.0, 0.0])
    refuses(
        "data has 12 samples, which batches of 5 do not divide: leave out 2", lambda: solvers.split_batches(data, 5)
    )


@pytest.mark.parametrize(
    "solver", [SOBA, solvers.saba(**RATES, upper_batches=1, lower_batches=1)], ids=["soba", "saba"]
)
def test_functions_without_data(solver):
    """min_x (y - 1)^2 with y = x: the batch is None."""
    upper, lower = lambda x, y, batch: jnp.sum((y - 1) ** 2), lambda x, y, batch: jnp.sum((y - x) ** 2)
    x = jnp.zeros(2)
    found = solvers.solve(upper, lower, solver, x, x, steps=400, key=jax.random.key(0))
    near((found.x, found.y), (jnp.ones(2), jnp.ones(2)), atol=1e-3)
