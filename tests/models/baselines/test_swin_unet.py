"""Swin-Unet: the size of the public code, which tokens attend to which, offsets, padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.models.baselines.swin_unet import SwinUNetForm, WindowAttention, _joined, _offsets, _seen, _windows
from jaxfuse.nn.initializers import normal
from tests.refusals import refused
from tests.tiny_systems import KEY, abstract, count, drawn_for

TINY = SwinUNetForm(width=4, depths=(1, 2), heads=(1, 2), window=2, patch=2)


def test_weights_are_as_many_as_in_the_public_code():
    """Published: 27,168,900, of three channels and nine classes; here they are two and four."""
    (logits,), variables = abstract(SwinUNetForm().network(4), 1, 224, 224, 2)
    assert logits.shape == (1, 224, 224, 4)
    assert count(variables) == 27_168_900 - 16 * 96 - 5 * 96 == 27_166_884


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("sides", [(6, 3), (5, 4)])
def test_tokens_attend_within_windows_that_are_cut_at_the_edge(sides, shift):
    side = 3
    padded = [side * -(-n // side) for n in sides]
    shifts = [shift if n > side else 0 for n in padded]
    places = np.stack(np.meshgrid(*map(np.arange, padded), indexing="ij"), -1)[None]
    places = _windows(np.roll(places, [-s for s in shifts], (1, 2)), side)[0]
    # Counted from the shift on, windows lie side by side; those before the first and beyond the last are parts.
    windows = (places - shifts) // side
    same = (windows[:, :, None] == windows[:, None]).all(-1)
    real = (places < np.array(sides)).all(-1)
    np.testing.assert_array_equal(_seen(sides, padded, shifts, side), same & real[:, None])


def test_windows_are_put_together_as_they_were_taken_apart():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    assert _windows(x, 2)[1, 2].tolist() == x[1, :2, 4:].reshape(4, 3).tolist()
    np.testing.assert_array_equal(_joined(_windows(x, 2), [4, 6]), x)


def test_every_offset_has_a_row_of_the_table():
    rows = _offsets(3)
    assert rows.shape == (9, 9)
    assert set(rows.ravel()) == set(range(25))
    # From a place to its right neighbor, wherever both lie.
    assert len({rows[token, token + 1] for token in (0, 1, 3, 4, 6, 7)}) == 1
    assert (rows[0, 8], rows[8, 0]) == (0, 24)


def test_attention_is_that_between_the_tokens_of_a_window_plus_their_offsets():
    """A map of 3 x 5 tokens in shifted windows of 2, one token at a time."""
    module = WindowAttention(2, 2, 1, normal(), None)
    x = jax.random.normal(KEY, (1, 3, 5, 4))
    params = drawn_for(module, x, scale=0.5)["params"]
    qkv = np.asarray(x[0] @ params["qkv"]["kernel"][0, 0] + params["qkv"]["bias"]).reshape(3, 5, 3, 2, 2)
    table = np.asarray(params["offsets"]).reshape(3, 3, 2)
    found = np.zeros((3, 5, 2, 2))
    for at in np.ndindex(3, 5):
        others = [
            to for to in np.ndindex(3, 5) if all((a - 1) // 2 == (b - 1) // 2 for a, b in zip(at, to, strict=True))
        ]
        for head in range(2):
            logits = [
                qkv[at][0, head] @ qkv[to][1, head] / np.sqrt(2) + table[at[0] - to[0] + 1, at[1] - to[1] + 1, head]
                for to in others
            ]
            weights = np.exp(logits) / np.exp(logits).sum()
            found[at][head] = sum(weight * qkv[to][2, head] for weight, to in zip(weights, others, strict=True))
    expected = found.reshape(3, 5, 4) @ np.asarray(params["project"]["kernel"][0, 0]) + params["project"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x)[0], expected, atol=1e-5)


def test_refusals_say_what_came():
    refused(r"depths is \(2, 2\) and heads \(3,\); give as many", SwinUNetForm(depths=(2, 2), heads=(3,)).network, 4)
    refused(r"heads is \(5, .*must divide the channels \(96, 192", SwinUNetForm(heads=(5, 6, 12, 24)).network, 4)
    refused("drop_path is 1.0; give a share", dataclasses.replace(TINY, drop_path=1.0).network, 4)
    sentence = r"a Swin-Unet of this form takes images .* multiples of 4, got shape \(1, 6, 8, 2\)"
    refused(sentence, TINY.network(4).init, KEY, jnp.zeros((1, 6, 8, 2)))
