"""The primitives of a convolution: every order and direction of differentiation, maps, forms and what is kept."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.conv_primitive import FORMS, convolve
from jaxfuse.nn.conv_rule import native
from jaxfuse.nn.onednn import convolutions as onednn
from tests.tiny_systems import close

SAME = Window((3, 4, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1))
VALID = Window((6, 5, 7), (3, 3, 3), (1, 1, 1), (0, 0, 0))
STRIDED = Window((6, 5), (3, 3), (2, 2), (1, 1))
WINDOWS = [SAME, VALID, STRIDED]


def _drawn(window, batch=2):
    rng = np.random.default_rng(1)
    shapes = (batch, *window.sides, 3), (*window.size, 3, 2)
    # Small, for higher derivatives of a sine of large numbers are those of their rounding.
    return [jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32) for shape in shapes * 2]


def _loss(run, window):
    return lambda x, kernel: jnp.sin(run(x, kernel, window)).sum()


def _in_form(form):
    return lambda x, kernel, window: convolve(x, kernel, window, form)


def _derivatives(run, window, x, kernel, dx, dkernel):
    """Value and tangent, gradients, forward over reverse, reverse over reverse, and a third order of it."""
    loss = _loss(run, window)
    gradient = jax.grad(loss, argnums=(0, 1))

    def along(x, kernel):
        return jax.jvp(gradient, (x, kernel), (dx, dkernel))[1]

    def second(x, kernel):
        return sum(jnp.vdot(a, b) for a, b in zip(gradient(x, kernel), (dx, dkernel), strict=True))

    tangent = jax.jvp(partial(run, window=window), (x, kernel), (dx, dkernel))
    third = jax.grad(lambda x, kernel: sum(jnp.sin(a).sum() for a in along(x, kernel)), argnums=(0, 1))
    backward = jax.grad(second, argnums=(0, 1))
    return tangent, gradient(x, kernel), along(x, kernel), backward(x, kernel), third(x, kernel)


@pytest.mark.parametrize("form", ["products", *(["auto"] if onednn.available() else [])])
@pytest.mark.parametrize("window", WINDOWS)
def test_derivatives_of_every_kind_are_those_of_the_native_form(window, form):
    arrays = _drawn(window)
    found, expected = (jax.jit(partial(_derivatives, run, window))(*arrays) for run in (_in_form(form), native))
    close(expected, found, 1e-4)


@pytest.mark.parametrize("window", [SAME, STRIDED])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_maps_over_images_and_kernels_are_loops(window, axes):
    rng = np.random.default_rng(2)
    arrays = []
    for array, axis in zip(_drawn(window)[:2], axes, strict=True):
        many = array[None] + rng.normal(size=(3, *array.shape)).astype(np.float32)
        arrays.append(array if axis is None else jnp.moveaxis(many, 0, axis))

    def run(form, x, kernel):
        return jax.vmap(jax.value_and_grad(_loss(form, window), argnums=(0, 1)), axes)(x, kernel)

    found, expected = (jax.jit(partial(run, form))(*arrays) for form in (_in_form("auto"), native))
    close(expected, found, 1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_outside_of_a_compiled_function_too(form):
    x, kernel = _drawn(VALID)[:2]
    close(native(x, kernel, VALID), convolve(x, kernel, VALID, form), 1e-5)


def test_narrow_and_wide_numbers_keep_their_dtype():
    x, kernel = _drawn(SAME)[:2]
    for dtype in (jnp.bfloat16, jnp.float16):
        gradients = jax.eval_shape(
            jax.grad(_loss(_in_form("auto"), SAME), argnums=(0, 1)), x.astype(dtype), kernel.astype(dtype)
        )
        assert {leaf.dtype for leaf in gradients} == {jnp.dtype(dtype)}
