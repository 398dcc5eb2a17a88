"""Fuse4Seg's two phases with the paper's networks: names, a step of each, what each term moves, predictions."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.learning.fusing import FusionPart
from jaxfuse.learning.system import System
from jaxfuse.models.fuse4seg.fusion import FusionForm
from jaxfuse.models.fuse4seg.make import make_pretraining, make_system
from jaxfuse.models.fuse4seg.parts import SegmentationPart
from tests.models.fuse4seg.small_forms import ALL, CLASSES, CRITICS, EQ_14, NAMES, NO_CRITICS, TINY
from tests.tiny_systems import KEY, count, gradient_descent, largest, moved, moving, pictures, same

# Minutes of compiling in all; `-m slow` runs them. The recipe's tiny preset trains in the unmarked suite.
pytestmark = pytest.mark.slow

# Every sub-network, with as few layers as it can have.
FUSION = FusionForm(dim=4, front=0, decoder_blocks=0, heads=2, high_nodes=1, cell=8)
SEGMENTATION = replace(
    TINY, stem=4, widths=(8, 8, 8), vit_width=8, vit_depth=1, vit_hidden=8, decoder_widths=(4, 4, 4, 4), train_side=32
)


@pytest.fixture(scope="module")
def real():
    """The paper's networks, tiny: the system, its batch, its first state and its compiled step."""
    system = make_system(
        optimizers=gradient_descent(*ALL),
        modalities=NAMES,
        classes=CLASSES,
        loss=EQ_14,
        combos="all",
        pairs=("t2+t1",),
        fusion=FUSION,
        segmentation=SEGMENTATION,
        critics=CRITICS,
    )
    batch = pictures(32, len(NAMES), CLASSES)
    return system, batch, jax.jit(system.init)(KEY, batch), jax.jit(system.train_step)


def test_it_is_a_system(real):
    system, _, state, _ = real
    assert isinstance(system, System)
    assert isinstance(system.fusion, FusionPart)
    assert isinstance(system.segmentation, SegmentationPart)
    assert (system.geometry.ndim, system.geometry.divisor, system.geometry.margin) == (2, 16, 0)
    networks = system.networks(state.params)
    assert set(networks) == {
        *("encoder", "cross_attention", "fusion_layers", "decoder", "segmentation", "adapters"),
        *("D_t1", "D_t1ce", "D_t2"),
    }
    assert count(networks) == count(state.params)
    adapters = state.params["segmentation"]["transformer"]["block_1"]["adapter"]
    assert count(networks["adapters"]) == count(adapters)


def test_a_step_of_the_paper_moves_every_player_and_ignores_what_it_does_not_fuse(real):
    system, batch, state, step = real
    # A step that draws a pair: the third modality stands in no slot of it.
    for number in range(100):
        state = state.replace(step=jnp.int32(number))
        choice = system.combinations.draw(jax.random.split(state.key(), 3)[0])
        if float(choice.used.sum()) == 2:
            break
    shown = set(np.asarray(choice.modality)[:2].tolist())
    (absent,) = {0, 1, 2} - shown
    after, metrics = step(state, batch)
    assert all(jnp.isfinite(value) for value in metrics.values())
    for player in ALL:
        assert largest(moved(state, after, player)) > 1e-5
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params[player]))
    again, told = step(state, {**batch, "image": batch["image"].at[..., absent].set(jnp.nan)})
    same(again.params, after.params)
    assert metrics == told


def test_each_term_moves_the_sub_networks_that_it_should(real):
    system, batch, state, _ = real
    names = ("fusion/correlation", "fusion/content", "fusion/adversarial", "segmentation/loss")
    image = {"encoder", "cross_attention", "fusion_layers", "decoder"}
    assert moving(system, state, batch, names) == {
        "fusion/correlation": {"encoder"},
        "fusion/content": image,
        # The critics of t1 and t2, which are shown, judge; that they stay is the business of the step.
        "fusion/adversarial": {*image, "D_t1", "D_t2"},
        "segmentation/loss": {*image, "segmentation", "adapters"},
    }


