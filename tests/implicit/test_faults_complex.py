"""Complex variables, alone and beside real ones: solved as two real numbers each, in the conventions of `jax.grad`.

Exact derivatives are those of solutions in closed form, differentiated by JAX.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import near

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 3)) + 1j * RNG.normal(size=(4, 3))
X = {"k": RNG.normal(size=4) + 1j * RNG.normal(size=4), "log": np.array(0.3), "mask": np.array([True, False])}
TARGET = np.array([1.0 + 1.0j, -2.0j, 0.5])


def lower(x, y):
    """A fit to measurements x, as of a Fourier transform, with a penalty; "s" is a real variable beside it."""
    return (
        jnp.sum(jnp.abs(MATRIX @ y["z"] - x["k"]) ** 2)
        + jnp.exp(x["log"]) * jnp.sum(jnp.abs(y["z"]) ** 2)
        + (y["s"] - x["k"][0].imag) ** 2
    )


def upper(x, y):
    return jnp.sum(jnp.abs(y["z"] - TARGET) ** 2) + y["s"] ** 3 + jnp.real(x["k"][1]) * x["log"]


def solve(x):
    curved = MATRIX.conj().T @ MATRIX + jnp.exp(x["log"]).astype(complex) * jnp.eye(3, dtype=complex)
    return {"z": jnp.linalg.solve(curved, MATRIX.conj().T @ x["k"]), "s": x["k"][0].imag}


def varied(x):
    """x with its constants put back."""
    return {**X, **x}


def exact():
    point = {name: jnp.asarray(X[name]) for name in ("k", "log")}
    return point, jax.grad(lambda x: upper(x, solve(x)))(point)


def preconditioned(x):
    options = {"rank": 3, "damping": 1.0, "key": jax.random.key(0)}
    return implicit.cg(preconditioner=implicit.nystrom_preconditioner(lower, x, solve(x), **options), start=solve(x))


@table(
    "make",
    ("complex x and y beside real ones, with no options", "as `jax.grad` has it", lambda x: None),
)
def test_hypergradients(make):
    check(make)


@pytest.mark.slow
@table(
    "make",
    ("complex x and y, by a preconditioner and a start", "as `jax.grad` has it", preconditioned),
    ("complex x and y, by bicgstab", "as `jax.grad` has it", lambda x: implicit.bicgstab()),
    (
        "complex x and y, by unrolling gradient descent of optax",
        "as `jax.grad` has it",
        lambda x: implicit.unroll(400, optimizer=optax.sgd(0.03)),
    ),
)
def test_other_ways(make):
    check(make)


def check(make):
    @jax.jit
    def found(point):
        x = varied(point)
        return implicit.hypergradient(upper, lower, x, solve(x), estimator=make(x))

    point, slope = exact()
    gradient, info = found(point)
    near({name: gradient[name] for name in ("k", "log")}, slope, 1e-8)
    assert not gradient["mask"].any()
    assert bool(info.converged)


@pytest.mark.slow
@given("complex x and y attached, in both modes, and the second derivative", "right")
def test_attached():
    attached = lambda x: implicit.implicit_minimum(lower, varied(x), jax.lax.stop_gradient(solve(x)))
    point, slope = exact()
    tangent = {"k": jnp.asarray(RNG.normal(size=4) + 1j * RNG.normal(size=4)), "log": jnp.asarray(0.7)}

    @jax.jit
    def found(point):
        along = [jax.jvp(solution, (point,), (tangent,))[1] for solution in (attached, solve)]
        turned = lambda solution: lambda x: jax.grad(lambda x: upper(x, solution(x)))(x)
        second = [jax.jvp(turned(solution), (point,), (tangent,))[1] for solution in (attached, solve)]
        return jax.grad(lambda x: upper(x, attached(x)))(point), along, second

    backward, along, second = found(point)
    near(backward, slope, 1e-9)
    near(along[0], along[1], 1e-9)
    near(second[0], second[1], 1e-8)


@given("a complex root that is no minimum, y^2 = x, by both products", "dy = dx / 2y, and its transpose")
def test_roots():
    x = jnp.array([1.0 + 2.0j, -1.0 + 0.5j])
    y, tangent = jnp.sqrt(x), jnp.array([1.0 - 1.0j, 0.3j])
    residual = lambda x, y: y**2 - x

    @jax.jit
    def found(x, y):
        return implicit.root_jvp(residual, x, y, tangent), implicit.root_vjp(residual, x, y, tangent)

    (along, one), (back, two) = found(x, y)
    near([along, back], [tangent / (2 * y), jax.vjp(jnp.sqrt, x)[1](tangent)[0]], 1e-10)
    assert bool(one.converged)
    assert bool(two.converged)


@pytest.mark.slow
@given("`check_hypergradient` of complex variables", "no test failed")
def test_checked():
    assert implicit.check_hypergradient(upper, lower, X, solve(X), solve=solve).passed
