"""CASCADE: the size of the public code, and its refusals."""

import jax
import jax.numpy as jnp

from jaxfuse.models.baselines.cascade import CascadeForm
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, counts

ENCODER = 24_846_720


def test_weights_are_as_many_as_in_the_public_code():
    """Its decoder has 10,421,899, by its layers; with three channels and nine classes it comes to 35.28 M."""
    heads, variables = abstract(CascadeForm().network(4), 1, 224, 224, 2)
    assert [logits.shape for logits in heads] == [(1, 224, 224, 4)] * 4
    parts = counts(variables["params"])
    blocks = {width: 9 * inner * width + 3 * width + 9 * width * width + 3 * width for width, inner in WIDTHS.items()}
    gates = {width: 2 * (width * hidden + 3 * hidden) + hidden + 3 for width, hidden in HIDDEN.items()}
    ups = {width: 9 * below * width + 3 * width for below, width in ((512, 320), (320, 128), (128, 64))}
    channels = sum(2 * inner * (inner // 16) for inner in WIDTHS.values())
    enter, places = 512 * 512 + 512, 2 * 49
    decoder = enter + sum(blocks.values()) + sum(gates.values()) + sum(ups.values()) + channels + places
    assert decoder == 10_421_899
    assert parts["encoder"] == ENCODER
    assert sum(parts.values()) == ENCODER + decoder + 4 * (512 + 320 + 128 + 64 + 4) == 35_272_731


# Channels of a level, and of what its convolutions read; channels of its gate.
WIDTHS = {512: 512, 320: 640, 128: 256, 64: 128}
HIDDEN = {320: 128, 128: 64, 64: 32}


def test_refusals_say_what_came():
    refused(r"widths is \(8, 8\); give 4", CascadeForm(widths=(8, 8)).network, 4)
    sentence = r"a CASCADE of this form takes images .* multiples of 32, got shape \(1, 48, 32, 2\)"
    refused(sentence, jax.eval_shape, CascadeForm().network(4).init, KEY, jnp.zeros((1, 48, 32, 2)))
