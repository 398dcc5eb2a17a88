"""`solve` and the step functions: what goes in and what comes out; refusals are in test_faults_solvers.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.implicit import hypergradient, solvers
from tests.implicit.problems import near
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


def test_batches():
    data = {"a": jnp.arange(12.0), "b": jnp.ones((12, 2))}
    cut = solvers.split_batches(data, 4)
    assert (cut["a"].shape, cut["b"].shape) == ((3, 4), (3, 4, 2))
    drawn = solvers.draw(cut, jnp.array([2, 0]))
    np.testing.assert_array_equal(drawn.data["a"][:, 0], [8.0, 0.0])


@pytest.mark.parametrize(
    "solver", [SOBA, solvers.saba(**RATES, upper_batches=1, lower_batches=1)], ids=["soba", "saba"]
)
def test_functions_without_data(solver):
    """min_x (y - 1)^2 with y = x: the batch is None."""
    upper, lower = lambda x, y, batch: jnp.sum((y - 1) ** 2), lambda x, y, batch: jnp.sum((y - x) ** 2)
    x = jnp.zeros(2)
    found = solvers.solve(upper, lower, solver, x, x, steps=400, key=jax.random.key(0))
    near((found.x, found.y), (jnp.ones(2), jnp.ones(2)), atol=1e-3)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float32])
def test_variables_keep_their_types(kind):
    loss = lambda x, y, batch: jnp.mean((jnp.sum(y) + jnp.sum(x) - batch) ** 2) + jnp.sum(y**2)
    x, y, data = jnp.ones(3, kind), jnp.ones((2, 2), kind), jnp.ones((4, 1), kind)
    for solver in (SOBA, solvers.mrbo(**RATES, learning_rate=0.1, terms=2), solvers.bome(**RATES, inner_steps=2)):
        options = {"steps": 2, "key": jax.random.key(0), "data": (data, data), "evidence": solver.has_adjoint}

        def run(x, y, solver=solver, options=options):
            found = solvers.solve(loss, loss, solver, x, y, **options)
            return found.x, found.y, found.info.value

        found = jax.eval_shape(run, x, y)
        assert [leaf.dtype for leaf in found] == [kind, kind, jnp.float32]
