"""Attention U-Net: the size of the public code, its resolutions, its refusals."""

import jax.numpy as jnp

from jaxfuse.models.baselines.attention_unet import AttentionUNetForm
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count


def test_weights_are_as_many_as_in_the_public_code():
    """Published: 34,878,573, of three channels and one class; here they are two and four."""
    (logits,), variables = abstract(AttentionUNetForm().network(4), 1, 224, 224, 2)
    assert logits.shape == (1, 224, 224, 4)
    assert count(variables) == 34_878_573 - 9 * 64 + 3 * 65 == 34_878_192


def test_refusals_say_what_came():
    refused("base is 1; give at least 2", AttentionUNetForm(base=1).network, 4)
    refused("dtype is 'half'", AttentionUNetForm(dtype="half").network, 4)
    sentence = r"an Attention U-Net of this form takes images .* multiples of 16, got shape \(1, 24, 32, 2\)"
    refused(sentence, AttentionUNetForm().network(4).init, KEY, jnp.zeros((1, 24, 32, 2)))
