"""Transposed convolution: where every product goes, both forms, its adjoint, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.conv import conv
from jaxfuse.nn.transposed_conv import TransposedConv, _interleaved, _overlapped, transposed_conv
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, structure


def _drawn(side):
    x_key, kernel_key = jax.random.split(KEY)
    return jax.random.normal(x_key, (2, 3, 2, 3)), jax.random.normal(kernel_key, (side, side, 3, 4))


@pytest.mark.parametrize("side", [3, 4])
def test_every_pixel_adds_the_kernel_around_its_place(side):
    x, kernel = _drawn(side)
    # One pixel more on each side, for what falls away.
    expected = np.zeros((2, 8, 6, 4), np.float32)
    for i, j in np.ndindex(3, 2):
        for s, t in np.ndindex(side, side):
            expected[:, 2 * i + s, 2 * j + t] += x[:, i, j] @ kernel[s, t]
    for form in (transposed_conv, _interleaved, _overlapped):
        np.testing.assert_allclose(form(x, kernel), expected[:, 1:-1, 1:-1], atol=1e-5)
    # The adjoint of a convolution of stride 2.
    image = jax.random.normal(KEY, (2, 6, 4, 4))
    halved = conv(image, jnp.swapaxes(kernel, 2, 3), strides=2, padding=1)
    np.testing.assert_allclose((halved * x).sum(), (image * transposed_conv(x, kernel)).sum(), rtol=1e-4)


@pytest.mark.parametrize("side", [3, 4])
def test_both_forms_have_the_same_gradients(side):
    forms = (transposed_conv, _interleaved, _overlapped)
    first, *others = (jax.jit(jax.grad(lambda x, k, f=f: jnp.sin(f(x, k)).sum(), (0, 1)))(*_drawn(side)) for f in forms)
    for gradients in others:
        for mine, other in zip(gradients, first, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)


def test_forward_mode_and_vmap_agree_in_both_forms():
    x, kernel = _drawn(4)
    for form in (_interleaved, _overlapped):
        out, tangent = jax.jvp(form, (x, kernel), (x, kernel))
        np.testing.assert_allclose(tangent, 2 * out, atol=1e-4)
        np.testing.assert_allclose(jax.vmap(form, (None, 0))(x, kernel[None])[0], out, atol=1e-5)


def test_the_module_adds_a_bias_where_it_has_one_and_computes_in_its_dtype():
    x, kernel = _drawn(4)
    module = TransposedConv(4, 4)
    params = module.init(KEY, x)["params"]
    assert not np.asarray(params["bias"]).any()
    y = module.apply({"params": {"kernel": kernel, "bias": jnp.arange(4.0)}}, x)
    np.testing.assert_allclose(y, transposed_conv(x, kernel) + jnp.arange(4.0), atol=1e-5)
    plain = TransposedConv(4, 3, use_bias=False, dtype=jnp.bfloat16)
    y, variables = abstract(plain, *x.shape)
    assert (y.dtype, structure(variables["params"])) == (jnp.bfloat16, {"kernel": ((3, 3, 3, 4), jnp.float32)})
    refused(r"kernels of side 3 or 4, got \(2, 2\)", transposed_conv, jnp.zeros((1, 2, 2, 1)), jnp.zeros((2, 2, 1, 1)))
