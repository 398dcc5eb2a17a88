"""The 2D U-Nets beside InfiNet: counts, what joins what, the transposed convolution, a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.overlap import cross_entropy
from jaxfuse.models.baselines.unet2d import Double, UNet2DForm, make_system
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, close, count, gradient_descent, largest, moved

T1_T2 = ("t1", "t2")
TINY = UNet2DForm(base=2, levels=2, double_arm=True)
BATCH = {"image": jax.random.normal(KEY, (1, 4, 4, 2)), "label": jax.random.randint(KEY, (1, 4, 4), 0, 3)}


def _made(tiny, form):
    return make_system(optimizers=gradient_descent("net"), modalities=T1_T2, classes=3, loss=cross_entropy, form=form)


def _abstract(form):
    logits, variables = abstract(form.network(T1_T2, 4), 1, 32, 32, 2)
    return logits, variables["params"]


@pytest.mark.parametrize(
    ("form", "total"),
    [(UNet2DForm(), 1_941_012), (UNet2DForm(double_arm=True), 3_593_844), (UNet2DForm(base=64), 31_031_364)],
    ids=["single", "double", "original widths"],
)
def test_parameters(form, total):
    logits, params = _abstract(form)
    assert count(params) == total
    assert (logits.shape, logits.dtype) == ((1, 32, 32, 4), jnp.float32)


def test_the_deepest_maps_are_doubled_apart_and_joined_with_both_skips():
    _, params = _abstract(UNet2DForm(double_arm=True))
    deepest, above = params["up_4"], params["up_3"]
    assert {name for name in deepest if "double" in name} == {"double_1", "double_2"}
    assert deepest["double_2"]["kernel"].shape == (2, 2, 256, 128)
    assert deepest["convs"]["conv_1"]["kernel"].shape == (3, 3, 512, 128)
    assert {name for name in above if "double" in name} == {"double_1"}
    assert above["convs"]["conv_1"]["kernel"].shape == (3, 3, 64 + 2 * 64, 64)


def test_doubling_is_a_transposed_convolution_of_side_and_stride_two():
    x = jax.random.normal(KEY, (2, 3, 2, 5))
    module = Double(4)
    params = {**module.init(KEY, x)["params"], "bias": jnp.arange(4.0)}
    y = np.asarray(module.apply({"params": params}, x))
    assert y.shape == (2, 6, 4, 4)
    for row in range(6):
        for column in range(4):
            expected = x[:, row // 2, column // 2] @ params["kernel"][row % 2, column % 2] + params["bias"]
            np.testing.assert_allclose(y[:, row, column], expected, atol=1e-5)


def test_each_arm_reads_its_own_modality(tiny):
    system = _made(tiny, TINY)
    params = jax.jit(system.init)(KEY, BATCH).params["net"]
    silent = jax.tree.map(jnp.zeros_like, {name: params[name] for name in ("t1_level_1", "t1_level_2")})
    gradient = jax.jit(jax.grad(lambda image, params: jnp.sin(system.network.function(params, image)).sum()))
    seen = jnp.abs(gradient(BATCH["image"], params)).max((0, 1, 2))
    assert (seen > 0).all()
    without_t1 = jnp.abs(gradient(BATCH["image"], {**params, **silent})).max((0, 1, 2))
    assert without_t1[0] == 0 < without_t1[1]


@pytest.mark.parametrize("double_arm", [False, True])
def test_a_step_follows_the_gradient_and_remat_does_not_change_it(tiny, double_arm):
    form = dataclasses.replace(TINY, double_arm=double_arm)
    system, again = _made(tiny, form), _made(tiny, dataclasses.replace(form, remat=True))
    state = jax.jit(system.init)(KEY, BATCH)
    assert jax.eval_shape(again.init, KEY, BATCH) == jax.eval_shape(lambda: state)
    (after, metrics), (recomputed, _) = (jax.jit(s.train_step)(state, BATCH) for s in (system, again))
    assert metrics["net/loss"] > 0
    assert largest(moved(state, after, "net")["head"]) > 1e-3
    close(after.params, recomputed.params)
    assert dataclasses.astuple(system.geometry)[:3] == (2, 2, 0)


def test_bfloat16_keeps_float32_weights_and_logits():
    logits, params = _abstract(dataclasses.replace(TINY, dtype="bfloat16"))
    assert {leaf.dtype for leaf in (logits, *jax.tree.leaves(params))} == {jnp.dtype("float32")}
    module = Double(4, dtype=jnp.bfloat16)
    assert jax.eval_shape(lambda x: module.init_with_output(KEY, x)[0], jnp.zeros((1, 2, 2, 3))).dtype == jnp.bfloat16


def test_refusals_say_what_came():
    refused("dtype is 'half'; choose one of float32, bfloat16", UNet2DForm(dtype="half").network, T1_T2, 4)
    refused("2 levels at least, got 16 and 1", UNet2DForm(levels=1).network, T1_T2, 4)
    network = UNet2DForm().network(T1_T2, 4)
    refused(r"multiples of 16, got shape \(1, 32, 24, 2\)", abstract, network, 1, 32, 24, 2)
    refused("t1, t2, got slices of 3 channels", abstract, network, 1, 32, 32, 3)
