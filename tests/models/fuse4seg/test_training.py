"""Cooperative training of small networks: what a step is made of, combinations, schemes, rows, networks of others."""

from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning import bilevel
from jaxfuse.learning.settling import settle
from jaxfuse.losses.adversarial import gan_form
from jaxfuse.losses.overlap import cross_entropy
from jaxfuse.models.baselines.nnunet2d import DeepLogits, NNUNet2D
from jaxfuse.models.fuse4seg.cooperative import pixel_energy
from jaxfuse.models.fuse4seg.make import LossForm, cooperate, make_system
from jaxfuse.models.fuse4seg.parts import DeeplySupervised
from tests.models.fuse4seg.small_forms import (
    ALL,
    CLASSES,
    CRITICS,
    EQ_14,
    NAMES,
    NO_CRITICS,
    Pixelwise,
    Softmax,
    small_system,
)
from tests.refusals import refused
from tests.tiny_systems import KEY, gradient_descent, largest, made, minus, moved, pictures

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow


def _stepped(system, step=0, side=16):
    batch = pictures(side, len(NAMES), CLASSES)
    state = system.init(KEY, batch).replace(step=jnp.int32(step))
    return batch, state, *jax.jit(system.train_step)(state, batch)


@pytest.fixture(scope="module")
def small():
    """A joint step: the system, batch, state, next state and metrics."""
    system = small_system(fusion_weight=0.5)
    return system, *_stepped(system)


def test_a_step_is_critics_then_follower_then_leader(small):
    """Each player moves by the gradient of its own loss, at what the players before it have become."""
    system, batch, before, after, metrics = small
    choice = system.combinations.choice(0)
    sources, presence = choice.of(batch["image"])
    critics, form = system.fusion_loss.critics, gan_form("nonsaturating")
    phi, psi = before.params["fusion"], before.params["segmentation"]
    fused = system.fusion.fuse(phi, sources, presence, None).image

    def scores(params, name, image):
        return critics.network.apply({"params": params[name]}, image).reshape(2, -1)

    def critics_loss(params):
        pairs = [(name, sources[..., i : i + 1]) for i, name in enumerate(("t1", "t2"))]
        return sum(
            form.real(scores(params, name, real)).mean() / 2 + form.fake(scores(params, name, fused)).mean() / 2
            for name, real in pairs
        )

    value, slope = jax.jit(jax.value_and_grad(critics_loss))(before.params["critics"])
    np.testing.assert_allclose(metrics["critics/loss"], value, rtol=1e-5)
    step = moved(before, after, "critics")
    for name in NAMES:
        for a, b in zip(jax.tree.leaves(step[name]), jax.tree.leaves(slope[name]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    # The critic of the modality that was not shown has nothing to learn.
    assert largest(slope["t1"]) > 1e-3
    assert largest(step["t1ce"]) == 0

    own = lambda psi: system.segmentation.loss(psi, fused, batch["label"], None)
    value, slope = jax.jit(jax.value_and_grad(own))(psi)
    np.testing.assert_allclose(metrics["segmentation/loss"], value, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), moved(before, after, "segmentation"), slope)

    def upper(phi):
        made = system.fusion.fuse(phi, sources, presence, None)
        task = system.segmentation.loss(after.params["segmentation"], made.theta, batch["label"], None)
        return task + 0.5 * system.fusion_loss(made, after.params["critics"], choice, sources, presence)[0]

    value, slope = jax.jit(jax.value_and_grad(upper))(phi)
    np.testing.assert_allclose(metrics["fusion/loss"], value, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), moved(before, after, "fusion"), slope)
    assert int(after.step) == 1


def test_the_fusion_loss_is_its_weighted_terms(small):
    *_, metrics = small
    terms = {name.split("/")[1]: float(value) for name, value in metrics.items() if name.startswith("fusion/")}
    assert terms["content"] == pytest.approx(terms["intensity"] + 10 * terms["gradient"], rel=1e-5)
    expected = 0.1 * terms["adversarial"] + 0.25 * terms["correlation"] + 0.75 * terms["content"]
    assert terms["fusion_loss"] == pytest.approx(expected, rel=1e-5)
    assert terms["loss"] == pytest.approx(terms["task_loss"] + 0.5 * terms["fusion_loss"], rel=1e-5)


def test_warm_up_detaches_the_image(small):
    joint = small[3]
    warm = small_system(fusion_weight=0.5, warmup_steps=2)
    _, before, early, _ = _stepped(warm)
    *_, detached, _ = _stepped(small_system(fusion_weight=0.5, bilevel="detached"))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), early.params, detached.params)
    assert largest(minus(early.params["fusion"], joint.params["fusion"])) > 1e-3
    late, _ = jax.jit(warm.train_step)(before.replace(step=jnp.int32(2)), pictures(16, len(NAMES), CLASSES))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), late.params, joint.params)
    refused("warmup_steps is -1", small_system, warmup_steps=-1)


