"""EMCAD: the size of the public code, the groups of its gate, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.models.baselines.emcad import EmcadForm, MultiScale, PairedGate
from jaxfuse.nn.initializers import normal
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count, drawn_for


def test_weights_are_as_many_as_in_the_public_code():
    """It is published with 26.76 M; a channel less has 49 * 64, four classes have three heads more than one."""
    heads, variables = abstract(EmcadForm().network(4), 1, 224, 224, 2)
    assert [logits.shape for logits in heads] == [(1, 224, 224, 4)] * 4
    assert count(variables) == 26_764_399 - 49 * 64 + 3 * (512 + 320 + 128 + 64 + 4) == 26_764_347


def test_every_two_channels_make_one_of_the_gate_which_weighs_each_pixel():
    signal, skip = jax.random.normal(KEY, (2, 1, 3, 4, 6))
    module = PairedGate(normal(), None)
    params = drawn_for(module, signal, skip, scale=0.5)["params"]
    assert (params["signal"]["kernel"].shape, params["signal_bias"].shape) == ((3, 3, 1, 6), (3,))
    made, between = module.apply({"params": params}, signal, skip, capture_intermediates=True)
    weights = np.asarray(made / skip)
    np.testing.assert_allclose(weights, np.broadcast_to(weights[..., :1], weights.shape), rtol=1e-4)
    grouped = jax.lax.conv_general_dilated(
        signal,
        params["signal"]["kernel"].reshape(3, 3, 3, 2).swapaxes(2, 3),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    # One group of three channels: the norm of all, with scale and shift.
    y = grouped + params["signal_bias"]
    y = (y - y.mean()) / jnp.sqrt(y.var() + 1e-6) * params["signal_norm"]["scale"] + params["signal_norm"]["bias"]
    np.testing.assert_allclose(between["intermediates"]["signal_norm"]["__call__"][0], y, atol=1e-4)


def test_convolutions_of_several_sizes_are_added():
    x = jax.random.normal(KEY, (1, 5, 5, 2))
    module = MultiScale((1, 3), 2, normal(), None)
    params = drawn_for(module, x, scale=0.5)["params"]
    assert {name: leaf["kernel"].shape for name, leaf in params.items() if name in ("around_1", "around_3")} == {
        "around_1": (1, 1, 1, 4),
        "around_3": (3, 3, 1, 4),
    }
    none = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(module.apply({"params": none}, x), x)


def test_refusals_say_what_came():
    refused(r"sizes is \(2,\); give odd sides", EmcadForm(sizes=(2,)).network, 4)
    odd = EmcadForm(widths=(5, 8, 20, 32), heads=(1, 1, 1, 1))
    refused(r"widths is \(5, 8, 20, 32\); give even numbers", odd.network, 4)
    sentence = r"an EMCAD of this form takes images .* multiples of 32, got shape \(1, 48, 32, 2\)"
    refused(sentence, jax.eval_shape, EmcadForm().network(4).init, KEY, jnp.zeros((1, 48, 32, 2)))
