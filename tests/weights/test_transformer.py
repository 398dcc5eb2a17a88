"""Starts of the segmentation network: files of Google and of TransUNet, for other sizes of images and one channel."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.vision_transformer import resize_positions
from jaxfuse.weights.lines import Ours
from jaxfuse.weights.matching import read_part
from jaxfuse.weights.transformer import TRANSUNET, VIT, VIT_ALONE, resized
from tests.weights import here, sizes
from tests.weights.make_outputs import stored
from tests.weights.rule import image, state_dict

CASE = here.cases()["transunet"]
OURS = here.ours(CASE, sizes.IMAGES["transunet"])
HEADS, WIDTH, HIDDEN = sizes.VIT["heads"], sizes.VIT["width"], sizes.VIT["hidden"]


def google(public):
    """Returns weights as Google's files hold them."""
    made = {"cls": np.zeros((1, 1, WIDTH)), "head/kernel": np.zeros((WIDTH, 3)), "head/bias": np.zeros(3)}
    for name, array in public.items():
        words = name.split(".")
        if name.startswith("transformer.encoder.layer."):
            made |= _of_block(words[3], words[4:], array)
        elif "hybrid_model" in name:
            made |= _of_residual(words[3:], array)
    embeddings = "transformer.embeddings"
    made["Transformer/posembed_input/pos_embedding"] = np.concatenate(
        [np.full((1, 1, WIDTH), 9.0), public[f"{embeddings}.position_embeddings"]], 1
    )
    made["embedding/kernel"] = public[f"{embeddings}.patch_embeddings.weight"].transpose(2, 3, 1, 0)
    made["embedding/bias"] = public[f"{embeddings}.patch_embeddings.bias"]
    for there, word in (("weight", "scale"), ("bias", "bias")):
        made[f"Transformer/encoder_norm/{word}"] = public[f"transformer.encoder.encoder_norm.{there}"]
    return made


def _of_block(number, words, array):
    start, (kind, *rest) = f"Transformer/encoderblock_{number}", words
    if kind.endswith("_norm"):
        word = {"weight": "scale"}.get(rest[0], rest[0])
        return {f"{start}/LayerNorm_{0 if kind == 'attention_norm' else 2}/{word}": array}
    if kind == "ffn":
        return {f"{start}/MlpBlock_3/Dense_{int(rest[0][-1]) - 1}/{_word(rest[1])}": array.T}
    split = (HEADS, WIDTH // HEADS)
    if rest[1] == "bias":
        array = array if rest[0] == "out" else array.reshape(split)
    else:
        array = array.T.reshape((*split, WIDTH) if rest[0] == "out" else (WIDTH, *split))
    return {f"{start}/MultiHeadDotProductAttention_1/{rest[0]}/{_word(rest[1])}": array}


def _of_residual(words, array):
    if words[0] == "root":
        start, kind = "", {"conv": "conv_root", "gn": "gn_root"}[words[1]]
    else:
        start, kind = f"{words[1]}/{words[2]}/", {"downsample": "conv_proj"}.get(words[3], words[3])
    if array.ndim == 4:
        return {f"{start}{kind}/kernel": array.transpose(2, 3, 1, 0)}
    return {f"{start}{kind}/{'scale' if words[-1] == 'weight' else 'bias'}": array.reshape(1, 1, 1, -1)}


def _word(there):
    return {"weight": "kernel"}.get(there, there)


def test_both_forms_of_the_same_weights_are_one_start():
    public = state_dict(stored("transunet")[0])
    shapes = {path: shape for path, shape in OURS.shapes.items() if not path.startswith("decoder")}
    ours = Ours(shapes)
    without = {name: array for name, array in public.items() if not name.startswith("decoder")}
    lines = lambda ours: [line for line in TRANSUNET.lines(ours) if not line.theirs.startswith("decoder")]
    torch = read_part(replace(TRANSUNET, lines=lines), without, ours, "a file")
    numpy = read_part(VIT, google(public), ours, "a file")
    assert torch.keys() == numpy.keys() == shapes.keys()
    assert all(np.allclose(torch[path], numpy[path]) for path in shapes)
    alone = {name: array for name, array in google(public).items() if name.startswith(("Transformer", "embedding"))}
    blocks = read_part(VIT_ALONE, alone, ours, "a file")
    assert blocks.keys() == {path for path in shapes if path.startswith("transformer/") and "embed" not in path}


def test_a_kernel_of_three_channels_is_summed_for_one():
    public = google(state_dict(stored("transunet")[0]))
    ours = here.ours(CASE, (1, 48, 48, 1))
    read = read_part(VIT, public, ours, "a file")
    assert read["encoder/stem/kernel"].shape == (7, 7, 1, 8)
    assert np.allclose(read["encoder/stem/kernel"][..., 0, :], public["conv_root/kernel"].sum(2), atol=1e-6)


@pytest.mark.parametrize("size", [(3, 3), (2, 5), (7, 3)])
def test_positions_are_resized_as_the_network_does(size):
    table = image("positions", (3, 3, 4))
    assert np.allclose(resized(table, size), resize_positions(jnp.asarray(table), size), atol=1e-6)
