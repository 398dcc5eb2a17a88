"""The certificate of a stochastic step: the numbers of dense algebra on the step's batches, at next to no cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.implicit import solvers
from tests.implicit.problems import near
from tests.implicit.solvers.recursions import (
    INNER,
    LOWER,
    LOWER_DATA,
    N_LOWER,
    N_UPPER,
    OUTER,
    UPPER_DATA,
    low_y,
    quadratic,
    up_y,
)

RATES = {"inner": optax.sgd(0.1), "outer": optax.sgd(0.05)}
AMIGO = solvers.amigo(**RATES, inner_steps=2, system_steps=3)


def test_the_certificate_is_that_of_dense_algebra():
    functions = AMIGO.bind(quadratic, quadratic, evidence=True)
    rng = np.random.default_rng(0)
    state = functions.init(jnp.asarray(rng.normal(size=OUTER)), jnp.asarray(rng.normal(size=INNER)))
    lows = [4, 1, 0, 2, 5, 3]
    data = [jax.tree.map(jnp.asarray, each) for each in (UPPER_DATA, LOWER_DATA)]
    draws = [solvers.draw(each, jnp.array(which)) for each, which in zip(data, ([2], lows), strict=True)]
    after, info = jax.jit(functions.update)(state, *draws)
    x, y, q = (np.asarray(part) for part in (state.x, after.y, after.q))
    target, image, slope = up_y(x, y, 2), LOWER["A"][lows[-1]] @ q, low_y(x, y, lows[-1])
    near(info.residual, np.linalg.norm(image - target) / np.linalg.norm(target), 1e-12)
    near(info.least_curvature, q @ image / (q @ q), 1e-12)
    near(info.inner_gradient_norm, np.linalg.norm(slope), 1e-12)
    near(info.adjoint, q, 1e-14)
    assert (info.estimator, int(info.steps), int(info.products)) == ("amigo", 2, 4)
    assert bool(info.solve_converged) == bool(info.residual <= 1)
    assert info.scalars()["finite"]


@pytest.mark.parametrize(
    ("solver", "products"),
    [
        (solvers.soba(**RATES), [1, 1, 1]),
        (solvers.saba(**RATES, upper_batches=N_UPPER, lower_batches=N_LOWER), [1 + N_LOWER, 1, 1]),
        (solvers.srba(**RATES, period=2), [N_LOWER, 2, N_LOWER]),
        (
            solvers.vrbo(**RATES, learning_rate=0.1, period=2, inner_steps=2, terms=3),
            [12 + 3 * N_LOWER, 12, 12 + 3 * N_LOWER],
        ),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_products_of_passes_over_all_batches_are_counted(solver, products):
    data = jax.tree.map(jnp.asarray, (UPPER_DATA, LOWER_DATA))
    start = jnp.zeros(OUTER), jnp.zeros(INNER)
    run = jax.jit(
        lambda: solvers.solve(quadratic, quadratic, solver, *start, steps=3, key=jax.random.key(0), data=data)
    )
    assert run().info.products.tolist() == products


def logistic(x, y, batch):
    features, labels = batch
    logits = features @ y
    return jnp.mean(jax.nn.softplus(logits) - labels * logits) + 0.5 * jnp.exp(x) @ y**2


SOLVERS = {
    "soba": solvers.soba(**RATES),
    "amigo": AMIGO,
    "saba": solvers.saba(**RATES, upper_batches=4, lower_batches=4),
    "stocbio": solvers.stocbio(**RATES, learning_rate=0.1, inner_steps=2, terms=3),
    "mrbo": solvers.mrbo(**RATES, learning_rate=0.1, terms=3),
    "sustain": solvers.sustain(**RATES, learning_rate=0.1, terms=3),
    "fsla": solvers.fsla(**RATES),
    "srba": solvers.srba(**RATES, period=5),
    "vrbo": solvers.vrbo(**RATES, learning_rate=0.1, period=5, inner_steps=2, terms=3),
    "bsa": solvers.bsa(**RATES, learning_rate=0.1, inner_steps=2, terms=3),
}
CHEAP = ("soba", "amigo")


@pytest.mark.parametrize(
    "name", [name if name in CHEAP else pytest.param(name, marks=pytest.mark.slow) for name in SOLVERS]
)
def test_evidence_costs_at_most_a_fifth(name, monkeypatch):
    """By the compiler's count of operations, for logistic regression with 64 weights and batches of 32."""
    monkeypatch.setattr(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True))  # it counts a loop's body once
    solver = SOLVERS[name]
    data = (jnp.ones((4, 32, 64)), jnp.ones((4, 32)))

    def cost(evidence):
        functions = solver.bind(logistic, logistic, evidence=evidence)
        state = functions.init(jnp.zeros(64), jnp.ones(64), jax.random.key(0))

        def step(state, data):
            draws = [solvers.draw(data, jnp.zeros(count, int)) for count in (solver.upper_draws, solver.lower_draws)]
            return functions.update(state, *draws)

        analysis = jax.jit(step).lower(state, data).compile().cost_analysis()
        return analysis["flops"], analysis["bytes accessed"]

    for with_it, without in zip(cost(True), cost(False), strict=True):
        assert without < with_it <= 1.2 * without
