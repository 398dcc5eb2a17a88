"""DIDFuse: the published count, terms by hand and what they move, the rule of fusion, statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.image import ssim
from jaxfuse.models.baselines import didfuse
from jaxfuse.models.baselines.didfuse import (
    Decoder,
    DecompositionWeights,
    DidFuseForm,
    Encoder,
    Maps,
    added,
    decomposition_loss,
    make_system,
)
from tests.models.baselines.two_images import BATCH, made, near, plainly_alike, reached, shapes, started
from tests.refusals import refused
from tests.tiny_systems import counts, largest, moved

TINY = DidFuseForm(width=2)
SYSTEM = made(make_system, didfuse=TINY)
TERMS = ("background", "detail", "first", "second", "gradient")


@pytest.fixture(scope="module")
def start():
    return started(SYSTEM)


def test_weights_of_the_published_size():
    """769 + 37,057 + 2 * 37,056 of the encoder, 2 * 73,921 + 1,155 of the decoder."""
    state = shapes(made(make_system), 128)
    assert counts(SYSTEM.networks(state.params)) == {"encoder": 111_938, "decoder": 148_997}


def test_terms_by_hand():
    rng = np.random.default_rng(0)
    sources, again = (jnp.asarray(rng.uniform(size=(2, 12, 12, 2)), jnp.float32) for _ in range(2))
    maps = [Maps(*(jnp.asarray(rng.normal(size=(2, 3, 3, 2)), jnp.float32) for _ in range(4))) for _ in range(2)]
    loss, terms = jax.jit(decomposition_loss)(sources, again, maps)
    for name in ("background", "detail"):
        apart = np.abs(np.asarray(getattr(maps[0], name)) - getattr(maps[1], name)).mean()
        assert float(terms[name]) == pytest.approx(np.tanh(apart), rel=1e-5)
    alike = np.asarray(ssim(again, sources)).mean(0)
    errors = np.square(np.asarray(again) - sources).mean((0, 1, 2)) + 5 * (1 - alike) / 2
    near([terms["first"], terms["second"]], errors)
    wide = np.pad(np.asarray(again - sources)[..., 0], ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    columns = wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]
    edges = np.abs(rows[..., 2:] - rows[..., :-2]) / 8, np.abs(columns[:, 2:] - columns[:, :-2]) / 8
    assert float(terms["gradient"]) == pytest.approx(np.mean(edges), rel=1e-4)
    expected = terms["background"] - 0.5 * terms["detail"] + 2 * errors.sum() + 10 * terms["gradient"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_each_term_moves_what_it_should(start, monkeypatch):
    monkeypatch.setattr(didfuse, "ssim", plainly_alike)
    both = {"encoder", "decoder"}
    alone = {term: {"encoder"} for term in ("background", "detail")}
    assert reached(SYSTEM, start, BATCH, TERMS) == {**alone, **dict.fromkeys(("first", "second", "gradient"), both)}


def test_maps_are_added_over_the_sources_that_are_there():
    add = jax.jit(added, static_argnames="addition")
    maps = [np.full((2, 4, 4, 2), value, np.float32) for value in (1.0, -3.0, np.inf)]
    # The third source is absent, and of the second example the second, too.
    maps[2][:] = 50.0
    there = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    for addition, expected in (("sum", (-2.0, 2.0)), ("mean", (-1.0, 1.0)), ("activity", (-2.0, 1.0))):
        near(add(maps, there, addition=addition)[:, 1, 1, 0], expected)
    # A bright pixel weighs for its neighbors too, and not for those beyond.
    maps = [np.zeros((2, 4, 4, 2), np.float32), np.full((2, 4, 4, 2), 0.01, np.float32), maps[2]]
    maps[0][:, 0, 0] = 1.0
    weighed = add(maps, there, addition="activity")[0, ..., 0]
    near([weighed[0, 1], weighed[2, 2]], [0.01 * 0.06 / (1 + 0.06), 0.01])


@pytest.mark.slow
def test_fusing_reads_running_statistics_and_adds_maps(start):
    image = BATCH["image"]
    fused = jax.jit(SYSTEM.fuse)(start, BATCH)["fused"]
    weights = {"params": start.params["fusion"], "batch_stats": start.stats["fusion"]}
    encode, decode = (jax.jit(partial(part.apply, train=False)) for part in (Encoder(TINY), Decoder(TINY)))
    parts = ({name: tree[part] for name, tree in weights.items()} for part in ("encoder", "decoder"))
    encoder, decoder = parts
    first, second = (encode(encoder, image[..., slot : slot + 1]) for slot in range(2))
    near(fused, decode(decoder, Maps(*(a + b for a, b in zip(first, second, strict=True)))), 1e-5)


@pytest.mark.slow
def test_a_step_moves_statistics_once_for_each_source(start):
    wide = start.replace(stats=jax.tree.map(lambda leaf: jnp.full_like(leaf, 1000.0), start.stats))
    after, _ = jax.jit(SYSTEM.train_step)(wide, BATCH)
    # Each time they keep 0.9 of what they were.
    np.testing.assert_allclose(after.stats["fusion"]["encoder"]["norm_1"]["var"], 810, atol=5)
    assert largest(moved(start, after, "fusion")["decoder"]) > 0


def test_refusals():
    refused(
        "addition is 'max'; choose one of sum, mean, activity", made, make_system, didfuse=DidFuseForm(addition="max")
    )
    refused("width is 0; give at least 1", made, make_system, didfuse=DidFuseForm(width=0))
    refused(
        "detail_weight is -1.0; it must",
        made,
        make_system,
        weights=DecompositionWeights(detail_weight=-1.0),
    )
