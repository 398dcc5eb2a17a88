"""Facts, forms and networks that the tests of Fuse4Seg share: three modalities, three classes, small critics."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxfuse.learning.fusing import Fused
from jaxfuse.losses.overlap import cross_entropy, dice_and_cross_entropy
from jaxfuse.models.fuse4seg.judging import CriticForm
from jaxfuse.models.fuse4seg.make import BilevelForm, LossForm, cooperate
from jaxfuse.models.fuse4seg.parts import Parted
from jaxfuse.models.fuse4seg.segmentation import SegmentationForm
from tests.tiny_systems import gradient_descent, largest

NAMES = ("t1", "t1ce", "t2")
CLASSES = 3
ALL = ("fusion", "critics", "segmentation")
CRITICS = CriticForm(critic_base=2)
NO_CRITICS = replace(CRITICS, adversarial_weight=0.0)
EQ_14 = partial(
    dice_and_cross_entropy, include_background=True, squared=True, over_batch=True, dice_weight=0.5, entropy_weight=0.5
)

# Of segmentation: for images of 32 to 64 pixels, and for one small GPU.
TINY = SegmentationForm(
    stem=8,
    widths=(16, 32, 64),
    units=(1, 1, 1),
    vit_width=32,
    vit_depth=2,
    vit_heads=2,
    vit_hidden=64,
    decoder_widths=(32, 16, 16, 8),
    train_side=64,
)
COMPACT = SegmentationForm(
    stem=32,
    widths=(64, 128, 256),
    units=(2, 2, 2),
    vit_width=256,
    vit_depth=6,
    vit_heads=8,
    vit_hidden=1024,
    decoder_widths=(128, 64, 32, 16),
)


@dataclass(frozen=True)
class Softmax:
    """A segmentation network of two weights a class."""

    divisor: int = 2

    def init(self, rng, theta):
        return {"slope": jax.random.normal(rng, (CLASSES,)), "offset": jnp.zeros(CLASSES)}

    def segment(self, params, theta, rng):
        return jnp.sin(3 * theta) * params["slope"] + params["offset"]

    def loss(self, params, theta, label, rng):
        return cross_entropy(self.segment(params, theta, rng), label)

    def networks(self, params):
        return {"softmax": params}


@dataclass(frozen=True)
class Pixelwise:
    """A fusion network that mixes the slots pixel by pixel."""

    divisor: int = 1

    def init(self, rng, sources):
        return {"band": jax.random.normal(rng, (2,)), "image": jnp.array([1.0, -0.5])}

    def fuse(self, params, sources, presence, rng):
        bands = jnp.tanh(sources[..., None, :] * params["band"][:, None])
        image = jax.nn.sigmoid((bands * presence[:, None, None, None, :]).sum(-1) @ params["image"])[..., None]
        return Fused(image, image, (bands, bands[..., ::-1, :] ** 2))

    def networks(self, params):
        return {"pixelwise": params}


@dataclass(frozen=True)
class Banded:
    """A fusion network of two bands that gives images back, too: an encoder, a layer that fuses, and a decoder."""

    divisor: int = 1

    def init(self, rng, sources):
        encoder, decoder = jax.random.normal(rng, (2, 2))
        return {"encoder": encoder, "fusion": jnp.array(0.8), "decoder": decoder}

    def bands(self, params, sources):
        bands = jnp.tanh(sources[..., None, :] * params["encoder"][:, None])
        return bands, bands[..., ::-1, :] ** 2

    def fuse(self, params, sources, presence, rng):
        bands = self.bands(params, sources)
        joined = params["fusion"] * ((bands[0] + bands[1]) * presence[:, None, None, None, :]).sum(-1)
        image = jax.nn.sigmoid(joined @ params["decoder"])[..., None]
        return Fused(image, image, bands)

    def reconstruct(self, params, sources):
        low, high = self.bands(params, sources)
        return Parted(jax.nn.sigmoid(jnp.einsum("bhwcm,c->bhwm", low + high, params["decoder"])), low, high)

    def networks(self, params):
        return dict(params)


def moved_by_terms(lesson, seen, params, critics=None):
    """The parts of a network that each term of a lesson has a derivative by."""

    @jax.jit
    def slopes(params):
        return jax.jacrev(lambda params: lesson.loss(lesson.make(params, seen).values, critics, seen)[1])(params)

    found = slopes(params)
    return {term: {part for part in parts if largest(parts[part]) > 1e-6} for term, parts in found.items()}


def small_system(players=ALL, critics=CRITICS, combos=("t1+t2",), losses=LossForm(), optimizers=None, **scheme):
    """Cooperation of both, by gradient descent at a rate of 1 unless optimizers are given."""
    return cooperate(
        Pixelwise(),
        Softmax(),
        optimizers=optimizers or gradient_descent(*players),
        modalities=NAMES,
        combos=combos,
        critics=critics,
        losses=losses,
        scheme=BilevelForm(**scheme),
    )