def test_predictions_of_the_combination_shown_or_asked_for(real):
    system, batch, state, _ = real
    predict = jax.jit(system.predict)
    shown = predict(state, {"image": batch["image"]})
    assert {name: (value.shape, value.dtype) for name, value in shown.items()} == {
        "fused": ((2, 32, 32, 1), jnp.float32),
        "S": ((2, 32, 32, CLASSES), jnp.float32),
        "attention": ((2, 32, 32, 3), jnp.float32),
    }
    np.testing.assert_allclose(shown["S"].sum(-1), 1.0, rtol=1e-5)
    assert 0 < float(shown["fused"].min()) < float(shown["fused"].max()) < 1
    asked = predict(state, {"image": batch["image"], "presence": jnp.array([1.0, 0.0, 1.0])})
    for name, value in shown.items():
        np.testing.assert_allclose(asked[name], value, atol=1e-5)
    other = predict(state, {"image": batch["image"], "presence": jnp.array([1.0, 1.0, 0.0])})
    assert jnp.abs(other["fused"] - shown["fused"]).max() > 1e-4
    for outputs, fused in ((shown, (1, 0, 1)), (asked, (1, 0, 1)), (other, (1, 1, 0))):
        np.testing.assert_allclose(outputs["attention"].mean((1, 2)), [fused] * 2, atol=1e-5)


@pytest.fixture(scope="module")
def pretraining():
    system = make_pretraining(
        optimizers=gradient_descent("fusion", "critics"), modalities=NAMES, fusion=FUSION, critics=CRITICS
    )
    batch = pictures(16, len(NAMES), CLASSES)
    return system, batch, jax.jit(system.init)(KEY, batch)


def test_a_step_of_pre_training(pretraining):
    system, batch, state = pretraining
    assert isinstance(system, System)
    assert set(state.params["fusion"]) == {"encoder", "decoder"}
    networks = system.networks(state.params)
    assert set(networks) == {"encoder", "decoder", "D_t1", "D_t1ce", "D_t2"}
    assert count(networks) == count(state.params)
    after, metrics = jax.jit(system.train_step)(state, batch)
    assert all(jnp.isfinite(value) for value in metrics.values())
    assert all(largest(moved(state, after, player)) > 1e-5 for player in system.players)
    terms = {name.split("/")[1]: float(value) for name, value in metrics.items() if name.startswith("fusion/")}
    expected = 0.1 * terms["adversarial"] + 0.25 * terms["correlation"] + 0.75 * terms["content"]
    assert terms["loss"] == pytest.approx(expected, rel=1e-5)
    # Only the critics of the pair that was drawn have moved.
    choice = system.combinations.draw(jax.random.split(state.key())[0])
    drawn = {NAMES[number] for number in choice.modality.tolist()}
    gradient = moved(state, after, "critics")
    assert {name for name in NAMES if largest(gradient[name]) > 0} == drawn


def test_each_term_of_pre_training_moves_what_it_should(pretraining):
    system, batch, state = pretraining
    names = ("fusion/correlation", "fusion/content", "fusion/adversarial")
    assert moving(system, state, batch, names) == {
        "fusion/correlation": {"encoder"},
        "fusion/content": {"encoder", "decoder"},
        "fusion/adversarial": {"encoder", "decoder", "D_t1", "D_t1ce"},
    }


def test_predictions_and_rows_of_pre_training(pretraining):
    system, batch, state = pretraining
    outputs = jax.eval_shape(system.predict, state, {"image": batch["image"]})
    assert {name: value.shape for name, value in outputs.items()} == {"reconstruction": (2, 16, 16, 3)}
    alone = make_pretraining(optimizers=gradient_descent("fusion"), modalities=NAMES, fusion=FUSION, critics=NO_CRITICS)
    assert alone.players == ("fusion",)
    state = jax.eval_shape(alone.init, KEY, batch)
    _, metrics = jax.eval_shape(alone.train_step, state, batch)
    assert set(metrics) == {"fusion/loss", "fusion/content", "fusion/correlation"}
    with pytest.raises(UserError, match="leave decoder=False to cooperative training"):
        make_pretraining(optimizers={}, modalities=NAMES, fusion=replace(FUSION, decoder=False))
