"""The segmentation network alone reads what its row names, and nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfuse.learning.system import Geometry
from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.fuse4seg.alone import Alone, make_system
from jaxfuse.models.fuse4seg.parts import DeeplySupervised
from tests.refusals import refused
from tests.tiny_systems import count, gradient_descent, pictures

MODALITIES = ("t1", "t1ce", "t2", "flair")


def alone(reads, fusion="mean"):
    options = {"modalities": MODALITIES, "classes": 3, "loss": dice_and_cross_entropy}
    return make_system(optimizers=gradient_descent("segmentation"), **options, reads=reads, fusion=fusion)


def theta(system, image):
    return np.squeeze(system._theta({"image": image}), -1)


def test_reads_one_modality_or_the_mean_or_maximum_of_several():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 3, 4)), jnp.float32)
    np.testing.assert_array_equal(theta(alone(("t2",)), image), image[..., 2])
    pair = ("flair", "t1ce")
    np.testing.assert_allclose(theta(alone(pair), image), (image[..., 1] + image[..., 3]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(theta(alone(pair, "maximum"), image), jnp.maximum(image[..., 1], image[..., 3]))


def test_channels_are_read_in_the_order_of_their_names():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 3, 4)), jnp.float32)
    read = alone(("flair", "t1ce", "t1"), "channels")._theta({"image": image})
    np.testing.assert_array_equal(read, np.asarray(image)[..., [3, 1, 0]])


def test_a_channel_more_costs_the_weights_of_one_more_in_the_first_convolution():
    batch = {"image": jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32)}
    drawn = [
        jax.eval_shape(system.init, jax.random.key(0), batch).params["segmentation"]
        for system in (alone(("t1",)), alone(("t1ce", "flair"), "channels"))
    ]
    one, two = (params["encoder"]["stem"]["kernel"] for params in drawn)
    assert (one.shape, two.shape) == ((7, 7, 1, 64), (7, 7, 2, 64))
    assert count(drawn[1]) - count(drawn[0]) == 49 * 64


@pytest.mark.parametrize(
    ("reads", "fusion", "sentence"),
    [
        ((), "mean", r"reads is \(\); at least one of t1, t1ce, t2, flair was expected"),
        (("pet",), "mean", r"reads is \('pet',\); at least one"),
        (("t1", "t2"), "product", "fusion is 'product'; choose one of mean, maximum, channels"),
    ],
)
def test_refuses_what_it_cannot_read(reads, fusion, sentence):
    refused(sentence, alone, reads, fusion)


def test_one_step_moves_the_weights_by_the_gradient_of_the_loss():
    """With a network of one weight per class, whose gradient is known by differences."""

    class Scores(nn.Module):
        @nn.compact
        def __call__(self, image):
            return image * self.param("weight", nn.initializers.ones, (3,)), ()

    part = DeeplySupervised(Scores(), 1, dice_and_cross_entropy)
    system = Alone(part, (0,), "mean", {"segmentation": optax.sgd(0.5)}, Geometry(2, 1))
    batch = pictures(4, 1, 3)
    state = system.init(jax.random.key(0), batch)
    moved, metrics = jax.jit(system.train_step)(state, batch)

    def loss(weight):
        return dice_and_cross_entropy(batch["image"] * weight, batch["label"])

    weight = state.params["segmentation"]["weight"]
    np.testing.assert_allclose(moved.params["segmentation"]["weight"], weight - 0.5 * jax.grad(loss)(weight), rtol=1e-5)
    np.testing.assert_allclose(metrics["segmentation/loss"], loss(weight), rtol=1e-6)
    np.testing.assert_allclose(system.eval_step(state, batch)["segmentation/loss"], loss(weight), rtol=1e-6)
