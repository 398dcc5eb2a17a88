"""The rule of forms: total, within what each form can do, and where it falls."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.conv_rule import convolve, native, plain, taken_backward, taken_forward, taken_in_kernel


def _windows():
    sides, sizes, strides = (1, 2, 3, 5, 9, 27, 64, 256), (1, 2, 3, 4, 7), (1, 2, 3)
    for side, size, stride, padding, space in itertools.product(sides, sizes, strides, (0, 1, 3), (2, 3)):
        window = Window((side,) * space, (size,) * space, (stride,) * space, (padding,) * space)
        if min(window.out) >= 1:
            yield window


@pytest.mark.parametrize("channels", [(1, 1), (2, 64), (64, 1), (32, 32), (64, 64), (900, 75)])
def test_every_shape_has_a_form_that_can_compute_it(channels):
    for window in _windows():
        space = len(window.size)
        for rule in (taken_forward, taken_backward, taken_in_kernel):
            taken = rule(window, *channels)
            assert taken is None or 0 <= taken <= space, (rule, window)
            if taken is None:
                continue
            # Strides, and for a gradient padding beyond the kernel, need all taps aside.
            beyond = rule is not taken_forward and min(window.backward.padding) < 0
            assert taken == space or (max(window.strides) == 1 and not beyond), (rule, window)


def test_tiny_maps_are_products_over_patches_and_deep_ones_are_not():
    tiny, large = (Window((side,) * 3, (3,) * 3, (1,) * 3, (1,) * 3) for side in (2, 32))
    assert [rule(tiny, 256, 256) for rule in (taken_forward, taken_backward)] == [3, 3]
    assert [rule(large, 16, 16) for rule in (taken_forward, taken_backward, taken_in_kernel)] == [1, 1, None]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_only_float32_takes_the_measured_forms(dtype):
    window = Window((2, 2, 2), (3, 3, 3), (1, 1, 1), (1, 1, 1))
    x, kernel = jnp.ones((1, 2, 2, 2, 4), dtype), jnp.ones((3, 3, 3, 4, 4), dtype)
    program = str(jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, window))(x, kernel))
    assert ("conv_general_dilated" in program) == (dtype == jnp.bfloat16)


def test_plain_form_is_the_native_one():
    rng = np.random.default_rng(0)
    for window in (
        Window((5, 4, 6), (3, 3, 3), (1, 1, 1), (0, 0, 0)),
        Window((5, 4, 6), (4, 3, 2), (2, 1, 1), (1, 0, 1)),
    ):
        x = jnp.asarray(rng.normal(size=(2, *window.sides, 2)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(*window.size, 2, 3)), jnp.float32)
        np.testing.assert_allclose(plain(x, kernel, window), native(x, kernel, window), atol=2e-5)