@pytest.mark.parametrize("name", ["pixel", "fusion_leader", "rank_one", "weights", "unrolled"])
def test_every_scheme_makes_a_step(name):
    system = small_system(("fusion", "segmentation"), fusion_weight=0.5, critics=NO_CRITICS, bilevel=name)
    _, before, after, metrics = _stepped(system)
    assert all(jnp.isfinite(value) for value in metrics.values())
    assert all(largest(moved(before, after, player)) > 1e-4 for player in system.players)
    assert f"{system.scheme.leader}/bilevel/residual" in metrics
    assert after.memory["fusion_weight"] == 0.5
    if name == "rank_one":
        assert int(after.memory["bilevel"]["count"]) == 1
        assert float(after.memory["bilevel"]["squared"]) > 0
    elif name == "fusion_leader":
        assert largest(after.memory["bilevel"]["adjoint"]) > 0
    else:
        assert set(after.memory) == set(before.memory) == {"fusion_weight"}
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)


def test_without_adversarial_weight_there_are_no_critics(small):
    system = small_system(("fusion", "segmentation"), NO_CRITICS)
    assert system.players == ("fusion", "segmentation")
    batch = pictures(16, len(NAMES), CLASSES)
    state = jax.eval_shape(system.init, KEY, batch)
    assert set(state.params) == {"fusion", "segmentation"}
    _, metrics = jax.eval_shape(system.train_step, state, batch)
    assert {name for name in small[-1] if name not in metrics} == {
        "fusion/adversarial",
        "critics/loss",
        "critics/real",
        "critics/fake",
    }


def test_a_game_with_gradient_penalty():
    _, before, after, metrics = _stepped(small_system(critics=replace(CRITICS, gan="wgan-gp")))
    assert all(jnp.isfinite(value) for value in metrics.values())
    assert largest(moved(before, after, "critics")) > 1e-4
    total = sum(metrics[f"critics/{term}"] for term in ("real", "fake", "penalty"))
    np.testing.assert_allclose(metrics["critics/loss"], total, rtol=1e-5)
    # A critic of small weights is nearly flat: its slope is far from 1, at ten times the square of the gap.
    assert 1 < float(metrics["critics/penalty"]) <= 10.01


def test_the_energy_and_its_reweighting_agree_and_a_constant_image_has_a_gradient():
    rng = np.random.default_rng(0)
    sources, presence = jnp.asarray(rng.uniform(size=(1, 6, 6, 2)), jnp.float32), jnp.ones((1, 2))
    energy = pixel_energy(sources, presence, gamma=0.3, kappa=0.5, width=0.1)
    output, theta = sources[..., :1], sources[..., 1:]
    residuals = energy.residuals(theta, output)
    slopes = jax.grad(energy.convex)(residuals)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        jax.tree.map(jnp.multiply, energy.weights(residuals), residuals),
        slopes,
    )
    flat = pixel_energy(jnp.full((1, 6, 6, 2), 0.5), presence, gamma=1e-2, kappa=1.0, width=1e-2)
    image = jnp.full((1, 6, 6, 1), 0.5)

    def settled(output):
        return jnp.sum(settle(flat, output, 2, 5) ** 2) + flat.convex(flat.residuals(output, output))

    assert jnp.isfinite(jax.jit(jax.grad(settled))(image)).all()


def test_gauss_newton_rounds_come_near_the_minimum_of_the_energy():
    rng = np.random.default_rng(0)
    sources = jnp.asarray(rng.uniform(size=(1, 12, 12, 2)), jnp.float32)
    energy = pixel_energy(sources, jnp.ones((1, 2)), gamma=1e-2, kappa=1.0, width=1e-2)
    output = sources.mean(-1, keepdims=True)
    value = lambda theta: energy.convex(energy.residuals(theta, output))
    values = [float(value(settle(energy, output, rounds, 20))) for rounds in (0, 1, 4, 30)]
    assert values[0] > values[1] > values[2] > values[3]
    # Four rounds, the default, do nearly all that can be done.
    assert values[2] - values[3] < 0.05 * (values[0] - values[3])


def _paper(players=("fusion", "segmentation"), **options):
    flat = {"modalities": NAMES, "classes": CLASSES, "loss": EQ_14, "combos": ("t1+t2",), "adversarial_weight": 0.0}
    small = {"dim": 8, "heads": 2, "cell": 8, "front": 0, "vit_depth": 1, "units": (1, 1, 1), "train_side": 32}
    return made(make_system, optimizers=gradient_descent(*players), **flat | small | options)


