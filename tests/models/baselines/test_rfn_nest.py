"""RFN-Nest: published counts, both phases' terms by hand, what is held, and the range of what is fused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.losses.image import ssim
from jaxfuse.models.baselines import rfn_nest
from jaxfuse.models.baselines.rfn_nest import (
    RfnNest,
    RfnNestForm,
    fusion_loss,
    make_fusion,
    make_reconstruction,
    reconstruction_loss,
)
from tests.models.baselines.two_images import BATCH, made, near, plainly_alike, reached, shapes, started
from tests.refusals import refused
from tests.tiny_systems import counts, largest, moved, same

TINY = RfnNestForm(enter=2, widths=(2, 2, 2, 2))
FIRST, SECOND = (made(make, rfn_nest=TINY) for make in (make_reconstruction, make_fusion))
IMAGE = BATCH["image"]


@pytest.fixture(scope="module")
def start():
    return started(SECOND)


def test_weights_of_the_published_size():
    """56 C^2 + 6 C of the fusion network of a scale of C channels: 7,524,249 in all."""
    system = made(make_fusion)
    found = counts(system.networks(shapes(system, 32).params))
    assert found == {"encoder": 221_680, "decoder": 2_511_081, "rfn": 4_791_488}
    assert found["rfn"] == sum(56 * width**2 + 6 * width for width in RfnNestForm().widths)
    assert system.geometry.divisor == 8


def test_terms_by_hand():
    rng = np.random.default_rng(0)
    made_again = jnp.asarray(rng.uniform(size=IMAGE.shape), jnp.float32)
    loss, terms = jax.jit(reconstruction_loss)(made_again, IMAGE)
    error = np.square(255 * (np.asarray(made_again) - IMAGE)).mean()
    likeness = 1 - float(ssim(made_again, IMAGE).mean())
    assert float(terms["error"]) == pytest.approx(error, rel=1e-5)
    assert float(loss) == pytest.approx(error + 100 * likeness, rel=1e-5)
    scales = [[jnp.asarray(rng.normal(size=(2, side, side, 3)), jnp.float32) for side in (4, 2)] for _ in range(3)]
    fused = made_again[..., :1]
    loss, terms = jax.jit(fusion_loss, static_argnums=3)(fused, tuple(map(tuple, scales)), IMAGE, RfnNestForm())
    apart = [np.square(np.asarray(c) - (3 * np.asarray(a) + 6 * b)).mean() for a, b, c in zip(*scales, strict=True)]
    assert float(terms["feature"]) == pytest.approx(apart[0] + 10 * apart[1], rel=1e-5)
    detail = 1 - float(ssim(fused, IMAGE[..., :1]).mean())
    assert float(loss) == pytest.approx(700 * detail + float(terms["feature"]), rel=1e-5)


@pytest.mark.parametrize(
    ("system", "terms", "moved"),
    [
        pytest.param(FIRST, ("error", "likeness"), {"encoder", "decoder"}, marks=pytest.mark.slow),
        (SECOND, ("detail", "feature"), {"rfn"}),
    ],
    ids=["first", "second"],
)
def test_each_term_of_either_phase_moves_what_it_should(start, monkeypatch, system, terms, moved):
    monkeypatch.setattr(rfn_nest, "ssim", plainly_alike)
    assert reached(system, start, BATCH, terms) == dict.fromkeys(terms, moved)


@pytest.mark.slow
def test_the_second_phase_holds_the_auto_encoder_to_the_bit(start):
    after, _ = jax.jit(SECOND.train_step)(start, BATCH)
    for part in ("encoder", "decoder"):
        same(after.params["fusion"][part], start.params["fusion"][part])
    assert largest(moved(start, after, "fusion")["rfn"]) > 0


@pytest.mark.slow
def test_an_image_of_maps_nine_times_as_large_is_divided_by_nine(start):
    module, weights = RfnNest(TINY), {"params": start.params["fusion"]}

    @jax.jit
    def looked(image):
        made_image, (first, second, fused) = module.apply(weights, image, method="fuse")
        decoded = [module.bind(weights).decoder(maps) for maps in (fused, second)]
        again = module.apply(weights, image, method="reconstruct")
        return made_image, again, [one.shape[1] for one in first], *decoded

    made_image, again, sides, of_fused, of_second = looked(IMAGE)
    assert sides == [16, 8, 4, 2]
    near(made_image, of_fused / (9 * 255), 1e-6)
    near(again[..., 1:], of_second / 255, 1e-6)
    near(SECOND.fuse(start, BATCH)["fused"], jnp.clip(made_image, 0, 1), 1e-6)


def test_refusals():
    refused(r"widths is \(4, 4\); give 4 numbers", made, make_fusion, rfn_nest=RfnNestForm(widths=(4, 4)))
    refused("enter is 1; give at least 2", made, make_fusion, rfn_nest=RfnNestForm(enter=1))
    refused("nor both 0", made, make_fusion, rfn_nest=RfnNestForm(first_times=0.0, second_times=0.0))
    refused("detail_weight is -1.0; it must not be negative", made, make_fusion, detail_weight=-1.0)
