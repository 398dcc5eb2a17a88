"""Hi-Net as a recipe builds it: every form traces, networks by name, losses chosen, and what is refused."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.hinet import make_system
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.make import LossForm
from tests.refusals import refused
from tests.tiny_systems import KEY, counts, gradient_descent, shape, structure

MODALITIES = ("t1", "t1ce", "t2", "flair")
TINY = HiNetForm(width=2, critic_width=2)
BATCH = {"image": shape(2, 40, 40, 4)}


def made(form=TINY, pairs=("t2+t1", "flair"), **losses):
    options = {"modalities": MODALITIES, "pairs": pairs, "form": form, "losses": LossForm(**losses)}
    return make_system(optimizers=gradient_descent("generator", "discriminator"), **options)


def test_networks_of_early_fusion_by_name():
    system = made(HiNetForm(kind="early"))
    found = counts(system.networks(jax.eval_shape(system.init, KEY, BATCH).params))
    assert found == {"encoder": 287_616, "synthesis": 1_090_081, "discriminator": 391_041}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "sources"),
    [
        ({"conditional": True, "dtype": "bfloat16", "remat": True, "critic_first_norm": True}, "t1+t1ce+t2"),
        ({"kind": "early", "conditional": True, "bn_batch_stats_at_test": True}, "t1+t2"),
    ],
    ids=str,
)
def test_every_form_keeps_the_form_of_its_state(form, sources):
    form = dataclasses.replace(TINY, **form)
    system, count = made(form, (sources, "flair")), len(sources.split("+"))
    state = jax.eval_shape(system.init, KEY, BATCH)
    after, metrics = jax.eval_shape(system.train_step, state, BATCH)
    assert structure(after) == structure(state)
    assert set(structure(metrics).values()) == {((), jnp.dtype("float32"))}
    predicted = {name: image.shape[-1] for name, image in jax.eval_shape(system.predict, state, BATCH).items()}
    assert predicted == {"synthesized": 1} | ({"reconstructed": count} if form.kind != "early" else {})
    seen_channels = state.params["discriminator"]["down_1"]["kernel"].shape[2]
    assert seen_channels == (count + 1 if form.conditional else 1)


def test_cross_entropy_by_hand():
    game = made(gan="bce").game
    scores = jnp.array([0.0, math.log(3.0)])
    # The critic takes them for real with probability 1/2 and 3/4.
    for loss, probabilities in ((game.maker, (1 / 2, 3 / 4)), (game.real, (1 / 2, 3 / 4)), (game.fake, (1 / 2, 1 / 4))):
        np.testing.assert_allclose(loss(scores), -np.log(probabilities), rtol=1e-6)


def test_options_of_the_losses():
    assert (made().target_weight, made().reconstruction_weight) == (100.0, 20.0)
    assert made(reconstruction_weight=0.0).reconstruction_weight == 0.0
    early = made(dataclasses.replace(TINY, kind="early"))
    metrics = jax.eval_shape(early.eval_step, jax.eval_shape(early.init, KEY, BATCH), BATCH)
    makers = {name for name in metrics if name.startswith("generator")}
    assert makers == {"generator/loss", "generator/adversarial", "generator/target"}


@pytest.mark.parametrize(
    ("form", "losses", "message"),
    [
        ({}, {"gan": "wgan"}, "gan is 'wgan'; choose one of lsgan, bce"),
        ({}, {"target_weight": -1.0}, "target_weight is -1.0 and reconstruction_weight None; neither may be negative"),
        ({"kind": "early"}, {"reconstruction_weight": 20.0}, "kind 'early' gives no source back; remove it"),
        ({"kind": "all"}, {}, "kind is 'all'"),
    ],
)
def test_options_that_do_not_exist_are_refused(form, losses, message):
    refused(message, made, dataclasses.replace(TINY, **form), **losses)
