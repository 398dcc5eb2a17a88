"""Variables with leaves that are no plain floats: functions, strings, whole numbers, keys, bfloat16, complex numbers.

What cannot vary is a constant and stays as it is; what is coarse is right to its digits; a complex number is two.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import near, refuses, spd

single = pytest.mark.single


def module(w, **others):
    """A model as some libraries keep them: its functions and names are leaves beside its weights."""
    return {"w": w, "activation": jnp.tanh, "name": "layer", "count": 3, "mask": np.array([True, False]), **others}


@given("y and x that hold functions, strings, counters, masks and a random key", "these are constants")
def test_constants():
    x, y = module(jnp.array([0.5, 1.0]), key=jax.random.key(0)), module(jnp.array([1.0, 2.0]))

    def lower(x, y):
        return jnp.sum((y["w"] - y["count"] * x["activation"](x["w"]) * y["mask"].astype(float)) ** 2)

    y["w"] = 3 * jnp.tanh(x["w"]) * jnp.array([1.0, 0.0])
    exact = np.array([2 * 9 * np.tanh(0.5) / np.cosh(0.5) ** 2, 0.0])
    for estimator in (None, implicit.cg(), implicit.gmres()):
        gradient, info = implicit.hypergradient(lambda x, y: jnp.sum(y["w"] ** 2), lower, x, y, estimator=estimator)
        near(gradient["w"], exact, 1e-9)
        assert (gradient["activation"], gradient["name"], int(gradient["count"])) == (None, None, 0)
        assert gradient["key"].dtype == jax.dtypes.float0
        assert bool(info.converged)

    def attached(w):
        found = implicit.implicit_minimum(lower, {**x, "w": w}, y)
        assert (found["activation"], found["name"], found["count"]) == (jnp.tanh, "layer", 3)
        return jnp.sum(found["w"] ** 2)

    near(jax.jit(jax.grad(attached))(x["w"]), exact, 1e-9)
    root = lambda x, y: {**y, "w": y["w"] - 3 * jnp.tanh(x["w"]) * jnp.array([1.0, 0.0])}
    cotangent = {"w": 2 * y["w"], "activation": None, "name": None, "count": None, "mask": None}
    near(implicit.root_vjp(root, x, y, cotangent)[0]["w"], exact, 1e-9)


@table(
    "condition, estimator",
    ("y in bfloat16, condition 1", "right to its digits, converged, no NaN", 1.0, None),
    ("y in bfloat16, condition 100", "right to its digits, converged, no NaN", 1e2, None),
    ("y in bfloat16, condition 1000, by cg", "right to its digits, converged, no NaN", 1e3, implicit.cg()),
    ("y in bfloat16, condition 100, by gmres", "right to its digits, converged, no NaN", 1e2, implicit.gmres()),
    ("y in bfloat16, by minres", "right to its digits, converged, no NaN", 10.0, implicit.minres()),
)
@single
def test_bfloat16(condition, estimator):
    a = spd(12, condition) if condition > 1 else np.eye(12)
    matrix, x = jnp.asarray(a, jnp.float32), a @ np.linspace(-1, 2, 12)
    lower = lambda x, y: 0.5 * y @ (matrix @ y) - y @ x
    upper = lambda x, y: 0.5 * jnp.sum((y - 3) ** 2)
    y = jnp.linspace(-1, 2, 12).astype(jnp.bfloat16)

    @jax.jit
    def found(x, y):
        attached = lambda x: upper(x, implicit.implicit_minimum(lower, x, y, estimator=estimator).astype(jnp.float32))
        gradient, info = implicit.hypergradient(upper, lower, x, y, estimator=estimator)
        return gradient, info, jax.grad(attached)(x)

    gradient, info, attached = found(jnp.asarray(x, jnp.float32), y)
    exact = np.linalg.solve(a, np.asarray(y, np.float64) - 3)
    for each in (gradient, attached):
        assert np.linalg.norm(each - exact) < 0.02 * np.linalg.norm(exact)
    assert bool(info.converged)
    _, far, spoiled = found(jnp.asarray(x, jnp.float32), 0.5 * y)
    assert not bool(far.inner_converged)
    assert np.isnan(spoiled).all()


@given("x in bfloat16 and y in float16", "right, in the types of x and y")
@single
def test_half_types():
    x, y = jnp.array([1.0, 2.0], jnp.bfloat16), jnp.array([2.0, 4.0], jnp.float16)
    lower = lambda x, y: jnp.sum((y - 2 * x) ** 2)
    gradient, info = jax.jit(lambda x, y: implicit.hypergradient(lambda x, y: jnp.sum(y**2), lower, x, y))(x, y)
    assert gradient.dtype == jnp.bfloat16
    near(gradient.astype(jnp.float32), np.array([8.0, 16.0]), 1e-2)
    assert bool(info.converged)
    assert implicit.implicit_minimum(lower, x, y).dtype == jnp.float16


@given("a root and a fixed point in bfloat16, in both modes and attached", "right to its digits, converged, no NaN")
@single
def test_bfloat16_roots():
    matrix, x = np.array([[2.0, 0.5, 0.0], [-0.7, 2.0, 0.3], [0.1, 0.0, 1.0]], np.float32), np.array([1.0, 2.0, 3.0])
    held, y = jnp.asarray(matrix), jnp.asarray(np.linalg.solve(matrix, x), jnp.bfloat16)
    residual, step = lambda x, y: held @ y - x, lambda x, y: y - 0.3 * (held @ y - x)
    ones, inverse = np.ones(3, np.float32), np.linalg.inv(matrix)

    @jax.jit
    def found(x, y):
        attached = lambda x: jnp.sum(implicit.implicit_fixed_point(step, x, y).astype(jnp.float32))
        return (
            *(implicit.root_vjp(residual, x, y, ones), implicit.root_jvp(residual, x, y, ones)),
            *(implicit.fixed_point_vjp(step, x, y, ones), jax.grad(attached)(x)),
        )

    (back, one), (along, two), (fixed, three), attached = found(jnp.asarray(x, jnp.float32), y)
    for each, exact in (
        (back, inverse.T),
        (along.astype(jnp.float32), inverse),
        (fixed, inverse.T),
        (attached, inverse.T),
    ):
        near(each, exact @ ones, 1e-2)
    assert all(bool(info.converged) for info in (one, two, three))


WHOLE = (
    functools.partial(implicit.hypergradient, lambda x, y: 0.0),
    implicit.implicit_minimum,
    lambda *arguments: implicit.root_vjp(*arguments, arguments[-1]),
)


@pytest.mark.parametrize("call", WHOLE)
@table(
    "x, y, sentence",
    (
        "y of whole numbers alone",
        "refused: nothing to differentiate",
        1.0,
        np.arange(3),
        "y has no floating-point leaf",
    ),
    (
        "x of a function and a string alone",
        "refused: nothing to differentiate",
        [jnp.sin, "a"],
        1.0,
        "x has no floating",
    ),
)
def test_refused(call, x, y, sentence):
    refuses(sentence, lambda: call(lambda x, y: y, x, y), TypeError)


@given("complex data inside the functions, real x and y (a transform of Fourier)", "right")
def test_complex_inside():
    mask = jnp.array([1.0, 1.0, 0.0, 1.0], jnp.complex128)
    lower = lambda x, y: jnp.sum(jnp.abs(mask * jnp.fft.fft(y - x)) ** 2) + jnp.sum((y - x) ** 2)
    x = jnp.arange(1.0, 5.0)
    gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(implicit.implicit_minimum(lower, x, y) ** 2)))(x, x)
    near(gradient, 2 * np.arange(1.0, 5.0), 1e-9)
