"""TarDAL: published counts, saliency, terms by hand, what either critic sees, and what each term moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.image import gradient_length, ssim_map
from jaxfuse.models.baselines import tardal
from jaxfuse.models.baselines.tardal import TarDalForm, TarDalWeights, content_terms, make_system, saliency, views
from tests.models.baselines.two_images import BATCH, made, near, reached, shapes, started
from tests.refusals import refused
from tests.tiny_systems import KEY, counts, largest, moved, same

PLAYERS = ("fusion", "critics")
TINY = TarDalForm(width=2, depth=1, critic_base=2)
SYSTEM = made(make_system, players=PLAYERS, tardal=TINY)
TERMS = ("likeness", "pixel", "target", "detail")


@pytest.fixture(scope="module")
def start():
    return started(SYSTEM)


def test_weights_of_the_published_size():
    """100,353 of each critic's are those of its head, for pictures of 224 x 224 pixels."""
    state = shapes(made(make_system, players=PLAYERS), 224)
    critic = 320 + 18_496 + 73_856 + 28 * 28 * 128 + 1
    assert counts(SYSTEM.networks(state.params)) == {"G": 296_577, "D_target": critic, "D_detail": critic}


def test_saliency_is_the_mean_distance_from_all_levels():
    levels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 2))
    expected = np.abs(levels[:, :, :, None, None] - levels[:, None, None]).mean((3, 4))
    expected = expected / expected.max((1, 2), keepdims=True)
    near(saliency(jnp.asarray(levels / 255, jnp.float32)), expected)
    near(saliency(jnp.full((1, 3, 3, 1), 0.4)), 0)


def test_content_by_hand():
    fused, sources = jax.random.uniform(KEY, (2, 13, 13, 1)), BATCH["image"][:, :13, :13]
    terms = jax.jit(content_terms)(fused, sources)
    marked = np.asarray(saliency(sources))
    share = 0.5 + 0.5 * np.stack([marked[..., 0] - marked[..., 1], marked[..., 1] - marked[..., 0]], -1)
    pixel = (share * np.abs(np.asarray(fused) - sources)).sum(-1).mean()
    alike = [np.asarray(ssim_map(fused, sources[..., slot : slot + 1]))[..., 0] for slot in range(2)]
    likeness = sum((share[:, 5:8, 5:8, slot] * (1 - alike[slot]) / 2).mean() for slot in range(2))
    near([terms["pixel"], terms["likeness"]], [pixel, likeness])


def test_critics_see_targets_where_the_mask_is_and_details_elsewhere():
    image, mask = BATCH["image"][..., :1], jnp.zeros((2, 16, 16, 1)).at[:, :8].set(1.0)
    seen = views(image, mask)
    same(seen["target"], image.at[:, 8:].set(0.0))
    same(seen["detail"], gradient_length(image).at[:, :8].set(0.0))


def test_each_term_moves_what_it_should(start, monkeypatch):
    monkeypatch.setattr(tardal, "ssim_map", lambda a, b: (1 - jnp.square(a - b))[:, 5:-5, 5:-5])
    monkeypatch.setattr(tardal, "saliency", lambda images: images)
    content, generator = ("likeness", "pixel"), {"G"}
    expected = {**dict.fromkeys(content, generator), "target": {"G", "D_target"}, "detail": {"G", "D_detail"}}
    assert reached(SYSTEM, start, BATCH, TERMS) == expected


@pytest.mark.slow
def test_a_step_is_that_of_wgan_div(start):
    after, metrics = jax.jit(SYSTEM.train_step)(start, BATCH)
    sides = ("target", "detail")
    parts = [float(metrics[f"critics/{kind}_{side}"]) for kind in ("real", "fake", "penalty") for side in sides]
    assert float(metrics["critics/loss"]) == pytest.approx(sum(parts), rel=1e-5)
    assert min(parts[4:]) > 0
    weights = dataclasses.asdict(TarDalWeights())
    weighed = sum(weights[f"{term}_weight"] * float(metrics[f"fusion/{term}"]) for term in TERMS)
    assert float(metrics["fusion/loss"]) == pytest.approx(weighed, rel=1e-5)
    for side in sides:
        assert largest(moved(start, after, "critics")[side]) > 0
    assert largest(moved(start, after, "fusion")) > 0
    fused = SYSTEM.fuse(start, BATCH)["fused"]
    assert (fused.shape, float(fused.min()) >= 0, float(fused.max()) <= 1) == ((2, 16, 16, 1), True, True)
    # Running statistics of the generator alone.
    assert (set(after.stats["critics"]), largest(after.stats["fusion"]["enter_norm"]["mean"]) > 0) == (set(), True)


def test_refusals():
    refused(
        "critic_head is 'mean'; choose one of patch, flatten", made, make_system, tardal=TarDalForm(critic_head="mean")
    )
    refused("width is 0; give at least 1", made, make_system, tardal=TarDalForm(width=0))
    refused("pixel_weight is -1.0; it must", made, make_system, weights=TarDalWeights(pixel_weight=-1.0))
