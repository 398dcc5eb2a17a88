"""Starts of Fuse4Seg's segmentation network: Google's vision transformers, and TransUNet's public code.

The first are the `.npz` files of github.com/google-research/vision_transformer, "R50+ViT-B_16.npz" with the residual
network before the transformer and "ViT-B_16.npz" without; the second a file that github.com/Beckschen/TransUNet has
trained. They are starts and no more, as our network departs from both: its decoder has group normalization for batch
normalization, its shortcuts' norms have 32 groups, and it reads one gray image where they read it three times over.
A first kernel for three channels is summed over them; scale by channel is lost then, which the norm behind restores but
for the two channels that share a group. Adapters and the last convolution, and of the `.npz` files the decoder, stay as
they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxfuse.weights.lines import CONV, LINEAR, RESHAPED, SAME, Form, Line, Ours, Part, Shape

# The three layers of a unit.
_LAYERS = ("reduce", "spatial", "expand")


def resized(table: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a table of positions (rows columns c) of another size: bilinear between cell centers, constant beyond."""
    for axis, count in enumerate(size):
        have = table.shape[axis]
        at = np.clip((np.arange(count) + 0.5) * have / count - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        share = np.expand_dims(at - low, (1, 2) if axis == 0 else (0, 2))
        high = np.minimum(low + 1, have - 1)
        table = (1 - share) * np.take(table, low, axis) + share * np.take(table, high, axis)
    return table.astype(np.float32)


def _positions(theirs: np.ndarray, shape: Shape) -> np.ndarray:
    """(1 tokens c), with or without a class token before a square of tokens -> (rows columns c)."""
    tokens = theirs[0]
    side = int(len(tokens) ** 0.5)
    own = tokens[len(tokens) - side * side :]
    return resized(own.reshape(side, side, -1), (shape[0], shape[1]))


def _summed(kernel: np.ndarray, shape: Shape) -> np.ndarray:
    """Sums a kernel (*kernel 3 out) over its inputs where ours has one."""
    return kernel.sum(-2, keepdims=True) if shape[-2] == 1 else kernel


POSITIONS = Form(_positions)
STEM = Form(_summed)
STEM_OF_TORCH = Form(lambda theirs, shape: _summed(CONV.read(theirs, shape), shape))
# One number per channel in a map's sides.
FLAT = Form(lambda theirs, shape: theirs.reshape(-1))

# (theirs, ours, number of units' layer or norm) -> lines, in the words of either code.
Words = Callable[[str, str], list[Line]]


def _residual(here: Ours, root: str, unit: Callable[[int, int], str], *, kernel: Words, norm: Words) -> list[Line]:
    """Lists the lines of the residual network, `root` apart: `unit` names a unit of a stage."""
    lines = norm(root, "encoder/stem_norm")
    for name in here.below("encoder/", "stage_"):
        _, stage, _, number = name.split("_")
        theirs, ours = unit(int(stage), int(number)), f"encoder/{name}"
        for place, layer in enumerate(_LAYERS, start=1):
            lines += kernel(f"{theirs}conv{place}", f"{ours}/{layer}") + norm(
                f"{theirs}gn{place}", f"{ours}/{layer}_norm"
            )
        if f"{ours}/shortcut/kernel" in here.shapes:
            lines += kernel(f"{theirs}{{shortcut}}", f"{ours}/shortcut") + norm(
                f"{theirs}gn_proj", f"{ours}/shortcut_norm"
            )
    return lines


def _google_norm(theirs: str, ours: str) -> list[Line]:
    return [Line(f"{theirs}/{word}", f"{ours}/{word}", FLAT) for word in ("scale", "bias")]


def _google_kernel(theirs: str, ours: str) -> list[Line]:
    return [Line(theirs.replace("{shortcut}", "conv_proj") + "/kernel", f"{ours}/kernel")]


def _google_linear(theirs: str, ours: str, share: tuple[int, int] = (0, 1)) -> list[Line]:
    pairs = (("kernel", RESHAPED), ("bias", FLAT))
    return [Line(f"{theirs}/{word}", f"{ours}/{word}", form, share=share) for word, form in pairs]


def _google_blocks(here: Ours) -> list[Line]:
    lines = [Line("Transformer/posembed_input/pos_embedding", "transformer/positions/table", POSITIONS)]
    for number, name in enumerate(here.below("transformer/", "block_")):
        theirs, ours = f"Transformer/encoderblock_{number}", f"transformer/{name}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for place, word in enumerate(("query", "key", "value")):
            lines += _google_linear(f"{attention}/{word}", f"{ours}/attention/qkv", (place, 3))
        lines += _google_linear(f"{attention}/out", f"{ours}/attention/project")
        lines += _google_linear(f"{theirs}/MlpBlock_3/Dense_0", f"{ours}/mlp/expand")
        lines += _google_linear(f"{theirs}/MlpBlock_3/Dense_1", f"{ours}/mlp/project")
        lines += _google_norm(f"{theirs}/LayerNorm_0", f"{ours}/norm_1")
        lines += _google_norm(f"{theirs}/LayerNorm_2", f"{ours}/norm_2")
    return lines + _google_norm("Transformer/encoder_norm", "transformer/norm")


def _google(here: Ours) -> list[Line]:
    residual = _residual(
        here,
        "gn_root",
        lambda stage, number: f"block{stage}/unit{number}/",
        kernel=_google_kernel,
        norm=_google_norm,
    )
    embedding = _google_linear("embedding", "transformer/embed")
    return [Line("conv_root/kernel", "encoder/stem/kernel", STEM), *residual, *embedding, *_google_blocks(here)]


def _torch_norm(theirs: str, ours: str) -> list[Line]:
    return [Line(f"{theirs}.weight", f"{ours}/scale"), Line(f"{theirs}.bias", f"{ours}/bias")]


def _torch_kernel(theirs: str, ours: str) -> list[Line]:
    return [Line(theirs.replace("{shortcut}", "downsample") + ".weight", f"{ours}/kernel", CONV)]


def _torch_linear(theirs: str, ours: str, form: Form, share: tuple[int, int] = (0, 1)) -> list[Line]:
    pairs = (("weight", "kernel", form), ("bias", "bias", SAME))
    return [Line(f"{theirs}.{there}", f"{ours}/{here}", kind, share=share) for there, here, kind in pairs]


def _torch_blocks(here: Ours) -> list[Line]:
    lines: list[Line] = []
    for number, name in enumerate(here.below("transformer/", "block_")):
        theirs, ours = f"transformer.encoder.layer.{number}", f"transformer/{name}"
        for place, word in enumerate(("query", "key", "value")):
            lines += _torch_linear(f"{theirs}.attn.{word}", f"{ours}/attention/qkv", LINEAR, (place, 3))
        lines += _torch_linear(f"{theirs}.attn.out", f"{ours}/attention/project", LINEAR)
        lines += _torch_linear(f"{theirs}.ffn.fc1", f"{ours}/mlp/expand", LINEAR)
        lines += _torch_linear(f"{theirs}.ffn.fc2", f"{ours}/mlp/project", LINEAR)
        lines += _torch_norm(f"{theirs}.attention_norm", f"{ours}/norm_1")
        lines += _torch_norm(f"{theirs}.ffn_norm", f"{ours}/norm_2")
    return lines + _torch_norm("transformer.encoder.encoder_norm", "transformer/norm")


def _decoder(here: Ours) -> list[Line]:
    """Lists the lines of the decoder, whose norms give their scale and shift to ours."""
    pairs = [("decoder.conv_more", "decoder/bridge")]
    for number, name in enumerate(here.below("decoder/", "step_")):
        pairs += [(f"decoder.blocks.{number}.conv{place}", f"decoder/{name}/conv_{place}") for place in (1, 2)]
    return [
        line
        for theirs, ours in pairs
        for line in (*_torch_kernel(f"{theirs}.0", f"{ours}/conv"), *_torch_norm(f"{theirs}.1", f"{ours}/norm"))
    ]


def _transunet(here: Ours) -> Sequence[Line]:
    embeddings = "transformer.embeddings"
    hybrid = f"{embeddings}.hybrid_model"
    residual = _residual(
        here,
        f"{hybrid}.root.gn",
        lambda stage, number: f"{hybrid}.body.block{stage}.unit{number}.",
        kernel=_torch_kernel,
        norm=_torch_norm,
    )
    return [
        Line(f"{hybrid}.root.conv.weight", "encoder/stem/kernel", STEM_OF_TORCH),
        *residual,
        *_torch_linear(f"{embeddings}.patch_embeddings", "transformer/embed", CONV),
        Line(f"{embeddings}.position_embeddings", "transformer/positions/table", POSITIONS),
        *_torch_blocks(here),
        *_decoder(here),
    ]


_CLASSIFIER = ("cls", "head/*", "pre_logits/*")
VIT = Part("segmentation", "segmentation", _google, _CLASSIFIER, partial=True)
VIT_ALONE = Part("segmentation", "segmentation", _google_blocks, (*_CLASSIFIER, "embedding/*"), partial=True)
TRANSUNET = Part(
    "segmentation",
    "segmentation",
    _transunet,
    ("segmentation_head.*", "decoder.*.running_*"),
    partial=True,
)
