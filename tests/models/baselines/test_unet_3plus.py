"""UNet 3+: the size of the public code, and that every level reads all levels."""

import jax
import jax.numpy as jnp

from jaxfuse.models.baselines.unet_3plus import UNet3PlusForm
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count, counts


def test_weights_are_as_many_as_in_the_public_code():
    """Published: 26,971,777, of three channels, one class and one head; here each level has one, of 3x3 pixels."""
    heads, variables = abstract(UNet3PlusForm().network(4), 1, 224, 224, 2)
    assert [logits.shape for logits in heads] == [(1, 224, 224, 4)] * 5
    of_heads = 9 * (4 * 320 + 1024) * 4 + 5 * 4
    parts = counts(variables["params"])
    assert sum(size for name, size in parts.items() if name.startswith("head_")) == of_heads
    without = count(variables) - of_heads + 9 * 64
    assert (count(variables), without) == (27_051_284, 26_968_896)
    # The public code's one head is of the finest level.
    assert without + 9 * 320 + 1 == 26_971_777


def test_each_level_reads_what_is_finer_of_the_encoder_and_what_is_coarser_of_the_decoder():
    network = UNet3PlusForm(base=2, levels=3).network(2)
    _, variables = abstract(network, 1, 8, 8, 1)
    read = {
        name: [variables["params"][name][f"from_{level}"]["conv"]["kernel"].shape[2] for level in (1, 2, 3)]
        for name in ("decoder_1", "decoder_2")
    }
    assert read == {"decoder_2": [2, 4, 8], "decoder_1": [2, 6, 8]}


def test_refusals_say_what_came():
    refused("levels is 1; give at least 2", UNet3PlusForm(levels=1).network, 4)
    sentence = r"a UNet 3\+ of this form takes images .* multiples of 16, got shape \(1, 24, 32, 2\)"
    refused(sentence, jax.eval_shape, UNet3PlusForm().network(4).init, KEY, jnp.zeros((1, 24, 32, 2)))
