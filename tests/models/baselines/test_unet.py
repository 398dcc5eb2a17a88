"""The network for photographs and its inflation to volumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.transfer import apply_rules, parse_rule
from jaxfuse.models import cmff
from jaxfuse.models.baselines.unet import inflate, make_system
from jaxfuse.nn.conv import Conv
from tests.refusals import refused
from tests.tiny_systems import count, gradient_descent, made

INFLATE = "models.baselines.unet:inflate"
RNG = np.random.default_rng(0)


def _draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def _photographs(tiny, **changes):
    options = {"classes": 21, "loss": tiny.fusion["loss"]} | changes
    optimizers = gradient_descent("net")
    return made(make_system, optimizers=optimizers, modalities=("r", "g", "b"), **options)


def test_it_labels_pixels_with_the_parameters_of_the_spec(tiny):
    system = _photographs(tiny)
    batch = tiny.shapes(32, 32, modalities=3)
    state = jax.eval_shape(system.init, tiny.key, batch)
    assert count(state.params) == 2_768_917
    assert jax.eval_shape(system.predict, state, batch)["segmentation"].shape == (1, 32, 32, 21)
    assert (system.geometry.ndim, system.geometry.divisor) == (2, 16)


@pytest.mark.parametrize(("kernel", "strides"), [(3, 1), (3, 2), (1, 1), (4, 2)])
def test_a_stack_of_equal_slices_is_answered_as_one_slice(kernel, strides):
    """Away from the first and the last slices, which see the zeros around the volume."""
    flat, target = _draw(kernel, kernel, 2, 5), jnp.zeros((kernel, kernel, kernel, 2, 5))
    slice_, depth = _draw(1, 8, 8, 2), 12
    stack = jnp.repeat(slice_[:, None], depth, axis=1)
    conv = Conv(5, kernel, strides, use_bias=False)
    expected = conv.apply({"params": {"kernel": flat}}, slice_)
    answer = conv.apply({"params": inflate({"kernel": flat}, {"kernel": target})}, stack)
    inner = answer[:, 1:-1] if kernel > 1 else answer
    assert inner.shape[1] >= 4
    np.testing.assert_allclose(inner, np.broadcast_to(expected[:, None], inner.shape), atol=1e-5)


def test_the_first_convolution_answers_gray_as_it_answers_color():
    """The mean over three inputs times 3/2 in each of two: as much in all as the three together."""
    flat = _draw(3, 3, 3, 4)
    (kernel,) = inflate([flat], [jnp.zeros((3, 3, 3, 2, 4))])
    expected = np.asarray(flat).mean(2) * 1.5 / 3
    np.testing.assert_allclose(kernel, np.broadcast_to(expected[:, :, None], (3, 3, 3, 2, 4)), atol=1e-6)
    gray = _draw(1, 8, 8, 1)
    answer_2d = Conv(4, 3, use_bias=False).apply({"params": {"kernel": flat}}, jnp.repeat(gray, 3, axis=-1))
    stack = jnp.repeat(jnp.repeat(gray, 2, axis=-1)[:, None], 5, axis=1)
    answer_3d = Conv(4, 3, use_bias=False).apply({"params": {"kernel": kernel}}, stack)
    np.testing.assert_allclose(answer_3d[:, 2], answer_2d, atol=1e-5)


def test_a_kernel_of_one_pixel_and_what_is_no_kernel_stay_as_they_are():
    flat = {"kernel": _draw(1, 1, 4, 3), "bias": _draw(3)}
    target = {"kernel": jnp.zeros((1, 1, 1, 4, 3)), "bias": jnp.zeros(3)}
    inflated = inflate(flat, target)
    np.testing.assert_array_equal(inflated["kernel"][0], flat["kernel"])
    np.testing.assert_array_equal(inflated["bias"], flat["bias"])


@pytest.mark.parametrize("shape", [(3, 3, 3, 2, 6), (5, 5, 5, 2, 4)])
def test_kernels_that_do_not_correspond_are_refused(shape):
    refused(r"cannot inflate a kernel of shape \(3, 3, 3, 4\)", inflate, [_draw(3, 3, 3, 4)], [jnp.zeros(shape)])


@pytest.mark.parametrize("arch", ["residual", "plain"])
def test_both_branches_take_the_whole_trunk_at_the_paper_sizes(tiny, arch):
    donor = _photographs(tiny, arch=arch)
    options = {name: tiny.fusion[name] for name in ("modalities", "pairs", "classes", "loss")}
    taker = made(cmff.make_system, optimizers=gradient_descent("net"), arch=arch, **options)
    given = jax.eval_shape(donor.init, tiny.key, tiny.shapes(32, 32, modalities=3)).params
    fresh = jax.eval_shape(taker.init, tiny.key, tiny.shapes(32, 32, 32)).params
    rules = [parse_rule((f"net/{branch}/trunk", "voc:net/trunk", INFLATE)) for branch in ("branch_a", "branch_b")]
    counted = []

    def transfer(fresh, given):
        params, moved = apply_rules(fresh, rules, {("voc", False): given})
        counted.append(moved)
        return params

    taken = jax.eval_shape(transfer, fresh, given)
    assert jax.tree.map(jnp.shape, taken) == jax.tree.map(jnp.shape, fresh)
    assert counted == [2 * count(fresh["net"]["branch_a"]["trunk"])]
