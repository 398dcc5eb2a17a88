"""Traced programs as lists of operations."""

import jax
import jax.numpy as jnp

from jaxfuse.engine.cost.traced_graph import graph_of

X = jax.ShapeDtypeStruct((4, 8), jnp.bfloat16)


def _names(function):
    return [one.name for one in graph_of(jax.make_jaxpr(function)(X)).operations]


def test_calls_are_opened_what_is_the_same_is_shared_and_what_is_unused_left_out():
    inner = jax.jit(jnp.sin)

    def outer(x):
        jnp.cos(x)
        return inner(x) * jax.checkpoint(jnp.sin)(x)

    assert _names(outer) == ["sin", "mul"]
    graph = graph_of(jax.make_jaxpr(outer)(X))
    assert (len(graph.inputs), len(graph.outputs)) == (1, 1)
    assert {(graph.values[i].elements, graph.values[i].bytes) for i in graph.outputs} == {(32, 64)}


def test_numbers_of_one_value_are_one_and_others_are_apart():
    assert _names(lambda x: (x + 1) * (x + 1)) == ["add", "mul"]
    assert _names(lambda x: (x + 1) * (x + 2)) == ["add", "add", "mul"]


def test_the_form_for_cuda_stands_in_the_place_of_a_choice():
    forms = lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, cuda=jnp.cos, default=jnp.tan)
    assert _names(forms)[-1:] == ["cos"]
    others = lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.tan)
    assert "tan" in _names(others)
    assert "sin" not in _names(others)
