"""Networks of others alone: which heads are read, which are judged, and that every weight of each learns."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.fuse4seg import RIVALS
from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.fuse4seg import rivals
from jaxfuse.models.fuse4seg.parts import SegmentationPart
from jaxfuse.models.fuse4seg.rivals import Headed, each, every_choice
from tests.recipe_phases import argument, phases
from tests.tiny_systems import KEY, gradient_descent


class Three(nn.Module):
    """Heads that are the image times 1, 10 and 100, and a weight."""

    @nn.compact
    def __call__(self, image):
        weight = self.param("weight", nn.initializers.ones, (1, 1, 1, 1))
        return tuple(weight * image * scale for scale in (1.0, 10.0, 100.0))


def test_heads_are_read_and_judged_by_sums_of_choices():
    image, label = jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1), jnp.int32)
    part = Headed(Three(), 1, lambda logits, label: logits.mean(), (0, 2), each(3))
    assert isinstance(part, SegmentationPart)
    params = part.init(KEY, image)
    assert part.segment(params, image, None).item() == 101
    np.testing.assert_allclose(part.loss(params, image, label, None), 37.0)
    every = Headed(Three(), 1, lambda logits, label: logits.max(), (0,), every_choice(3))
    # Each head stands in four of the seven choices.
    np.testing.assert_allclose(every.loss(params, image, label, None), 4 * 111 / 7, rtol=1e-6)


def test_every_choice_has_each_once_and_none_is_empty():
    assert every_choice(2) == ((0,), (1,), (0, 1))
    assert len(set(every_choice(4))) == len(every_choice(4)) == 15


@pytest.mark.parametrize(
    ("row", "read", "judged"),
    [
        ("attention_unet", (0,), 1),
        ("unet_3plus", (0,), 5),
        ("swin_unet", (0,), 1),
        ("cascade", (0, 1, 2, 3), 4),
        ("emcad", (0,), 15),
    ],
)
def test_published_forms_read_and_judge_as_their_papers_do(row, read, judged):
    options = {"modalities": ("t1", "t2"), "classes": 3, "loss": dice_and_cross_entropy}
    system = getattr(rivals, f"make_{row}")(optimizers=gradient_descent("segmentation"), **options, reads=("t2", "t1"))
    assert (system.channels, system.fusion) == ((1, 0), "channels")
    assert (system.segmentation.read, len(system.segmentation.judged)) == (read, judged)
    assert system.geometry.divisor == system.segmentation.divisor == system.segmentation.network.form.divisor


@pytest.mark.slow
@pytest.mark.parametrize("row", RIVALS)
def test_every_weight_learns_and_bfloat16_and_remat_keep_the_answer(row):
    part = phases("fuse4seg", argument("tiny", row))["alone"].system.segmentation
    image, label = jax.random.normal(KEY, (2, 32, 48, 2)), jax.random.randint(KEY, (2, 32, 48), 0, 4)
    params = part.init(KEY, image)

    @jax.jit
    def gradients(params):
        return jax.grad(lambda params: part.loss(params, image, label, KEY))(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(params)):
        # At these widths a gate of channels has one hidden channel, which may rest.
        resting = any(getattr(step, "key", "").startswith("channels_") for step in path)
        assert (-1 if resting else 0) < jnp.abs(leaf).max() < jnp.inf, jax.tree_util.keystr(path)
    form = dataclasses.replace(part.network.form, dtype="bfloat16", remat=True)
    half = dataclasses.replace(part, network=form.network(4))
    ours, theirs = (jax.jit(one.segment)(params, image, None) for one in (part, half))
    assert (ours.shape, ours.dtype, theirs.dtype) == ((2, 32, 48, 4), jnp.float32, jnp.float32)
    assert jnp.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
    assert jax.tree.structure(jax.jit(jax.grad(lambda p: half.loss(p, image, label, KEY)))(params))


@pytest.mark.slow
@pytest.mark.parametrize("row", ["swin_unet", "cascade", "emcad"])
def test_blocks_are_skipped_in_training_alone(row):
    part = phases("fuse4seg", argument("tiny", row))["alone"].system.segmentation
    image = jax.random.normal(KEY, (1, 32, 32, 2))
    params = part.init(KEY, image)
    segment = jax.jit(part.segment)
    made = {np.asarray(segment(params, image, jax.random.key(seed))).tobytes() for seed in range(40)}
    assert len(made) > 1
    assert np.array_equal(segment(params, image, None), segment(params, image, None))
