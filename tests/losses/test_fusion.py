import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from jaxfuse.errors import UserError
from jaxfuse.losses import adversarial, fusion
from jaxfuse.losses.image import sobel_magnitude, ssim
from jaxfuse.losses.overlap import dice_and_cross_entropy

RNG = np.random.default_rng(0)
PAIR = jnp.asarray(RNG.uniform(size=(2, 14, 16, 2)), jnp.float32)
BOTH = jnp.ones((2, 2))


def test_sobel_of_a_ramp_is_eight_inside_and_half_at_the_border():
    ramp = jnp.tile(jnp.arange(6.0)[None, :, None, None], (1, 1, 5, 1))
    found = sobel_magnitude(ramp)[0, ..., 0]
    np.testing.assert_allclose(found[1:-1], 8)
    np.testing.assert_allclose(found[jnp.array([0, -1])], 4)
    smooth = sobel_magnitude(ramp, 1e-2)[0, 2, 2, 0]
    assert float(smooth) == pytest.approx(np.hypot(8, 0.01) - 0.01, rel=1e-6)


def test_ssim_is_that_of_scikit_image_over_valid_windows():
    a, b = np.asarray(PAIR[0, ..., 0], np.float64), np.asarray(PAIR[0, ..., 1], np.float64)
    _, full = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True
    )
    expected = full[5:-5, 5:-5].mean()
    assert float(ssim(PAIR[:1, ..., :1], PAIR[:1, ..., 1:])[0, 0]) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(ssim(PAIR, PAIR), 1, atol=1e-5)
    with pytest.raises(UserError, match="11 x 11"):
        ssim(PAIR[:, :10], PAIR[:, :10])


def test_an_absent_slot_counts_for_nothing():
    presence = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    bands = jnp.asarray(RNG.normal(size=(2, 6, 6, 3, 3)), jnp.float32)
    made = PAIR[..., ::-1]

    def all_losses(last: float) -> list[float]:
        padded = jnp.concatenate([PAIR, jnp.full((2, 14, 16, 1), last)], -1)
        again = jnp.concatenate([made, jnp.full((2, 14, 16, 1), -last)], -1)
        filled = bands.at[..., 2].set(last)
        return [
            float(fusion.reconstruction(padded, again, presence)),
            float(fusion.band_correlation(filled, filled + bands, presence)),
            float(fusion.fusion_content(PAIR[..., :1], padded, presence)[0]),
            float(fusion.smooth_fusion_energy(PAIR[..., :1], PAIR[..., 1:], padded, presence, gamma=0.1)[0]),
        ]

    np.testing.assert_allclose(all_losses(0.5), all_losses(77.0), rtol=1e-5)
    two = [
        float(fusion.reconstruction(PAIR, made, BOTH)),
        float(fusion.band_correlation(bands[..., :2], bands[..., :2] + bands[..., :2], BOTH)),
    ]
    assert two[0] == pytest.approx(all_losses(0.5)[0], rel=1e-5)


def test_reconstruction_by_hand():
    made = PAIR + 0.1
    squared = 0.01
    expected = squared + 1 - float(ssim(PAIR, made).mean())
    assert float(fusion.reconstruction(PAIR, made, BOTH)) == pytest.approx(expected, rel=1e-5)
    assert float(fusion.reconstruction(PAIR, PAIR, BOTH)) == pytest.approx(0, abs=1e-5)


def test_band_correlation_by_hand():
    low = jnp.asarray(RNG.normal(size=(1, 5, 5, 2, 2)), jnp.float32)
    high = jnp.asarray(RNG.normal(size=(1, 5, 5, 2, 2)), jnp.float32)

    def cc(bands: jax.Array) -> float:
        flat = np.asarray(bands[0]).reshape(25, 2, 2)
        return float(np.mean([np.corrcoef(flat[:, c, 0], flat[:, c, 1])[0, 1] for c in range(2)]))

    found = float(fusion.band_correlation(low, high, jnp.ones((1, 2))))
    assert found == pytest.approx(cc(high) ** 2 / (cc(low) + 1.01), rel=1e-4)
    # The worst case that the paper's constant allows: agreeing high bands and opposite low bands.
    same = jnp.stack([low[..., 0], low[..., 0]], -1)
    opposite = jnp.stack([low[..., 0], -low[..., 0]], -1)
    assert float(fusion.band_correlation(opposite, same, jnp.ones((1, 2)))) == pytest.approx(100, rel=1e-2)
    assert float(fusion.band_correlation(low, high, jnp.array([[1.0, 0.0]]))) == 0


