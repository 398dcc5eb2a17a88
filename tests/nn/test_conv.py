"""Convolutions against scipy's correlation and against each other; instance normalization against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from jaxfuse.nn.conv import Conv, ConvNormAct, conv, implementation, instance_norm
from jaxfuse.nn.initializers import he_normal
from tests.refusals import refused
from tests.tiny_systems import close

# (sides, kernel, strides, padding)
CASES = [((5, 6, 7), 3, 1, 1), ((5, 6, 7), 3, 2, 1), ((6, 8, 4), 4, 2, 1), ((4, 5, 6), 3, 1, 0), ((4, 5, 6), 4, 1, 1)]
CASES += [((7, 6), 3, 2, 1), ((6, 5, 7), 3, (2, 1, 3), (1, 0, 1))]


def _normal(seed, shape):
    return jax.random.normal(jax.random.key(seed, impl="rbg"), shape)


def _case(sides, kernel, channels=(2, 3), batch=2):
    x = _normal(0, (batch, *sides, channels[0]))
    return x, _normal(1, (kernel,) * len(sides) + channels)


def _reference(x, kernel, strides, padding):
    """Float64 sums of scipy's valid correlations, one per pair of channels, then every `strides`-th voxel."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    steps, pads = (np.broadcast_to(sides, x.ndim - 2).tolist() for sides in (strides, padding))
    x = np.pad(x, [(0, 0), *((pad, pad) for pad in pads), (0, 0)])

    def correlated(item, weights):
        pairs = zip(np.moveaxis(item, -1, 0), np.moveaxis(weights, -1, 0), strict=True)
        summed = sum(correlate(image, kernel, "valid", method="direct") for image, kernel in pairs)
        return summed[tuple(slice(None, None, step) for step in steps)]

    return np.stack([[correlated(item, kernel[..., k]) for item in x] for k in range(kernel.shape[-1])], -1)


def _loss(strides, padding):
    return lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel, strides=strides, padding=padding)))


@pytest.mark.parametrize("name", ["native", "folded"])
@pytest.mark.parametrize(("sides", "kernel", "strides", "padding"), CASES)
def test_conv_equals_scipy(name, sides, kernel, strides, padding):
    x, w = _case(sides, kernel)
    with implementation(name):
        y = jax.jit(lambda x, w: conv(x, w, strides=strides, padding=padding))(x, w)
    np.testing.assert_allclose(y, _reference(x, w, strides, padding), atol=2e-5)


@pytest.mark.parametrize(("sides", "kernel", "strides", "padding"), CASES[:4])
def test_folded_gradients_equal_native_to_second_order(sides, kernel, strides, padding):
    x, w = _case(sides, kernel)
    directions = (_normal(2, x.shape), _normal(3, w.shape))
    results = {}
    for name in ("native", "folded"):
        with implementation(name):
            grad = jax.grad(_loss(strides, padding), argnums=(0, 1))
            results[name] = jax.jit(lambda g=grad: jax.jvp(g, (x, w), directions))()
    close(results["native"], results["folded"], 1e-5)


def test_gradient_is_that_of_finite_differences():
    x, w = _case((4, 4, 4), 3, batch=1)
    loss, step = jax.jit(_loss(2, 1)), 1e-2
    direction = _normal(4, w.shape)
    slope = (loss(x, w + step * direction) - loss(x, w - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss, argnums=1)(x, w), direction), slope, rtol=1e-2)


def test_vmap_over_kernels_equals_a_loop():
    x, _ = _case((4, 6, 5), 3)
    kernels = _normal(1, (3, 3, 3, 3, 2, 4))
    value_and_grad = jax.jit(jax.value_and_grad(_loss(1, 1), argnums=1))
    values, grads = jax.jit(jax.vmap(value_and_grad, in_axes=(None, 0)))(x, kernels)
    for i, kernel in enumerate(kernels):
        value, grad = value_and_grad(x, kernel)
        np.testing.assert_allclose(values[i], value, rtol=1e-4)
        np.testing.assert_allclose(grads[i], grad, atol=1e-4)


def test_one_export_holds_the_form_of_each_platform():
    x, w = _case((4, 4, 4), 3)
    run = jax.jit(lambda x, w: conv(x, w, strides=1, padding=1))
    exported = [jax.export.export(run, platforms=names)(x, w) for names in (["cpu"], ["cuda"], ["cpu", "cuda"])]
    native, product = ([form in e.mlir_module() for e in exported] for form in ("[b, 0, 1, 2, f]", "dot_general"))
    assert (native, product) == ([False, True, True], [True, False, True])
    np.testing.assert_allclose(exported[-1].call(x, w), _reference(x, w, 1, 1), atol=2e-5)


@pytest.mark.parametrize("name", ["auto", "native", "folded"])
def test_reverse_mode_keeps_only_image_and_kernel(name):
    x, w = _case((4, 5, 6), 3)
    with implementation(name):
        backward = jax.eval_shape(lambda x, w: jax.vjp(lambda *a: conv(*a, strides=2, padding=1), x, w)[1], x, w)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(backward)) == sorted([x.shape, w.shape])


