"""FILM and nnU-Net in the places of Fuse4Seg's networks: names, what a step moves, the encoder of variant "-P"."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.fusing import FusionPart
from jaxfuse.learning.system import System
from jaxfuse.learning.transfer import apply_rules, parse_rule
from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.baselines.film import FilmForm
from jaxfuse.models.fuse4seg.fusion import Encoder, FusionForm
from jaxfuse.models.fuse4seg.judging import CriticForm
from jaxfuse.models.fuse4seg.make import BilevelForm, LossForm, make_pretraining
from jaxfuse.models.fuse4seg.parts import SegmentationPart
from jaxfuse.models.fuse4seg.plugin import NO_CRITICS, FilmModule, NNUNetForm, make_film, make_film_p
from tests.models.fuse4seg.small_forms import CLASSES, NAMES
from tests.refusals import refused
from tests.tiny_systems import KEY, count, gradient_descent, largest, moved, pictures, structure

FILM = FilmForm(dim=4, heads=2, expansion=1.0, rounds=1, hidden=4, text_dim=2, decoder_blocks=0)
NNUNET = NNUNetForm(stages=2, base=2)
ENCODER = FusionForm(dim=4, front=0, decoder_blocks=0, heads=2, high_nodes=1, cross_attention="none")
BATCH = pictures(8, len(NAMES), CLASSES)
LOSS = partial(dice_and_cross_entropy, over_batch=True)


def _made(make, players=("fusion", "segmentation"), **options):
    common = {"modalities": NAMES, "classes": CLASSES, "loss": LOSS, "combos": ("t1+t2", "t1+t1ce+t2")}
    optimizers = {player: optax.sgd(0.1) for player in players}
    return make(optimizers=optimizers, film=FILM, segmentation=NNUNET, **common, **options)


@pytest.mark.parametrize("make", [make_film, partial(make_film_p, fusion=ENCODER)])
def test_it_is_a_system_of_two_players(make):
    system = _made(make)
    assert isinstance(system, System)
    assert isinstance(system.fusion, FusionPart)
    assert isinstance(system.segmentation, SegmentationPart)
    assert (system.players, system.geometry.divisor) == (("fusion", "segmentation"), 2)
    state = jax.eval_shape(system.init, KEY, BATCH)
    networks = system.networks(state.params)
    assert set(networks) == {"encoder", "guidance", "decoder", "segmentation"}
    assert count(networks) == count(state.params)
    after, metrics = jax.eval_shape(system.train_step, state, BATCH)
    assert structure(after) == structure(state)
    assert {"fusion/content", "fusion/task_loss", "segmentation/loss"} <= set(metrics)
    assert "fusion/correlation" not in metrics


def test_the_encoder_of_the_variant_is_that_of_pre_training():
    options = {"modalities": NAMES, "fusion": ENCODER, "critics": NO_CRITICS}
    before = make_pretraining(optimizers=gradient_descent("fusion"), **options)
    donor = jax.eval_shape(before.init, KEY, BATCH).params
    params = jax.eval_shape(_made(partial(make_film_p, fusion=ENCODER)).init, KEY, BATCH).params
    assert structure(params["fusion"]["encoder"]) == structure(donor["fusion"]["encoder"])
    rule = parse_rule(("fusion/encoder", "pretraining:fusion/encoder"))
    taken, values = apply_rules(params, [rule], {("pretraining", False): donor})
    assert taken["fusion"]["encoder"] is donor["fusion"]["encoder"]
    assert values == count(donor["fusion"]["encoder"])
    # Its two bands are joined by a 1x1 convolution, which FILM's own encoder does not need.
    own = jax.eval_shape(_made(make_film).init, KEY, BATCH).params
    assert count(params["fusion"]["guidance"]) - count(own["fusion"]["guidance"]) == 2 * 4 * 4


def test_bands_are_those_of_the_encoder_and_film_has_none():
    part = FilmModule(FILM.network(Encoder(ENCODER)))
    sources, presence = BATCH["image"][..., :2], jnp.ones((2, 2))

    @jax.jit
    def both(sources):
        params = part.init(KEY, sources)
        low, high = part.fuse(params, sources, presence, None).bands
        alone = Encoder(ENCODER).apply({"params": params["encoder"]}, sources[..., 1:])
        return (low[..., 1], high[..., 1]), alone

    (low, high), alone = both(sources)
    np.testing.assert_allclose(low, alone[0], atol=1e-5)
    np.testing.assert_allclose(high, alone[1], atol=1e-5)
    plain = FilmModule(FILM.network())
    made = jax.eval_shape(lambda x: plain.fuse(plain.init(KEY, x), x, presence, None), sources)
    assert made.bands is None


def test_a_correlation_term_needs_the_variant_and_critics_are_allowed():
    def evaluated(make):
        system = _made(make, losses=LossForm(correlation_weight=0.25))
        return jax.eval_shape(lambda: system.eval_step(system.init(KEY, BATCH), BATCH))

    assert "fusion/correlation" in evaluated(partial(make_film_p, fusion=ENCODER))
    refused("has no bands; set it to 0", evaluated, make_film)
    system = _made(make_film, ("fusion", "critics", "segmentation"), critics=CriticForm(critic_base=2))
    assert set(jax.eval_shape(system.init, KEY, BATCH).params) == set(system.players)
    refused("dtype is 'half'; choose one of float32, bfloat16", NNUNetForm(dtype="half").part, CLASSES, LOSS)


def _stepped(bilevel):
    system = _made(make_film, scheme=BilevelForm(bilevel=bilevel))
    before = jax.jit(system.init)(KEY, BATCH)
    step = jax.jit(system.train_step)
    after, metrics = step(before, BATCH)
    assert all(jnp.isfinite(value) for value in metrics.values())
    assert all(largest(moved(before, after, player)) > 1e-5 for player in system.players)
    otherwise, _ = step(before, {**BATCH, "label": (BATCH["label"] + 1) % CLASSES})
    return {player: largest(moved(after, otherwise, player)) for player in system.players}


@pytest.mark.slow
def test_labels_move_the_segmentation_and_a_fusion_that_is_not_detached():
    joint, detached = _stepped("joint"), _stepped("detached")
    assert min(joint["segmentation"], detached["segmentation"]) > 1e-5
    assert joint["fusion"] > 1e-7
    assert detached["fusion"] == 0
