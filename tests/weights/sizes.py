"""Sizes of the small networks that PyTorch and jaxfuse compute alike, and the images that they are given."""

from __future__ import annotations

# Case -> the sides of its image, channels last.
IMAGES: dict[str, tuple[int, ...]] = {
    "hinet": (1, 16, 24, 2),
    "hinet_apart": (1, 16, 24, 2),
    "hinet_critic": (1, 72, 56, 1),
    "hyperdense_2": (1, 21, 21, 21, 2),
    "hyperdense_3": (1, 21, 21, 21, 3),
    "cddfuse": (1, 12, 14, 2),
    "pix2pix": (1, 32, 64, 1),
    "pix2pix_critic": (1, 24, 32, 2),
    "cyclegan": (1, 16, 20, 1),
    "cyclegan_critic": (1, 24, 32, 1),
    "transunet": (1, 48, 48, 3),
}
HINET = 2
FILTERS = (2, 2, 2, 4, 4, 4, 6, 6, 6)
HEAD, CLASSES = (8, 6, 4), 3
CDDFUSE = {"dim": 8, "heads": 2, "blocks": 2, "nodes": 2}
PIX2PIX = {"width": 2, "downs": 5}
CYCLEGAN = {"width": 2, "blocks": 2}
CRITIC = {"width": 2, "layers": 2}
TRANSUNET = {"stem": 8, "widths": (16, 32, 64), "units": (2, 1, 1)}
VIT = {"width": 16, "depth": 2, "heads": 2, "hidden": 32}
DECODER = (16, 8, 8, 4)
SIDE = 48
