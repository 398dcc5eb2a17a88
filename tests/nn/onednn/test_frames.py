"""Functions of Python that compiled programs call: operands, attributes, results, failures."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.onednn.frames import Call, register


def _array(operand):
    size = int(np.prod(operand.shape))
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(operand.address)).reshape(operand.shape)


def _weighted(call: Call):
    first, second = map(_array, call.operands)
    _array(call.result)[...] = call.attributes["weights"][0] * first + call.attributes["weights"][1] * second
    if (kind := call.attributes["fails"][0]) > 0:
        raise (ValueError("as asked"), KeyboardInterrupt())[kind - 1]


@pytest.fixture(scope="module")
def run():
    register("jaxfuse_test_weighted", _weighted)

    def run(a, b, fails=0):
        made = jax.ffi.ffi_call("jaxfuse_test_weighted", jax.ShapeDtypeStruct(a.shape, a.dtype))
        return made(a, b, weights=np.array([2, -3]), fails=np.array([fails]))

    return run


def test_a_function_reads_and_writes_the_arrays_of_a_program(run):
    a, b = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    np.testing.assert_array_equal(jax.jit(run)(a, b), 2 * a - 3)


def test_it_is_called_anew_within_a_loop(run):
    a, b = jnp.ones((2, 3)), jnp.ones((2, 3))
    found = jax.jit(lambda a, b: jax.lax.fori_loop(0, 3, lambda _, x: run(x, b), a))(a, b)
    # x -> 2 x - 3 three times from 1.
    np.testing.assert_array_equal(found, np.full((2, 3), -13.0))


@pytest.mark.parametrize(("kind", "told"), [(1, "as asked"), (2, "KeyboardInterrupt")])
def test_what_it_raises_ends_the_program(run, kind, told):
    a = jnp.ones((2, 3))
    with pytest.raises(Exception, match=f"jaxfuse_test_weighted: {told}"):
        jax.block_until_ready(jax.jit(lambda a: run(a, a, fails=kind))(a))
