"""Each solver against its published recursion in NumPy: 100 steps on a tiny quadratic, equal to 1e-10.

The same program holds three more promises: two problems by `vmap` are two by a loop, all steps are one program that
never leaves the device, and a step compiles once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.implicit import solvers
from tests.implicit.solvers import recursions
from tests.implicit.solvers.recursions import (
    INNER,
    INNER_STEPS,
    LOWER_DATA,
    N_LOWER,
    N_UPPER,
    OUTER,
    STEPS,
    TERMS,
    UPPER_DATA,
    quadratic,
)

RATES = {"inner": optax.sgd(recursions.RATE), "outer": optax.sgd(recursions.OUTER_RATE)}
SYSTEM = {"system": optax.sgd(recursions.SYSTEM_RATE)}
SERIES = {"learning_rate": recursions.SERIES_RATE, "inner_steps": INNER_STEPS}
SHARES = dict(zip(("inner_share", "outer_share"), recursions.SHARES, strict=True))
SOLVERS = {
    "soba": solvers.soba(**RATES, **SYSTEM),
    "saba": solvers.saba(**RATES, upper_batches=N_UPPER, lower_batches=N_LOWER),
    "amigo": solvers.amigo(**RATES, **SYSTEM, inner_steps=INNER_STEPS, system_steps=TERMS),
    "stocbio": solvers.stocbio(**RATES, **SERIES, terms=TERMS),
    "bsa": solvers.bsa(**RATES, **SERIES, terms=TERMS),
    "mrbo": solvers.mrbo(**RATES, learning_rate=recursions.SERIES_RATE, terms=TERMS, **SHARES),
    "sustain": solvers.sustain(**RATES, learning_rate=recursions.SERIES_RATE, terms=TERMS, **SHARES),
    "fsla": solvers.fsla(**RATES, **SYSTEM, outer_share=lambda step: recursions.SHARES[1]),
    "srba": solvers.srba(**RATES, period=recursions.PERIOD),
    "vrbo": solvers.vrbo(**RATES, **SERIES, terms=TERMS, period=recursions.PERIOD),
    "f2sa": solvers.f2sa(**RATES, penalty=lambda step: recursions.penalty(step.astype(float)), inner_steps=INNER_STEPS),
    "bome": solvers.bome(
        **RATES, eta=recursions.ETA, search=optax.sgd(recursions.SYSTEM_RATE), inner_steps=INNER_STEPS
    ),
    "pzobo": solvers.pzobo(**RATES, smoothing=recursions.SMOOTHING, directions=2, inner_steps=INNER_STEPS),
    "ttsa": solvers.ttsa(**RATES, learning_rate=recursions.SERIES_RATE, terms=TERMS),
}
KEY = 3
COUSINS = ("amigo", "ttsa", "sustain")  # share all but a line with others


@functools.cache
def starts():
    rng = np.random.default_rng(7)
    return rng.normal(size=(2, OUTER)), rng.normal(size=(2, INNER))


def numbers(solver):
    """Draws the batches that come at each step: (steps, draws) of either level."""
    rng = np.random.default_rng(11)
    counts = ((N_UPPER, solver.upper_draws), (N_LOWER, solver.lower_draws))
    return tuple(rng.integers(0, count, (STEPS, draws)) for count, draws in counts)


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def expected(name, solver):
    """The paths of x and y by NumPy, (2, steps, size) each, one start after the other."""
    more = {}
    if solver.needs_key:
        keys = jax.vmap(lambda step: jax.random.fold_in(jax.random.key(KEY), step))(jnp.arange(STEPS))
        more = extra_draws(name, solver, keys)
    paths = [list(getattr(recursions, name)(x, y, *numbers(solver), **more)) for x, y in zip(*starts(), strict=True)]
    return tuple(np.array([[step[part] for step in path] for path in paths]) for part in (0, 1))


def extra_draws(name, solver, keys):
    if name == "pzobo":
        draw = lambda key: jax.random.normal(jax.random.split(key, 1)[0], (OUTER,))
        drawn = jax.vmap(lambda key: jax.vmap(draw)(jax.random.split(key, solver.directions)))(keys)
        return {"drawn": np.asarray(drawn)}
    counts = jax.vmap(lambda key: jax.random.randint(key, (), 0, solver.terms))(keys)
    return {"counts": np.asarray(counts)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COUSINS else name for name in SOLVERS]
)
def test_a_hundred_steps_are_those_of_the_recursion(name):
    solver = SOLVERS[name]
    functions = solver.bind(quadratic, quadratic, evidence=solver.has_adjoint)

    def run(x, y, key, upper, lower, drawn):
        def advance(state, now):
            state, info = functions.update(state, solvers.draw(upper, now[0]), solvers.draw(lower, now[1]))
            return state, (state.x, state.y, info.value)

        return jax.lax.scan(advance, functions.init(x, y, key), drawn)[1]

    arguments = on_device((*starts(), jax.random.key(KEY), UPPER_DATA, LOWER_DATA, numbers(solver)))
    program = jax.jit(jax.vmap(run, in_axes=(0, 0, None, None, None, None))).lower(*arguments).compile()
    text = program.as_text() or ""
    for word in ("callback", "infeed", "outfeed", "send(", "recv("):
        assert word not in text, f"the program leaves the device: {word}"
    with jax.transfer_guard("disallow"):
        x, y, value = program(*arguments)
    for found, exact in zip((x, y), expected(name, solver), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-10)
    assert np.isfinite(value).all()
