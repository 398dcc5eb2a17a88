"""Modules and states of Flax and Equinox as variables: gradients in their structure, their constants left alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxfuse import implicit
from tests.faults.catalogue import given, table
from tests.implicit.problems import near

INPUTS = np.random.default_rng(0).normal(size=(6, 2))


class Layer(eqx.Module):
    """A linear layer with a function and a counter among its leaves, and a static name."""

    weight: jax.Array
    activation: object
    count: int
    name: str = eqx.field(static=True)


def solve(weight):
    """The follower: ridge regression of what the leader's layer makes of the inputs."""
    return jnp.linalg.solve(INPUTS.T @ INPUTS + 0.1 * np.eye(2), INPUTS.T @ jnp.tanh(jnp.asarray(INPUTS) @ weight))


@given("Equinox modules as x and y, with functions, counters and static fields", "the gradient, as such a module")
def test_equinox():
    def lower(x, y):
        fit = jnp.sum((INPUTS @ y.weight - x.activation(jnp.asarray(INPUTS) @ x.weight)) ** 2)
        return fit + 0.1 * jnp.sum(y.weight**2)

    upper = lambda x, y: jnp.sum(y.weight**2)
    x = Layer(jnp.array([1.0, 2.0]), jnp.tanh, 3, "leader")
    y = Layer(solve(x.weight), jnp.tanh, 3, "follower")
    arrays, rest = eqx.partition((x, y), eqx.is_array)
    gradient, info = jax.jit(lambda arrays: implicit.hypergradient(upper, lower, *eqx.combine(arrays, rest)))(arrays)
    near(gradient.weight, jax.grad(lambda weight: jnp.sum(solve(weight) ** 2))(x.weight), 1e-9)
    assert (gradient.name, gradient.activation, info.adjoint.count) == ("leader", None, None)
    assert bool(info.converged)


def frozen():
    """Parameters of Linen and how they are applied."""
    dense = linen.Dense(1, use_bias=False, param_dtype=float)
    return linen.FrozenDict(dense.init(jax.random.key(0), INPUTS)), dense.apply


def state():
    """A state of nnx, merged with its graph where it is applied."""
    graph, variables = nnx.split(whole()[0])
    return variables, lambda variables, inputs: nnx.merge(graph, variables)(inputs)


def whole():
    """A module of nnx itself."""
    layer = nnx.Linear(2, 1, use_bias=False, param_dtype=float, rngs=nnx.Rngs(0))
    return layer, lambda layer, inputs: layer(inputs)


@pytest.mark.slow
@table(
    "make",
    ("a FrozenDict of Linen as y", "right, in its structure", frozen),
    ("a state of nnx as y", "right, in its structure", state),
    ("a module of nnx as y", "right, in its structure", whole),
)
def test_flax(make):
    example, apply = make()
    places, structure = jax.tree.flatten(example)
    put = lambda weight: jax.tree.unflatten(structure, [weight[:, None] if trained(leaf) else leaf for leaf in places])
    trained = lambda leaf: getattr(leaf, "shape", None) == (2, 1)

    def lower(x, y):
        (weight,) = [leaf for leaf in jax.tree.leaves(y) if trained(leaf)]
        fit = jnp.sum((apply(y, jnp.asarray(INPUTS))[:, 0] - jnp.tanh(jnp.asarray(INPUTS) @ x)) ** 2)
        return fit + 0.1 * jnp.sum(weight**2)

    upper = lambda x, y: jnp.sum(apply(y, jnp.asarray(INPUTS)) ** 2)
    x = jnp.array([1.0, 2.0])
    gradient, info = implicit.hypergradient(upper, lower, x, put(solve(x)))
    near(gradient, jax.grad(lambda x: jnp.sum((INPUTS @ solve(x)) ** 2))(x), 1e-8)
    assert bool(info.converged)
    assert jax.tree.structure(info.adjoint) == structure
    attached = lambda x: upper(x, implicit.implicit_minimum(lower, x, put(solve(jax.lax.stop_gradient(x)))))
    near(jax.grad(attached)(x), gradient, 1e-8)


@given("y with leaves of bfloat16, float32, complex64 and float64 at once", "right to the coarsest, converged")
def test_mixed_types():
    kinds = {"h": jnp.bfloat16, "s": jnp.float32, "z": jnp.complex64, "d": jnp.float64}
    # Whole numbers, which every type holds.
    places = {"h": [1.0, 2.0], "s": [3.0, -1.0], "z": [1.0 + 2.0j, -2.0j], "d": [4.0, 0.0]}
    y = {name: jnp.asarray(places[name], kind) for name, kind in kinds.items()}

    exact = {name: jnp.asarray(value) for name, value in places.items()}

    def squared(leaf):
        return jnp.sum(leaf.real**2 + leaf.imag**2).astype(jnp.float64)

    def distance(x, y):
        return sum(squared(y[name] - (x * exact[name]).astype(y[name].dtype)) for name in y)

    upper = lambda x, y: sum(squared(leaf) for leaf in y.values())
    gradient, info = jax.jit(lambda x, y: implicit.hypergradient(upper, distance, x, y))(jnp.array(1.0), y)
    near(gradient, 2 * sum(np.sum(np.abs(value) ** 2) for value in places.values()), 1e-6)
    assert {name: leaf.dtype for name, leaf in info.adjoint.items()} == kinds | {"h": jnp.float32}
    assert bool(info.converged)
