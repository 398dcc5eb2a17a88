"""Transposed convolution: where every product goes, both forms, its adjoint, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.nn.conv import conv
from jaxfuse.nn.transposed_conv import TransposedConv, _overlapped, _spread, transposed_conv
from tests.tiny_systems import KEY


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
    for form in (transposed_conv, _spread, _overlapped):
        np.testing.assert_allclose(form(x, kernel), expected[:, 1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("side", [3, 4])
def test_both_forms_have_the_same_gradients(side):
    x, kernel = _drawn(side)
    forms = (transposed_conv, _spread, _overlapped)
    sliced = [jax.jit(jax.grad(lambda x, k, f=form: jnp.sin(f(x, k)).sum(), (0, 1)))(x, kernel) for form in forms]
    for gradients in sliced[1:]:
        for mine, other in zip(gradients, sliced[0], strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("side", [3, 4])
def test_it_is_the_adjoint_of_a_convolution_of_stride_two(side):
    x, kernel = _drawn(side)
    image = jax.random.normal(KEY, (2, 6, 4, 4))
    halved = conv(image, jnp.swapaxes(kernel, 2, 3), strides=2, padding=1)
    np.testing.assert_allclose((halved * x).sum(), (image * transposed_conv(x, kernel)).sum(), rtol=1e-4)


def test_the_module_adds_a_bias_where_it_has_one_and_computes_in_its_dtype():
    x, kernel = _drawn(4)
    module = TransposedConv(4, 4)
    params = module.init(KEY, x)["params"]
    assert not np.asarray(params["bias"]).any()
    y = module.apply({"params": {"kernel": kernel, "bias": jnp.arange(4.0)}}, x)
    np.testing.assert_allclose(y, transposed_conv(x, kernel) + jnp.arange(4.0), atol=1e-5)
    plain = TransposedConv(4, 3, use_bias=False, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(lambda x: plain.init_with_output(KEY, x), x)
    assert set(variables["params"]) == {"kernel"}
    assert (y.dtype, variables["params"]["kernel"].dtype) == (jnp.bfloat16, jnp.float32)


def test_other_sides_are_refused():
    with pytest.raises(UserError, match=r"kernels of side 3 or 4, got \(2, 2\)"):
        transposed_conv(jnp.zeros((1, 2, 2, 1)), jnp.zeros((2, 2, 1, 1)))