@pytest.mark.parametrize("sides", [(4, 5), (4, 5, 6)])
@pytest.mark.parametrize("strides", [1, 2])
def test_kernel_of_one_voxel_is_a_matrix_product(sides, strides):
    x, w = _case(sides, 1)
    run = jax.jit(partial(conv, strides=strides, padding=0))
    on_cpu, on_gpu = (jax.export.export(run, platforms=[name])(x, w).mlir_module() for name in ("cpu", "cuda"))
    assert "stablehlo.convolution" not in on_cpu
    # A GPU program of a strided slice and a product stops XLA.
    assert ("stablehlo.convolution" in on_gpu) == (strides > 1)
    np.testing.assert_allclose(run(x, w), _reference(x, w, strides, 0), atol=1e-5)


def test_implementation_is_restored_after_an_error():
    x, w = _case((4, 4, 4), 3)

    def chosen():
        return "form=auto" in str(jax.make_jaxpr(lambda x, w: conv(x, w, strides=1, padding=1))(x, w))

    assert chosen()
    with pytest.raises(KeyError, match="False"), implementation("native"):
        raise KeyError(chosen())
    assert chosen()


def test_refusals_say_what_came():
    x, w = _case((2, 2, 2), 3)
    refused(r"leaves nothing of an image of \(2, 2, 2\) voxels", conv, x, w, strides=1, padding=0)
    refused(r"got shape \(2, 2\)", conv, x[:, 0, 0, 0], w, strides=1, padding=0)
    refused("3D convolution takes one number or 3", conv, x, w, strides=(1, 2), padding=1)
    refused("'fast' is not known", implementation("fast").__enter__)


def test_one_module_serves_both_ranks():
    key = jax.random.key(0, impl="rbg")
    module = Conv(5, 3, strides=2)
    for ndim, kernel in ((2, (3, 3, 2, 5)), (3, (3, 3, 3, 2, 5))):
        x = _normal(0, (1, *(4, 6, 8)[:ndim], 2))
        params = module.init(key, x)
        assert jax.tree.map(jnp.shape, params) == {"params": {"kernel": kernel, "bias": (5,)}}
        assert not params["params"]["bias"].any()
        shifted = {"params": {**params["params"], "bias": jnp.arange(5.0)}}
        expected = conv(x, params["params"]["kernel"], strides=2, padding=1) + jnp.arange(5.0)
        np.testing.assert_allclose(module.apply(shifted, x), expected, atol=1e-6)
        assert list(Conv(5, 3, use_bias=False).init(key, x)["params"]) == ["kernel"]


def test_compute_dtype_leaves_parameters_alone():
    x = _normal(0, (1, 4, 4, 4, 3))
    module = Conv(4, 3, kernel_init=he_normal(), dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0, impl="rbg"), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    half, full = module.apply(params, x), module.clone(dtype=None).apply(params, x)
    assert (half.dtype, full.dtype) == (jnp.bfloat16, jnp.float32)
    assert 0 < float(jnp.abs(half - full).max()) < 0.02 * float(jnp.abs(full).max())  # it was narrow indeed
    assert module.clone(dtype=None).apply(params, x.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("sides", [(4, 5), (3, 4, 5)])
def test_instance_norm_is_its_definition(sides):
    x = 3.0 * _normal(0, (2, *sides, 3)) + jnp.array([0.0, 10.0, -100.0])
    voxels, axes = np.asarray(x, np.float64), tuple(range(1, x.ndim - 1))
    expected = (voxels - voxels.mean(axes, keepdims=True)) / np.sqrt(voxels.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), expected, atol=2e-4)
    half = x.astype(jnp.bfloat16)
    assert instance_norm(half).dtype == jnp.bfloat16  # with the statistics of float32
    np.testing.assert_array_equal(instance_norm(half), instance_norm(half.astype(jnp.float32)).astype(jnp.bfloat16))


def test_instance_norm_of_a_constant_channel_is_zero_and_differentiable_and_refuses_a_single_voxel():
    x = jnp.full((1, 3, 3, 3, 1), 7.0)
    assert not instance_norm(x).any()
    assert jnp.isfinite(jax.grad(lambda x: (instance_norm(x) ** 2).sum())(x)).all()
    refused("single voxel", instance_norm, jnp.ones((2, 1, 1, 1, 4)))


def test_conv_norm_act_is_its_parts():
    x = _normal(0, (1, 6, 6, 6, 2))
    module = ConvNormAct(3, 4, 2, padding=1, slope=0.2)
    params = module.init(jax.random.key(1, impl="rbg"), x)
    assert jax.tree.map(jnp.shape, params) == {"params": {"conv": {"kernel": (4, 4, 4, 2, 3)}}}
    normalized = instance_norm(conv(x, params["params"]["conv"]["kernel"], strides=2, padding=1))
    y = module.apply(params, x)
    np.testing.assert_allclose(y, jnp.where(normalized > 0, normalized, 0.2 * normalized), atol=1e-6)
    assert (y < 0).any()