def test_a_constant_band_has_a_finite_gradient():
    flat = jnp.ones((1, 5, 5, 2, 2))
    gradient = jax.grad(lambda bands: fusion.band_correlation(bands, bands, jnp.ones((1, 2))))(flat)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_fusion_content_is_zero_at_the_maximum_of_sources_that_agree_on_edges():
    one = PAIR[..., :1]
    loss, terms = fusion.fusion_content(one, jnp.concatenate([one, 0 * one], -1), BOTH)
    assert float(loss) == 0
    assert set(terms) == {"intensity", "gradient"}
    loss, terms = fusion.fusion_content(one + 0.2, jnp.concatenate([one, 0 * one], -1), BOTH, intensity=3.0)
    assert float(loss) == pytest.approx(0.6, rel=1e-4)


def test_the_pixel_energy_is_smooth_and_its_residuals_make_it():
    energy, residuals = fusion.smooth_fusion_energy(PAIR[..., :1], PAIR[..., 1:], PAIR, BOTH, gamma=0.3, kappa=0.5)
    again = fusion.fusion_energy_of(residuals, gamma=0.3, kappa=0.5, width=1e-2)
    assert float(energy) == pytest.approx(float(again))

    def of(fused: jax.Array, gamma: float) -> jax.Array:
        return fusion.smooth_fusion_energy(fused, PAIR[..., 1:], PAIR, BOTH, gamma=gamma)[0]

    theta = PAIR[..., :1]
    _, curved = jax.jvp(jax.grad(lambda f: of(f, 0.3)), (theta,), (jnp.ones_like(theta),))
    assert float(jnp.abs(curved - 1).max()) > 1e-3  # an L1 norm would leave the identity of the fidelity term
    # gamma = 0: the optimum is the network's output itself.
    np.testing.assert_allclose(jax.grad(lambda f: of(f, 0.0))(PAIR[..., 1:]), 0, atol=1e-7)


@pytest.mark.parametrize("name", adversarial.GAN_FORMS)
def test_makers_and_critics_pull_the_way_they_should(name):
    form = adversarial.gan_form(name)
    scores = jnp.array([-0.3, 0.4], jnp.bfloat16)
    assert form.maker(scores).dtype == jnp.float32
    slope = lambda loss: jax.grad(lambda s: loss(s).sum())(jnp.array([-0.3, 0.4]))  # noqa: E731
    assert bool((slope(form.maker) < 0).all())
    assert bool((slope(form.real) < 0).all())
    assert bool((slope(form.fake)[1:] > 0).all())


def test_minimax_stalls_where_the_critic_is_sure_and_nonsaturating_does_not():
    sure = jnp.array(-20.0)
    assert abs(float(jax.grad(adversarial.gan_form("minimax").maker)(sure))) < 1e-8
    assert float(jax.grad(adversarial.gan_form("nonsaturating").maker)(sure)) == pytest.approx(-1, abs=1e-6)
    with pytest.raises(UserError, match="choose one of"):
        adversarial.gan_form("hinge")


def test_gradient_penalty_of_a_linear_critic():
    weights = jnp.asarray(RNG.normal(size=(4, 4, 1)), jnp.float32)
    critic = lambda image: (image * weights).sum((1, 2, 3))  # noqa: E731
    found = adversarial.gradient_penalty(critic, jnp.zeros((3, 4, 4, 1)), jnp.ones((3, 4, 4, 1)), jax.random.key(0))
    np.testing.assert_allclose(found, (float(jnp.linalg.norm(weights)) - 1) ** 2, rtol=1e-5)
    flat = adversarial.gradient_penalty(lambda image: 0 * image, jnp.zeros((1, 4)), jnp.ones((1, 4)), jax.random.key(0))
    np.testing.assert_allclose(flat, 1, atol=1e-5)


def test_dice_over_the_batch_and_the_weights_of_eq_14():
    logits = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    label = jnp.asarray(RNG.integers(0, 3, (2, 4, 4)))
    probs = np.asarray(jax.nn.softmax(logits))
    truth = np.eye(3)[np.asarray(label)]
    overlap = 2 * (probs * truth).sum((0, 1, 2)) + 1e-5
    dice = (overlap / ((probs**2).sum((0, 1, 2)) + truth.sum((0, 1, 2)) + 1e-5)).mean()
    entropy = -np.log((probs * truth).sum(-1)).mean()
    found = dice_and_cross_entropy(
        logits, label, include_background=True, squared=True, over_batch=True, dice_weight=0.5, entropy_weight=0.5
    )
    assert float(found) == pytest.approx(0.5 * (1 - dice) + 0.5 * entropy, rel=1e-5)