def test_without_decoder_segmentation_reads_the_embedding():
    system = _paper(decoder=False)
    batch = jax.eval_shape(lambda: pictures(32, len(NAMES), CLASSES))
    state = jax.eval_shape(system.init, KEY, batch)
    assert set(state.params["fusion"]["decoder"]) == {"merge"}
    assert state.params["segmentation"]["encoder"]["stem"]["kernel"].shape[2] == 8
    _, metrics = jax.eval_shape(system.train_step, state, batch)
    assert set(metrics) == {
        *("fusion/loss", "fusion/correlation", "fusion/fusion_loss", "fusion/task_loss", "segmentation/loss")
    }
    outputs = jax.eval_shape(system.predict, state, {"image": batch["image"]})
    assert set(outputs) == {"S", "attention"}
    assert {"S"} == {system.primary} == set(system.probabilities)
    refused("set adversarial_weight to 0", _paper, ALL, decoder=False, adversarial_weight=0.1)
    pixel = pixel_energy(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2)), gamma=1.0, kappa=1.0, width=1.0)
    refused("'pixel' needs a gray fused image", pixel.residuals, jnp.ones((1, 4, 4, 8)), jnp.ones((1, 4, 4, 8)))


def test_options_reach_their_scheme_and_no_other():
    system = _paper(bilevel="pixel", options={"gamma": 0.1, "steps": 7}, cross_attention="none", fusion_weight=2.0)
    assert system.scheme == bilevel.pixel(gamma=0.1, steps=7)
    assert system.fusion_weight == 2.0
    assert system.geometry.divisor == 16
    refused("bilevel 'joint' has no option gamma; it has none", _paper, options={"gamma": 0.1})
    refused("bilevel is 'upper'; choose one of joint, pixel", _paper, bilevel="upper")
    refused("shown is 't1\\+flair'", _paper, pairs=("t1+flair",))
    refused("give one of them", _paper, pairs=("t1+t2",), shown="t1+t2")
    refused("correlation_weight is 1.5", _paper, correlation_weight=1.5)
    refused("gan is 'hinge'", _paper, gan="hinge")
    refused("adversarial_weight is -1", _paper, adversarial_weight=-1.0)


class Fixed(nn.Module):
    """Gives logits at two resolutions that do not depend on anything but one weight."""

    @nn.compact
    def __call__(self, image):
        weight = self.param("weight", nn.initializers.ones_init(), (2,))
        full = jnp.broadcast_to(jnp.array([0.0, 1.0, 2.0]), (*image.shape[:3], CLASSES)) * weight[0]
        half = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0]), full[:, ::2, ::2].shape) * weight[1]
        return DeepLogits(full, (half,))


def test_deep_supervision_weighs_coarser_outputs_half_and_takes_every_second_label():
    batch = pictures(8, len(NAMES), CLASSES)
    part = DeeplySupervised(Fixed(), 2, cross_entropy)
    params = part.init(KEY, batch["image"])
    label = np.asarray(batch["label"])
    full = -np.log(np.exp(label) / np.exp([0.0, 1.0, 2.0]).sum()).mean()
    half = -np.log(np.exp(1.0 * (label[:, ::2, ::2] == 0)) / np.exp([1.0, 0.0, 0.0]).sum()).mean()
    found = part.loss(params, batch["image"], batch["label"], None)
    np.testing.assert_allclose(found, (full + 0.5 * half) / 1.5, rtol=1e-5)


def test_an_nnunet_can_stand_in_for_the_segmentation_network():
    network = NNUNet2D(classes=CLASSES, stages=4, base=2)
    system = cooperate(
        Pixelwise(),
        DeeplySupervised(network, 8, EQ_14),
        optimizers=gradient_descent(*ALL),
        modalities=NAMES,
        critics=CRITICS,
    )
    assert system.geometry.divisor == 8
    batch = jax.eval_shape(lambda: pictures(16, len(NAMES), CLASSES))
    state = jax.eval_shape(system.init, KEY, batch)
    after, metrics = jax.eval_shape(system.train_step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all((value.shape, value.dtype) == ((), jnp.float32) for value in metrics.values())
    assert jax.eval_shape(system.predict, state, batch)["S"].shape == (2, 16, 16, CLASSES)


@dataclass(frozen=True)
class Bandless(Pixelwise):
    def fuse(self, params, sources, presence, rng):
        return super().fuse(params, sources, presence, rng)._replace(bands=None)


def test_a_fusion_network_without_bands_needs_no_correlation_term():
    def build(weight):
        return cooperate(
            Bandless(),
            Softmax(),
            optimizers=gradient_descent(*ALL),
            modalities=NAMES,
            critics=CRITICS,
            losses=LossForm(correlation_weight=weight),
        )

    batch = jax.eval_shape(lambda: pictures(16, len(NAMES), CLASSES))
    state = jax.eval_shape(build(0.0).init, KEY, batch)
    assert "fusion/correlation" not in jax.eval_shape(build(0.0).eval_step, state, batch)
    refused("has no bands; set it to 0", jax.eval_shape, build(0.25).eval_step, state, batch)
