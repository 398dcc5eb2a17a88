"""Grouped convolution: both forms against each other and against loops, gradients, what is kept."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.grouped_conv import (
    GroupedConv,
    _by_library,
    _by_library_image,
    _by_library_kernel,
    _native,
    _shifted,
    grouped_conv,
)
from jaxfuse.nn.onednn import convolutions as onednn
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, kept

IMAGE = jax.random.normal(KEY, (2, 5, 4, 6))


def _kernel(group, side=3):
    return jax.random.normal(jax.random.fold_in(KEY, group), (side, side, group, 6))


def _loops(x, kernel, padding):
    taps, group, channels = kernel.shape[1:]
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    out = np.zeros((x.shape[0], x.shape[1] - taps + 1, x.shape[2] - taps + 1, channels))
    for c, i, j, source in np.ndindex(channels, taps, taps, group):
        window = x[:, i : i + out.shape[1], j : j + out.shape[2], c // group * group + source]
        out[..., c] += window * kernel[i, j, source, c]
    return out


@pytest.mark.parametrize(("group", "padding"), [(1, 1), (2, 1), (3, 0)])
def test_both_forms_are_the_sum_over_taps_of_the_own_group(group, padding):
    kernel = _kernel(group)
    expected = _loops(np.asarray(IMAGE), np.asarray(kernel), padding)
    taps = {"taps": (3, 3, group)}
    for form in (partial(_native, **taps), partial(_shifted, **taps), grouped_conv):
        np.testing.assert_allclose(form(IMAGE, kernel, padding=padding), expected, atol=1e-5)


@pytest.mark.parametrize(("group", "padding"), [(1, 1), (2, 0), (3, 2)])
def test_first_and_second_derivatives_agree(group, padding):
    kernel = _kernel(group)

    @jax.jit
    def derivatives(x, k):
        def both(conv):
            gradient = jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv(x, k))), (0, 1))
            return jax.jvp(gradient, (x, k), (jnp.ones_like(x), jnp.ones_like(k)))

        return (
            both(lambda x, k: grouped_conv(x, k, padding=padding)),
            both(lambda x, k: _native(x, k, taps=(3, 3, group), padding=padding)),
        )

    ours, native = derivatives(IMAGE, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(native), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_reverse_mode_keeps_the_image_and_the_kernel_alone():
    sizes = [leaf.size for leaf in kept(lambda pair: grouped_conv(*pair, padding=1), (IMAGE, _kernel(2)))]
    assert sorted(sizes) == sorted([IMAGE.size, _kernel(2).size])


def test_bfloat16_adds_up_in_float32_and_rounds_once():
    x, kernel = IMAGE.astype(jnp.bfloat16), _kernel(1).astype(jnp.bfloat16)
    wide = grouped_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), padding=1)
    np.testing.assert_array_equal(grouped_conv(x, kernel, padding=1), wide.astype(jnp.bfloat16))


def test_module_pads_by_half_its_kernel_and_keeps_float32_weights():
    y, params = abstract(GroupedConv(group=2, dtype=jnp.bfloat16), *IMAGE.shape)
    kernel = params["params"]["kernel"]
    assert (y.shape, y.dtype, kernel.shape, kernel.dtype) == (IMAGE.shape, jnp.bfloat16, (3, 3, 2, 6), jnp.float32)
    refused("6 channels do not divide into groups of 4", grouped_conv, IMAGE, jnp.zeros((3, 3, 4, 6)), padding=1)


def test_depthwise_float32_goes_to_the_library_where_it_is(monkeypatch):
    monkeypatch.setattr(onednn, "available", lambda: True)
    for group, dtype, taken in ((1, jnp.float32, True), (2, jnp.float32, False), (1, jnp.bfloat16, False)):
        x, kernel = jnp.ones((1, 6, 6, 4), dtype), jnp.ones((3, 3, group, 4), dtype)
        calls = (_by_library, kernel), (_by_library_image, kernel), (_by_library_kernel, x)
        for run, other in calls:
            program = str(jax.make_jaxpr(partial(run, taps=(3, 3, group), padding=1))(x, other))
            assert ("ffi_call" in program) == taken
