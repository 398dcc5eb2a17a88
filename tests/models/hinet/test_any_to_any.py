"""Hi-Net from any sources to any target as a recipe builds it, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.models.hinet.any_to_any import make_system
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.make import LossForm
from tests.refusals import refused
from tests.tiny_systems import KEY, gradient_descent, shape

MODALITIES = ("t1", "t1ce", "t2", "flair")
ALL = "+".join(MODALITIES)
TINY = HiNetForm(width=1, critic_width=1)


def made(form=TINY, pairs=(ALL, ALL), **losses):
    options = {"modalities": MODALITIES, "pairs": pairs, "form": form, "losses": LossForm(**losses)}
    return make_system(optimizers=gradient_descent("generator", "discriminator"), **options)


@pytest.mark.parametrize(("conditional", "channels"), [(False, 1 + 2), (True, 1 + 3 + 2)])
def test_networks_and_weights_of_the_losses(conditional, channels):
    form = HiNetForm(width=1, critic_width=1, conditional=conditional)
    system = made(form, ("t1+t1ce+flair", "t2+flair"), reconstruction_weight=3.0)
    state = jax.eval_shape(system.init, KEY, {"image": shape(2, 40, 40, 4)})
    each = {f"{part}_{name}" for part in ("encoder", "decoder") for name in ("t1", "t1ce", "flair")}
    assert set(system.networks(state.params)) == each | {"fusion", "synthesis", "discriminator"}
    assert (system.target_weight, system.reconstruction_weight) == (100.0, 3.0)
    assert state.params["discriminator"]["critic"]["down_1"]["kernel"].shape[2] == channels


@pytest.mark.parametrize(
    ("form", "losses", "message"),
    [
        ({"kind": "early"}, {}, "kind is 'early', but Hi-Net from any sources to any target is 'hybrid'; remove it"),
        ({"fusion_block": "concatenate"}, {}, "fusion_block is 'concatenate', but .* is 'mixed'; remove it"),
        ({"synthesis_block": "concatenate"}, {}, "synthesis_block is 'concatenate', but .* is 'mixed'; remove it"),
        ({}, {"gan": "wgan"}, "gan is 'wgan'; choose one of lsgan, bce"),
    ],
)
def test_options_that_it_does_not_read_are_refused(form, losses, message):
    refused(message, made, HiNetForm(**form), **losses)


@pytest.mark.slow
def test_a_fresh_state_learns_all_tasks_of_one_batch():
    system = make_system(
        optimizers={player: optax.adam(2e-3, b1=0.5) for player in ("generator", "discriminator")},
        modalities=MODALITIES,
        pairs=(ALL, ALL),
        form=HiNetForm(width=4, critic_width=2),
    )
    # Smooth images: T1 and its negative, another, and the mean of two.
    waves = jnp.sin(jnp.arange(40.0)[:, None] / 5 + jnp.arange(2.0))[None, :, None] * jnp.ones((4, 1, 40, 1))
    t1, t2 = jnp.split(0.5 + 0.4 * waves * (0.4 + 0.15 * jnp.arange(4.0)[:, None, None, None]), 2, axis=-1)
    batch = {"image": jnp.concatenate([t1, 1 - t1, t2, 0.5 * (t1 + t2)], axis=-1)}
    state, train = jax.jit(system.init)(KEY, batch), jax.jit(system.train_step, donate_argnums=0)
    errors = []
    for _ in range(200):
        state, metrics = train(state, batch)
        errors.append(float(metrics["generator/target"]))
    assert np.mean(errors[-20:]) < 0.6 * np.mean(errors[:3])
