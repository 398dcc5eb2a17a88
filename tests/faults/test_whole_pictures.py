"""A network that was trained on patches is given whole pictures, and fuses something else.

Fuse4Seg at the paper's sizes: fused are the pictures as they are, tokens of its attention as large as in training.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.engine.trained import slice_fuser
from jaxfuse.models.fuse4seg.fusion import FusionForm
from tests.faults.catalogue import table
from tests.recipe_phases import phases


@table(
    "sides,filled",
    ("a BraTS slice of 240 x 240 pixels", "fused as it is, not filled up to 336 x 336", (240, 240), (240, 240)),
    ("a coronal one of 155 x 240", "5 rows of background are added", (155, 240), (160, 240)),
    ("a template of 181 x 217", "184 x 224", (181, 217), (184, 224)),
    ("a picture of 256 x 256", "as it is", (256, 256), (256, 256)),
)
def test_pictures_are_filled_up_to_what_the_fusion_needs(sides, filled):
    divisor = phases("fuse4seg", "paper")["cooperative"].system.fusing_divisor
    assert slice_fuser._filled(np.ones((1, *sides, 2)), 1, divisor).shape == (1, *filled, 2)


@table(
    "sides,tokens",
    ("a patch of training, 224 x 224", "28 x 28 tokens of 8 x 8 pixels", (224, 224), 28 * 28),
    ("a whole slice of 240 x 240", "30 x 30 tokens of 8 x 8 pixels", (240, 240), 30 * 30),
    ("a slice of 160 x 240", "20 x 30 tokens of 8 x 8 pixels", (160, 240), 20 * 30),
)
def test_tokens_cover_as_many_pixels_as_in_training(sides, tokens):
    network = FusionForm(dim=8, front=0, decoder_blocks=0, heads=2, high_nodes=1).network()
    sources = jax.ShapeDtypeStruct((1, *sides, 2), jnp.float32)
    made, _ = jax.eval_shape(lambda image: network.init_with_output(jax.random.key(0), image, attention=True), sources)
    assert made["attn"]["low"].shape == (1, 2, 2, 2, tokens, tokens)
    assert made["fused"].shape == (1, *sides, 1)
