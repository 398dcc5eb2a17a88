"""Fusion without labels: what a step is made of, running statistics, and the images that a prediction fuses."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.fusing import (
    RUNNING,
    Fused,
    Fusion,
    FusionCritics,
    FusionPart,
    Lesson,
    Made,
    fusion_system,
    presented,
)
from jaxfuse.learning.system import FusingSystem, System
from tests.refusals import refused
from tests.tiny_systems import KEY, close, gradient_descent, largest, moved, same

NAMES = ("mri", "ct", "pet")


@dataclass(frozen=True)
class Mixing:
    """A network that weighs its sources, around a mean that it keeps of all batches."""

    divisor: int = 2

    def init(self, rng, sources):
        return {"scale": jnp.array(0.7), "still": jnp.array(0.3), RUNNING: {"mean": jnp.array(0.25)}}

    def fuse(self, params, sources, presence, rng):
        weights = presence / presence.sum(-1, keepdims=True)
        mixed = (sources * weights[:, None, None, :]).sum(-1, keepdims=True)
        image = jax.nn.sigmoid(params["scale"] * (mixed - params[RUNNING]["mean"]) + params["still"])
        return Fused(image, image, None)

    def networks(self, params):
        return {"mixing": params}


@dataclass(frozen=True)
class Likeness:
    """The fused image is to be like the brightest source, and to please a critic; one weight is not trained."""

    network: Mixing

    def make(self, params, seen):
        mean = 0.9 * params[RUNNING]["mean"] + 0.1 * seen.sources.mean()
        known = {**params, "still": jax.lax.stop_gradient(params["still"])}
        return Made(self.network.fuse(known, seen.sources, seen.presence, seen.key).image, {"mean": mean})

    def loss(self, made, critics, seen):
        near = jnp.square(made - seen.sources.max(-1, keepdims=True)).mean()
        judged = -(critics["one"] * made).mean() if critics is not None else jnp.float32(0)
        return near + 0.5 * judged, {"near": near, "judged": judged}

    def fakes(self, made, seen):
        return made


@dataclass(frozen=True)
class Scales:
    """Two critics of one weight, of which the second has nothing to learn from the first two modalities."""

    def init(self, rng, image):
        return {"one": jnp.array(0.4), "other": jnp.array(0.4)}

    def loss(self, params, seen, fakes, key):
        told = (params["one"] + params["other"]) * (fakes - seen.sources).mean()
        return told, {"told": told}

    def moves(self, choice):
        return {"one": jnp.array(True), "other": choice.shows(3)[2]}

    def networks(self, params):
        return {f"D_{name}": value for name, value in params.items()}


def made(critics=Scales(), combos=("mri+ct",), pairs=("ct+mri",)) -> Fusion:
    players = ("fusion",) if critics is None else ("fusion", "critics")
    return fusion_system(
        Mixing(),
        Likeness(Mixing()),
        critics,
        optimizers=gradient_descent(*players),
        modalities=NAMES,
        combos=combos,
        pairs=pairs,
    )


@pytest.fixture(scope="module")
def batch():
    return {"image": jax.random.uniform(jax.random.key(1), (2, 4, 4, len(NAMES)))}


def test_parts_keep_their_contracts():
    system = made()
    assert isinstance(system, System)
    assert isinstance(system, FusingSystem)
    assert isinstance(system.network, FusionPart)
    assert isinstance(system.lesson, Lesson)
    assert isinstance(system.critics, FusionCritics)
    assert (system.players, made(None).players) == (("fusion", "critics"), ("fusion",))
    assert (system.geometry.divisor, system.fusing_divisor, system.trained_combos) == (2, 2, (("mri", "ct"),))


def test_critics_move_on_the_fakes_and_the_network_against_the_critics_as_they_are_then(batch):
    system = made()
    before = system.init(KEY, batch)
    after, metrics = system.train_step(before, batch)
    sources, presence = system.combinations.choice(0).of(batch["image"])
    image = system.network.fuse({**before.params["fusion"], RUNNING: {"mean": 0.25}}, sources, presence, None).image
    told = float((image - sources).mean())
    assert float(moved(before, after, "critics")["one"]) == pytest.approx(told, rel=1e-5)
    assert float(moved(before, after, "critics")["other"]) == 0
    critic = float(after.params["critics"]["one"])

    def loss(scale):
        fused = system.network.fuse({"scale": scale, "still": 0.3, RUNNING: {"mean": 0.25}}, sources, presence, None)
        return jnp.square(fused.image - sources.max(-1, keepdims=True)).mean() - 0.5 * critic * fused.image.mean()

    value, slope = jax.value_and_grad(loss)(0.7)
    assert float(metrics["fusion/loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(moved(before, after, "fusion")["scale"]) == pytest.approx(float(slope), rel=1e-4)
    assert float(metrics["critics/told"]) == float(metrics["critics/loss"]) == pytest.approx(0.8 * told, rel=1e-5)
    assert int(after.step) == 1


def test_what_a_lesson_cuts_off_stays_to_the_bit(batch):
    system = made()
    before = system.init(KEY, batch)
    after, _ = system.train_step(before, batch)
    same(before.params["fusion"]["still"], after.params["fusion"]["still"])
    assert largest(moved(before, after, "fusion")) > 1e-4


def test_running_statistics_move_in_training_alone_and_are_no_weights(batch):
    system = made(None)
    before = system.init(KEY, batch)
    assert set(before.params["fusion"]) == {"scale", "still"}
    after, _ = system.train_step(before, batch)
    mean = float(batch["image"][..., :2].mean())
    assert float(after.stats["fusion"]["mean"]) == pytest.approx(0.225 + 0.1 * mean, rel=1e-5)
    shifted = before.replace(stats={"fusion": {"mean": jnp.array(0.6)}})
    one, other = (system.predict(state, batch)["fused"] for state in (before, shifted))
    assert float((one - other).min()) > 0.03
    assert set(system.eval_step(before, batch)) == {"fusion/loss", "fusion/near", "fusion/judged"}


def test_a_prediction_fuses_what_is_shown_or_what_is_present(batch):
    system = made(None, combos="all", pairs=("mri+pet",))
    state = system.init(KEY, batch)
    shown = system.predict(state, batch)["fused"]
    assert shown.shape == (2, 4, 4, 1)
    present = system.fuse(state, {**batch, "presence": jnp.array([1, 0, 1])})["fused"]
    close(shown, present, 1e-6)
    blind = {"image": batch["image"].at[..., 1].set(9.0), "presence": jnp.array([[1, 0, 1], [1, 0, 1]])}
    same(present, system.fuse(state, blind)["fused"])
    by_channel = presented(batch, system.combinations, system.shown).by_channel(jnp.ones((2, 4, 4, 3)), batch["image"])
    # A slot that is left over names the first modality; attention to it would be 0.
    np.testing.assert_array_equal(by_channel[0, 0, 0], [2, 0, 1])


def test_without_pairs_all_modalities_are_shown_together(batch):
    system = made(None, combos="all", pairs=())
    assert system.trained_combos[system.shown] == NAMES
    refused("'mri\\+ct\\+pet', which is not among those that are trained", made, None, "pairs", ())
    refused(
        "fuses 2 images at most, and combinations of 3 are to be trained; set combos to pairs",
        fusion_system,
        Mixing(),
        Likeness(Mixing()),
        optimizers=gradient_descent("fusion"),
        modalities=NAMES,
        combos="all",
        most=2,
    )


def test_a_network_that_makes_no_image_is_refused(batch):
    @dataclass(frozen=True)
    class Blind(Mixing):
        def fuse(self, params, sources, presence, rng):
            return super().fuse(params, sources, presence, rng)._replace(image=None)

    system = replace(made(None), network=Blind())
    refused("makes no fused image", system.predict, system.init(KEY, batch), batch)
