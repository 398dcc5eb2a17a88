"""CDDFuse's public code (github.com/Zhaozixiang1228/MMIF-CDDFuse): a file with four networks, which are one here."""

from __future__ import annotations

from jaxfuse.weights.lines import CONV, PER_HEAD, Line, Ours, Part, conv, norm

# The bottlenecks of a coupling node.
_BOTTLENECKS = {"theta_phi": "shift_2", "theta_rho": "scale_1", "theta_eta": "shift_1"}


def attention_block(theirs: str, ours: str) -> list[Line]:
    """Lists the lines of a Restormer block."""
    attention, feed = f"{theirs}.attn", f"{theirs}.ffn"
    lines = norm(f"{theirs}.norm1.body", f"{ours}/norm_1/norm") + norm(f"{theirs}.norm2.body", f"{ours}/norm_2/norm")
    lines.append(Line(f"{attention}.temperature", f"{ours}/attention/temperature", PER_HEAD))
    for there, here in (("qkv", "qkv"), ("qkv_dwconv", "qkv_spatial"), ("project_out", "project")):
        lines += conv(f"{attention}.{there}", f"{ours}/attention/{here}", bias=False)
    return lines + _feed_forward(feed, f"{ours}/feed_forward")


def _feed_forward(theirs: str, ours: str) -> list[Line]:
    pairs = (("project_in", "expand"), ("dwconv", "spatial"), ("project_out", "project"))
    return [line for there, here in pairs for line in conv(f"{theirs}.{there}", f"{ours}/{here}", bias=False)]


def _low(theirs: str, ours: str) -> list[Line]:
    """Lists the lines of a low band's block."""
    lines = norm(f"{theirs}.norm1.body", f"{ours}/norm_1/norm") + norm(f"{theirs}.norm2.body", f"{ours}/norm_2/norm")
    lines.append(Line(f"{theirs}.attn.scale", f"{ours}/attention/temperature", PER_HEAD))
    for there, here in (("qkv1", "qkv"), ("qkv2", "qkv_spatial"), ("proj", "project")):
        lines += conv(f"{theirs}.attn.{there}", f"{ours}/attention/{here}", bias=False)
    return lines + _feed_forward(f"{theirs}.mlp", f"{ours}/feed_forward")


def _high(theirs: str, ours: str, here: Ours) -> list[Line]:
    """Lists the lines of a high band's coupling nodes."""
    lines: list[Line] = []
    for number, name in enumerate(here.below(f"{ours}/")):
        there, own = f"{theirs}.net.{number}", f"{ours}/{name}"
        lines += [Line(f"{there}.shffleconv.weight", f"{own}/mix", CONV)]
        lines += [Line(f"{there}.shffleconv.bias", f"{own}/bias")]
        for bottleneck, called in _BOTTLENECKS.items():
            for place, layer in ((0, "expand"), (3, "spatial"), (5, "project")):
                lines += conv(f"{there}.{bottleneck}.bottleneckBlock.{place}", f"{own}/{called}/{layer}", bias=False)
    return lines


def _fusion(here: Ours) -> list[Line]:
    encoder, decoder = "DIDF_Encoder", "DIDF_Decoder"
    lines = conv(f"{encoder}.patch_embed.proj", "encoder/embed", bias=False)
    for number, name in enumerate(here.below("encoder/", "front_")):
        lines += attention_block(f"{encoder}.encoder_level1.{number}", f"encoder/{name}")
    lines += _low(f"{encoder}.baseFeature", "encoder/low") + _high(f"{encoder}.detailFeature", "encoder/high", here)
    lines += _low("BaseFuseLayer", "fusion/low") + _high("DetailFuseLayer", "fusion/high", here)
    lines += conv(f"{decoder}.reduce_channel", "decoder/merge", bias=False)
    for number, name in enumerate(here.below("decoder/", "block_")):
        lines += attention_block(f"{decoder}.encoder_level2.{number}", f"decoder/{name}")
    for place, name in ((0, "narrow"), (2, "image")):
        lines += conv(f"{decoder}.output.{place}", f"decoder/{name}", bias=False)
    return lines


# A file holds optimizers beside the networks.
FUSION = Part("fusion", "fusion", _fusion, ignored=("optimizer*",))
