"""The coupling node: count, formula, inverse, clamp, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.invertible import Bottleneck, CouplingNode, CouplingStack
from tests.refusals import refused
from tests.tiny_systems import abstract, close, count

KEY = jax.random.key(0, impl="rbg")
INIT = jax.nn.initializers.lecun_normal()
IMAGE = jax.random.normal(KEY, (2, 6, 5, 8))


def _drawn(module, x=IMAGE):
    """Output and parameters, with a bias that is not zero."""
    params = jax.jit(module.init)(KEY, x)
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + 0.3 if path[-1].key == "bias" else leaf, params)
    return jax.jit(module.apply)(params, x), params


def test_parameter_count_of_64_channels_of_which_the_mixing_starts_as_a_rotation():
    assert count(abstract(CouplingNode(64), 1, 8, 8, 64)[1]) == 18_176
    mix = jax.jit(CouplingNode(8).init)(KEY, IMAGE)["params"]["mix"][0, 0]
    np.testing.assert_allclose(mix @ mix.T, np.eye(8), atol=1e-5)


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
    padded = hidden[:, [1, *range(6), 4]][:, :, [1, *range(5), 3]]
    kernel = np.asarray(params["spatial"]["kernel"])
    mixed = sum(padded[:, i : i + 6, j : j + 5] * kernel[i, j, 0] for i in range(3) for j in range(3))
    np.testing.assert_allclose(y, np.clip(mixed, 0, 6) @ np.asarray(params["project"]["kernel"][0, 0]), atol=1e-5)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_inverse_returns_the_input(clamp):
    stack = CouplingStack(8, 2, clamp, kernel_init=INIT)
    y, params = _drawn(stack)
    assert jnp.abs(y - IMAGE).max() > 0.5
    back = jax.jit(stack.apply, static_argnames="method")(params, y, method="inverse")
    np.testing.assert_allclose(back, IMAGE, atol=1e-5)


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
    assert 0.49 < jnp.abs(large).max() <= 0.5


def test_remat_changes_neither_parameters_nor_gradients():
    kept = CouplingStack(8, 1, kernel_init=INIT)
    recomputed = kept.clone(remat=True)
    _, params = _drawn(kept)
    assert jax.eval_shape(recomputed.init, KEY, IMAGE) == jax.eval_shape(kept.init, KEY, IMAGE)
    modules = (kept, recomputed)
    close(*(jax.jit(jax.grad(lambda p, m=m: jnp.sum(jnp.sin(m.apply(p, IMAGE)))))(params) for m in modules), 1e-5)


def test_refusals_say_what_came():
    refused("halves its channels, got 7", CouplingNode(7).init, KEY, IMAGE[..., :7])
    refused("must be positive, got 0.0", CouplingNode(8, clamp=0.0).init, KEY, IMAGE)
    refused("no reflection", CouplingNode(8).init, KEY, IMAGE[:, :1])
