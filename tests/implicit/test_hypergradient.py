"""The gradient itself: right with no options, at every size and condition it promises, on any pytree of leaves."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxfuse import implicit
from tests.implicit import problems
from tests.implicit.problems import differentiate, error, gradient_of, logistic, near, quadratic, refuses, said

CG, DENSE = implicit.cg(), implicit.dense()
cached_quadratic = functools.cache(quadratic)


@pytest.mark.parametrize(
    ("case", "estimator"), [(cached_quadratic, None), (logistic, None), (logistic, CG), (logistic, implicit.minres())]
)
def test_is_right_with_no_options_and_on_a_pytree_by_iteration(case, estimator):
    case = case()
    gradient, info = differentiate(case, estimator=estimator)
    assert jax.tree.structure(gradient) == jax.tree.structure(case.x)
    assert error(gradient, case.exact) < (1e-12 if estimator is None else 1e-10)
    assert bool(info.check().converged)
    assert np.allclose(
        said(info, "value", "inner_value"), [level(case.x, case.y) for level in (case.upper, case.lower)]
    )


@pytest.mark.parametrize(("estimator", "bound"), [(CG, 1e-11), (DENSE, 1e-13)], ids=["cg", "dense"])
@pytest.mark.parametrize("n", [200, 1000, pytest.param(2000, marks=pytest.mark.slow)])
def test_reaches_the_closed_form_at_condition_1e3(n, estimator, bound):
    case = cached_quadratic(n, 1e3)
    gradient, info = differentiate(case, estimator=estimator)
    assert error(gradient, case.exact) <= bound
    assert (info.estimator, bool(info.converged)) == (type(estimator).__name__, True)


def ridge(features: int) -> problems.Case:
    """Ridge regression on a pytree, one log penalty for each of its two leaves; exact by dense algebra in NumPy."""
    rng = np.random.default_rng(0)
    data, truth = rng.normal(size=(700, features)), rng.normal(size=700)
    held, held_truth = rng.normal(size=(300, features)), rng.normal(size=300)
    penalties, half = np.array([-1.0, -2.0]), features // 2
    diagonal = np.repeat(np.exp(penalties), [half, features - half])
    matrix = data.T @ data / 700 + np.diag(diagonal)
    solution = np.linalg.solve(matrix, data.T @ truth / 700)
    adjoint = np.linalg.solve(matrix, held.T @ (held @ solution - held_truth) / 300)
    slopes = diagonal * solution * adjoint
    exact = -np.array([slopes[:half].sum(), slopes[half:].sum()])
    inputs, outputs, others, labels = (jnp.asarray(value) for value in (data, truth, held, held_truth))
    predict = lambda y, rows: rows[:, :half] @ y["first"] + rows[:, half:] @ y["second"].ravel()

    def penalty(x, y):
        return jnp.exp(x["first"]) * jnp.sum(y["first"] ** 2) + jnp.exp(x["second"]) * jnp.sum(y["second"] ** 2)

    y = {"first": jnp.asarray(solution[:half]), "second": jnp.asarray(solution[half:]).reshape(-1, 2)}
    x = {"first": jnp.asarray(penalties[0]), "second": jnp.asarray(penalties[1])}
    upper = lambda x, y: 0.5 * jnp.mean((predict(y, others) - labels) ** 2)
    lower = lambda x, y: 0.5 * (jnp.mean((predict(y, inputs) - outputs) ** 2) + penalty(x, y))
    return problems.Case(upper, lower, x, y, exact, lambda x: y)


@pytest.mark.parametrize(("features", "chosen"), [(512, "dense"), (516, "cg")])
def test_default_on_a_ridge_pytree_of_either_side_of_the_dense_limit(features, chosen):
    case = ridge(features)
    gradient, info = differentiate(case)
    assert (info.estimator, bool(info.converged)) == (chosen, True)
    assert error(gradient, case.exact) <= 1e-10


@pytest.mark.single
def test_float32_at_condition_1e3():
    case = quadratic(1000, 1e3, dtype=np.float32)
    gradient, info = differentiate(case)
    assert gradient.dtype == jnp.float32
    assert error(gradient, case.exact) <= 2e-5
    assert bool(info.converged)


@pytest.mark.single
def test_float32_with_a_million_unknowns():
    rng = np.random.default_rng(0)
    n = 1_000_000
    values = (rng.uniform(0.1, 1, n), *rng.normal(size=(3, n)))
    curvature, weights, target, x = (jnp.asarray(value, jnp.float32) for value in values)
    y = weights * x / curvature
    upper = lambda x, y: 0.5 * jnp.sum((y - target) ** 2) + 0.05 * jnp.sum(x**2)
    lower = lambda x, y: jnp.sum(0.5 * curvature * y**2 - weights * x * y)
    gradient, info = gradient_of(upper, lower, x, y)
    d, w, t, at_x, at_y = (np.asarray(value, np.float64) for value in (curvature, weights, target, x, y))
    assert error(gradient, 0.1 * at_x + w * (at_y - t) / d) <= 5e-6  # a NaN fails too
    assert (info.estimator, bool(info.converged)) == ("cg", True)


def test_condition_1e6_is_right_or_flagged():
    case = cached_quadratic(200, 1e6)
    for estimator in (DENSE, CG):
        gradient, info = differentiate(case, estimator=estimator)
        assert error(gradient, case.exact) <= 1e-8 or (estimator == CG and not bool(info.converged))
        assert bool(info.converged) or estimator == CG


@pytest.mark.single
def test_leaves_that_are_no_variables():
    """A counter, a mask, a typed key and None are constants, which both functions may use."""
    x = {"scale": jnp.array([2.0, 3.0]), "count": jnp.array(4), "key": jax.random.key(1), "none": None}
    y = {"w": jnp.array([2.0, -3.0]), "mask": jnp.array([True, False]), "step": 7, "key": jax.random.key(2)}
    noise = lambda x, y: jax.random.normal(x["key"], (2,)) + jax.random.normal(y["key"], (2,))
    lower = lambda x, y: 0.5 * x["count"] * jnp.sum((y["w"] - x["scale"] * noise(x, y)) ** 2)
    upper = lambda x, y: jnp.sum(jnp.where(y["mask"], y["w"], 0)) * y["step"]
    y["w"] = x["scale"] * noise(x, y)
    gradient, info = gradient_of(upper, lower, x, y)
    assert jax.tree.structure(gradient) == jax.tree.structure(x)
    near(gradient["scale"], np.array([7 * float(noise(x, y)[0]), 0.0]), 1e-6)
    assert (gradient["count"], gradient["count"].dtype) == (0, x["count"].dtype)
    assert gradient["key"].dtype == jax.dtypes.float0
    assert bool(info.converged)
    assert {name: leaf is None for name, leaf in info.adjoint.items()} == dict.fromkeys(y, True) | {"w": False}


def test_network_state_with_batch_statistics():
    """Parameters nested as Flax nests them; both functions return the statistics that a training pass updates."""
    rng = np.random.default_rng(3)
    inputs, truth = jnp.asarray(rng.normal(size=(30, 4))), jnp.asarray(rng.normal(size=30))
    statistics = {"norm": {"mean": jnp.zeros(4), "steps": jnp.array(5)}}

    def forward(params, rows):
        batch = {"norm": {"mean": 0.9 * statistics["norm"]["mean"] + 0.1 * rows.mean(0), "steps": jnp.array(6)}}
        normal = (rows - rows.mean(0, keepdims=True)) / rows.std(0, keepdims=True)
        return normal @ params["params"]["dense"]["kernel"] + params["params"]["dense"]["bias"], batch

    def lower(x, y):
        outputs, batch = forward(y, inputs[:20])
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return jnp.mean((outputs - truth[:20]) ** 2) + jnp.exp(x) * decay, {"batch_stats": batch}

    def upper(x, y):
        outputs, batch = forward(y, inputs[20:])
        return jnp.mean((outputs - truth[20:]) ** 2), {"batch_stats": batch}

    x = jnp.array(-1.0)
    zero = {"params": {"dense": {"kernel": jnp.zeros(4), "bias": jnp.zeros(())}}}
    flat, restore = ravel_pytree(zero)

    @jax.jit
    def solve(x):
        slope = jax.grad(lambda v: lower(x, restore(v))[0])
        return restore(-jnp.linalg.solve(jax.jacobian(slope)(flat), slope(flat)))

    # The lower level is quadratic in y, so the composition can simply be differentiated.
    exact = jax.jit(jax.grad(lambda x: upper(x, solve(x))[0]))(x)
    gradient, info = gradient_of(upper, lower, x, solve(x))
    assert error(gradient, exact) < 1e-12
    assert bool(info.converged)
    for level, rows in (("lower", inputs[:20]), ("upper", inputs[20:])):
        statistic = info.aux[level]["batch_stats"]["norm"]
        near(statistic["mean"], 0.1 * rows.mean(0), 1e-12)
        assert int(statistic["steps"]) == 6


@pytest.mark.single
def test_bfloat16_leaves_are_solved_in_float32():
    case = quadratic(40, 1e2, dtype=np.float32)
    seen = []

    def lower(x, y):
        seen.append((x.dtype, y.dtype))
        return case.lower(x, y)

    x, y = case.x.astype(jnp.bfloat16), case.y.astype(jnp.bfloat16)
    # Rounding y to eight bits moves it off the optimum by about 1e-3 of its length, times the condition.
    run = jax.jit(functools.partial(implicit.hypergradient, case.upper, lower, inner_tolerance=0.5))
    half, info = run(x, y)
    whole, _ = run(x.astype(jnp.float32), y.astype(jnp.float32))
    assert (half.dtype, info.adjoint.dtype) == (jnp.bfloat16, jnp.float32)
    assert set(seen) == {(jnp.dtype("float32"), jnp.dtype("float32"))}
    assert error(half, whole) <= 2**-8
    assert bool(info.converged)


@problems.every_solver
def test_equal_levels_leave_the_direct_gradient(estimator):
    """At the optimum of one common function the adjoint is zero, and its partial gradient is the whole gradient."""
    loss = lambda x, y: 0.5 * jnp.sum((y - jnp.sin(x)) ** 2) + jnp.sum(x**3)
    x = jnp.array([0.3, -1.2, 2.0])
    gradient, info = gradient_of(loss, loss, x, jnp.sin(x), estimator=estimator)
    near(gradient, 3 * x**2, 1e-14)
    np.testing.assert_array_equal(info.adjoint, np.zeros(3))
    assert said(info, "residual", "converged") == (0, True)


def test_outer_variable_that_the_lower_level_does_not_know():
    case = quadratic(10, 10.0)
    x = jnp.array([1.0, 2.0])
    upper = lambda x, y: jnp.sum(x**2) * jnp.sum(y)
    # Outside jit, as one tries things out: every field is an array there too.
    gradient, info = implicit.hypergradient(upper, lambda x, y: case.lower(case.x, y), x, case.y)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(info))
    near(gradient, 2 * x * jnp.sum(case.y), 1e-12)
    assert bool(info.converged)


def fine(x, y):
    return jnp.sum(y**2)


ONE = jnp.ones(3)
REFUSED = {
    "vector": (lambda x, y: y, fine, ONE, ONE, r"upper\(x, y\) returned float32\[3\]; a real scalar"),
    "lower vector": (fine, lambda x, y: y[:1], ONE, ONE, r"lower\(x, y\) returned float32\[1\]"),
    "complex loss": (fine, lambda x, y: jnp.sum(y).astype(complex), ONE, ONE, r"lower\(x, y\) returned complex64"),
    "integer loss": (lambda x, y: jnp.array(1), fine, ONE, ONE, r"upper\(x, y\) returned int32\[\]"),
    "complex loss of complex y": (fine, fine, ONE, ONE + 1j, r"lower\(x, y\) returned complex64\[\]; a real scalar"),
    "no float in x": (fine, fine, jnp.arange(3), ONE, "x has no floating-point leaf"),
    "no float in y": (fine, fine, ONE, {"n": 3}, "y has no floating-point leaf"),
}


@pytest.mark.single
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_has_no_gradient(name):
    *problem, sentence = REFUSED[name]
    refuses(sentence, lambda: implicit.hypergradient(*problem), TypeError)


def test_refuses_bad_options():
    # Unwrapped: the annotations that tests check would refuse it before the function does.
    call = functools.partial(inspect.unwrap(implicit.hypergradient), fine, fine, ONE, ONE)
    refuses("policy 'panic' is not known; choose one of ignore, warn", lambda: call(policy="panic"))
    start = implicit.cg(start=jnp.ones(4))
    refuses("start has leaves of shapes .*; those of the variable are", lambda: call(estimator=start))
    refuses("steps is 0; at least 1 was expected", lambda: implicit.cg(steps=0))
    sentence = "tolerance is -1.0; a relative residual of at least 0 was expected"
    refuses(sentence, lambda: implicit.minres(tolerance=-1.0))
