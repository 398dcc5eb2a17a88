"""Moments of a map by one reduction and by two: values, every order of differentiation, vmap, what is kept."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.conv import instance_norm
from jaxfuse.nn.moments import _one_pass, _two_passes, moments, moments_where, per_deviation
from tests.tiny_systems import KEY

AXES = (1, 2, 3)
X, U, V = (jax.random.normal(key, (2, 4, 5, 6, 3)) for key in jax.random.split(KEY, 3))


def _normed(form):
    def total(x):
        mean, variance = form(x, AXES)
        return jnp.sum(jnp.sin((x - mean) * jax.lax.rsqrt(variance + 1e-5)) * U)

    return total


def one_pass(x, axes):
    return _one_pass(x, axes, jnp.array([0.5, 10.0, -99.0]))


@pytest.mark.parametrize("form", [one_pass, _two_passes, moments])
def test_they_are_mean_and_biased_variance(form):
    x = 3 * X + jnp.array([0.0, 10.0, -100.0])
    mean, variance = form(x, AXES)
    voxels = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, voxels.mean(AXES, keepdims=True), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, voxels.var(AXES, keepdims=True), rtol=1e-5)
    half = form(x.astype(jnp.bfloat16), AXES)
    assert [one.dtype for one in half] == [jnp.float32] * 2


DERIVATIVES = {
    "grad": lambda f: jax.grad(f)(X),
    "forward over reverse": lambda f: jax.jvp(jax.grad(f), (X,), (V,))[1],
    "reverse over reverse": lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) * V))(X),
    "vmap": lambda f: jax.vmap(jax.grad(lambda x: f(x[None])))(X),
}


@pytest.mark.parametrize("derive", DERIVATIVES.values(), ids=DERIVATIVES.keys())
def test_both_forms_have_the_same_derivatives(derive):
    near = jnp.array([0.5, -0.5, 0.0])
    forms = (partial(_one_pass, near=near), _two_passes)
    one, two = (jax.jit(lambda f=form: derive(_normed(f)))() for form in forms)
    np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("derive", DERIVATIVES.values(), ids=DERIVATIVES.keys())
def test_sums_of_examples_come_to_the_moments_of_a_shared_batch(derive):
    """Over examples too, which lie on several devices."""

    def total(form):
        return _normed(lambda x, axes: form(x, (0, *axes)))

    near = jnp.array([0.5, -0.5, 0.0])
    forms = (partial(_one_pass, near=near, shared=True), _two_passes)
    one, two = (jax.jit(lambda f=form: derive(total(f)))() for form in forms)
    np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e4])
def test_a_constant_channel_has_no_variance_and_a_finite_gradient(value):
    x = jnp.full((1, 3, 3, 3, 1), value)
    mean, variance = _one_pass(x, AXES, jnp.float32(value))
    np.testing.assert_array_equal((mean.item(), variance.item()), (value, 0.0))
    far = _one_pass(x, AXES, jnp.float32(0))
    # What is left of a mean that nobody foresaw stays far below the eps of a norm, in units of the mean.
    np.testing.assert_allclose((far[0].item(), far[1].item()), (value, 0.0), rtol=1e-6, atol=1e-6 * value**2)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(_one_pass(x, AXES, jnp.float32(0))[1]))(x)).all()


def test_a_gpu_program_reduces_once_where_the_cpu_one_reduces_twice():
    on_cpu, on_gpu = (
        jax.export.export(jax.jit(lambda x: moments(x, AXES)), platforms=[name])(X).mlir_module()
        for name in ("cpu", "cuda")
    )
    assert (on_cpu.count("stablehlo.reduce("), on_gpu.count("stablehlo.reduce(")) == (2, 1)
    with jax.enable_x64(True):
        double = jax.jit(lambda x: moments(x, AXES)).lower(jax.ShapeDtypeStruct(X.shape, jnp.float64)).as_text()
    assert double.count("stablehlo.reduce(") == 2


def test_reverse_mode_keeps_the_map_alone():
    kept = jax.eval_shape(lambda x: jax.vjp(lambda x: moments(x, AXES), x)[1], X)
    assert [leaf.shape for leaf in jax.tree.leaves(kept) if leaf.shape] == [X.shape]


def test_moments_of_some_examples_by_hand_and_what_they_learn():
    there = jnp.array([False, True])
    found = moments_where(there, X)
    axes = (0, 1, 2, 3)
    np.testing.assert_allclose(found[0], X[1:].mean(axes, keepdims=True), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], X[1:].var(axes, keepdims=True), rtol=1e-4)
    gradient = jax.grad(lambda x: sum(jnp.sin(one).sum() for one in moments_where(there, x)))(X)
    assert not gradient[0].any()
    assert gradient[1].any()
    assert not any(one.any() for one in moments_where(jnp.zeros(2, bool), X))


def test_of_a_constant_map_a_normalization_and_its_gradients_are_0():
    """However many lie behind each other: without this the gradient grows 316 times at each of them."""

    def network(x):
        for _ in range(20):
            x = jnp.tanh(instance_norm(x))
        return jnp.sum(x * U)

    for level in (0.0, 0.3, -1e4):
        constant = jnp.full(X.shape, level)
        assert not np.asarray(jax.grad(network)(constant)).any()
        assert not np.asarray(jax.jvp(jax.grad(network), (constant,), (V,))[1]).any()
    mean, variance = moments(3 + X, AXES)
    np.testing.assert_array_equal(per_deviation(mean, variance, 1e-5), jax.lax.rsqrt(variance + 1e-5))
    assert np.isfinite(jax.grad(network)(X)).all()
