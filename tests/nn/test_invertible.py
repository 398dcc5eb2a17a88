"""The coupling node: count, formula, inverse, clamp, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.nn.invertible import Bottleneck, CouplingNode, CouplingStack
from tests.tiny_systems import count, shape

KEY = jax.random.key(0, impl="rbg")
INIT = jax.nn.initializers.lecun_normal()
IMAGE = jax.random.normal(KEY, (2, 6, 5, 8))


def _drawn(module, x=IMAGE):
    """Output and parameters, with a bias that is not zero."""
    params = jax.jit(module.init)(KEY, x)
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + 0.3 if path[-1].key == "bias" else leaf, params)
    return jax.jit(module.apply)(params, x), params


def test_parameter_count_of_64_channels():
    params = jax.eval_shape(CouplingNode(64).init, KEY, shape(1, 8, 8, 64))
    assert count(params) == 18_176


def test_node_follows_its_formula():
    y, params = _drawn(CouplingNode(8, kernel_init=INIT))
    p = params["params"]
    mixed = IMAGE @ p["mix"][0, 0] + p["bias"]
    z1, z2 = mixed[..., :4], mixed[..., 4:]
    z2 = z2 + Bottleneck().apply({"params": p["shift_2"]}, z1)
    scale, shift = (Bottleneck().apply({"params": p[name]}, z2) for name in ("scale_1", "shift_1"))
    np.testing.assert_allclose(y, jnp.concatenate([z1 * jnp.exp(scale) + shift, z2], -1), atol=1e-5)


def test_bottleneck_continues_the_image_by_reflection():
    params = jax.jit(Bottleneck(INIT).init)(KEY, IMAGE)["params"]
    y = Bottleneck().apply({"params": params}, IMAGE)
    hidden = np.asarray(jnp.clip(IMAGE @ params["expand"]["kernel"][0, 0], 0, 6))
    # Row -1 is row 1, row n is row n - 2.
    rows, columns = [1, *range(6), 4], [1, *range(5), 3]
    padded = hidden[:, rows][:, :, columns]
    kernel = np.asarray(params["spatial"]["kernel"])
    mixed = sum(padded[:, i : i + 6, j : j + 5] * kernel[i, j, 0] for i in range(3) for j in range(3))
    np.testing.assert_allclose(y, np.clip(mixed, 0, 6) @ np.asarray(params["project"]["kernel"][0, 0]), atol=1e-5)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_inverse_returns_the_input(clamp):
    stack = CouplingStack(8, 2, clamp, kernel_init=INIT)
    y, params = _drawn(stack)
    assert jnp.abs(y - IMAGE).max() > 0.5
    np.testing.assert_allclose(
        jax.jit(stack.apply, static_argnames="method")(params, y, method="inverse"), IMAGE, atol=1e-5
    )


def test_clamp_bounds_the_scale_and_keeps_its_slope_at_zero():
    module = CouplingNode(8, clamp=0.5, kernel_init=INIT)
    _, params = _drawn(module)
    z2 = IMAGE[..., :4]

    def log_scale(factor):
        p = params["params"]
        p = {**p, "scale_1": {**p["scale_1"], "project": {"kernel": factor * p["scale_1"]["project"]["kernel"]}}}
        raw = Bottleneck().apply({"params": p["scale_1"]}, z2)
        return raw, module.apply({"params": p}, z2, method=lambda node, z2: node._log_scale(z2))

    raw, small = log_scale(1e-3)
    np.testing.assert_allclose(small, raw, rtol=1e-3, atol=1e-8)
    raw, large = log_scale(1e3)
    assert jnp.abs(raw).max() > 10
    assert jnp.abs(large).max() <= 0.5
    assert jnp.abs(large).max() > 0.49


def test_mixing_starts_as_a_rotation():
    mix = jax.jit(CouplingNode(8).init)(KEY, IMAGE)["params"]["mix"][0, 0]
    np.testing.assert_allclose(mix @ mix.T, np.eye(8), atol=1e-5)


def test_remat_changes_neither_parameters_nor_gradients():
    kept = CouplingStack(8, 1, kernel_init=INIT)
    recomputed = kept.clone(remat=True)
    _, params = _drawn(kept)
    assert jax.eval_shape(recomputed.init, KEY, IMAGE) == jax.eval_shape(kept.init, KEY, IMAGE)
    gradients = [
        jax.jit(jax.grad(lambda p, module=module: jnp.sum(jnp.sin(module.apply(p, IMAGE)))))(params)
        for module in (kept, recomputed)
    ]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(a).max())))


def test_refusals_say_what_came():
    with pytest.raises(UserError, match="halves its channels, got 7"):
        CouplingNode(7).init(KEY, IMAGE[..., :7])
    with pytest.raises(UserError, match="must be positive, got 0.0"):
        CouplingNode(8, clamp=0.0).init(KEY, IMAGE)
    with pytest.raises(UserError, match="no reflection"):
        CouplingNode(8).init(KEY, IMAGE[:, :1])
