"""Rivals of CMFT: what each U-Net reads, learns and moves."""

import jax
import numpy as np

from jaxfuse.models.cmft import make_system
from jaxfuse.models.cmft_rivals import make_paired_translation, make_reconstruction
from tests.tiny_systems import counts, gradient_descent, largest, made, slopes


def test_reconstruction_is_two_networks_that_learn_apart(tiny):
    optimizers = gradient_descent("generators")
    system = made(make_reconstruction, optimizers=optimizers, **tiny.reconstruction)
    assert (system.primary, system.accepts_unpaired) == ("reconstruction_a", True)
    state = jax.jit(system.init)(tiny.key, tiny.batch)
    outputs, metrics = jax.jit(lambda s, b: (system.predict(s, b), system.eval_step(s, b)))(state, tiny.batch)
    image = tiny.batch["image"]
    for side, truth in (("a", image[..., :2]), ("b", image[..., 2:])):
        distance = np.abs(np.asarray(outputs[f"reconstruction_{side}"]) - truth).mean()
        np.testing.assert_allclose(metrics[f"generators/l1_{side}"], distance, rtol=1e-5)
    total = metrics["generators/l1_a"] + metrics["generators/l1_b"]
    np.testing.assert_allclose(metrics["generators/loss"], total, rtol=1e-6)
    gradients = slopes(system, state, tiny.batch, ("generators/l1_a", "generators/l1_b"))
    for term, own in (("l1_a", "a"), ("l1_b", "b")):
        gradient = gradients[f"generators/{term}"]["generators"]
        assert [side for side in ("a", "b") if largest(gradient[side]) > 0] == [own]
    clean = jax.jit(lambda s: system.train_step(s, tiny.batch)[1]["generators/loss"])
    np.testing.assert_allclose(clean(state), total, rtol=1e-5)
    noisy = made(make_reconstruction, optimizers=optimizers, corruption=1.0, **tiny.reconstruction)
    noisy_loss = jax.jit(lambda s: noisy.train_step(s, tiny.batch)[1]["generators/loss"])
    # Noise is drawn anew in each step, and an evaluation has none.
    losses = {float(clean(state)), float(noisy_loss(state)), float(noisy_loss(state.advance()))}
    assert len(losses) == 3
    assert float(clean(state.advance())) == float(clean(state))


def test_paired_translation_learns_each_group_from_the_other(tiny):
    options = {**tiny.reconstruction, "pairs": ("t1", "t1ce+t2+flair")}
    system = made(make_paired_translation, optimizers=gradient_descent("generators"), **options)
    assert (system.primary, system.accepts_unpaired) == ("fake_b", False)
    state = jax.jit(system.init)(tiny.key, tiny.batch)
    outputs, metrics, (after, stepped) = jax.jit(
        lambda s, b: (system.predict(s, b), system.eval_step(s, b), system.train_step(s, b))
    )(state, tiny.batch)
    image = tiny.batch["image"]
    for name, output, truth in (("ab", "fake_b", image[..., 1:]), ("ba", "fake_a", image[..., :1])):
        distance = np.abs(np.asarray(outputs[output]) - truth).mean()
        np.testing.assert_allclose(metrics[f"generators/l1_{name}"], distance, rtol=1e-5)
    np.testing.assert_allclose(stepped["generators/loss"], metrics["generators/loss"], rtol=1e-5)
    gradients = slopes(system, state, tiny.batch, ("generators/l1_ab", "generators/l1_ba"))
    for term in ("ab", "ba"):
        gradient = gradients[f"generators/l1_{term}"]["generators"]
        assert [name for name in ("ab", "ba") if largest(gradient[name]) > 0] == [term]
    assert int(after.step) == 1


def test_its_generators_are_those_of_cmft(tiny):
    translation = made(make_system, optimizers=gradient_descent("generators", "discriminators"), **tiny.translation)
    paired = made(make_paired_translation, optimizers=gradient_descent("generators"), **tiny.reconstruction)
    game, plain = (one.networks(jax.eval_shape(one.init, tiny.key, tiny.batch).params) for one in (translation, paired))
    assert counts(plain) == {name: count for name, count in counts(game).items() if name.startswith("G_")}
