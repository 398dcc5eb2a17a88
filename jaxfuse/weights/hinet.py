"""Hi-Net's public code (github.com/taozh2017/HiNet): generator and critic, in files of their own."""

from __future__ import annotations

from collections.abc import Sequence

from jaxfuse.errors import UserError
from jaxfuse.weights.lines import Line, Ours, Part, batch_norm, conv

# Of a modality's decoder, in order: what ours is called.
_DECODER = (
    "stage_1/layer_1",
    "stage_2/layer_1",
    "stage_2/layer_2",
    "stage_3/layer_1",
    "stage_3/layer_2",
    "image/layer",
)


def _layer(theirs: str, ours: str, first: int = 0) -> list[Line]:
    """Lists the lines of a convolution and the normalization behind it."""
    return conv(f"{theirs}.{first}", f"{ours}/conv") + batch_norm(f"{theirs}.{first + 1}", f"{ours}/norm")


def _fusion(theirs: str, ours: str) -> list[Line]:
    return _layer(f"{theirs}.layer1", f"{ours}/mix") + _layer(f"{theirs}.layer2", f"{ours}/fuse")


def _generator(here: Ours, images: Sequence[str]) -> list[Line]:
    """Lists all lines; `images`: their last convolutions of the sources given back, by source."""
    lines: list[Line] = []
    if len(here.sources) != len(images):
        raise UserError(
            f"the public Hi-Net makes an image of {len(images)} others, and this recipe reads "
            f"{' and '.join(here.sources)}; choose pairs of two sources"
        )
    for number, source in enumerate(here.sources):
        for stage in (1, 2, 3):
            for layer in (1, 2):
                ours = f"encoder_{source}/stage_{stage}/layer_{layer}"
                lines += _layer(f"down_{stage}_{number}", ours, 3 * (layer - 1))
        for place, ours in enumerate(_DECODER, start=1):
            lines += _layer(f"deconv_{place}_{number + 1}", f"decoder_{source}/{ours}")
        lines += conv(f"{images[number]}.0", f"decoder_{source}/image/conv")
    for block in (1, 2, 3):
        lines += _fusion(f"down_fu_{block}", f"fusion/block_{block}")
        lines += _fusion(f"deconv_{block + 1}_0", f"synthesis/block_{block}")
    lines += _layer("down_fu_4", "synthesis/layer_1") + _layer("deconv_1_0", "synthesis/layer_2")
    return lines + _layer("deconv_5_0", "synthesis/image/layer") + conv("out.0", "synthesis/image/conv")


def _critic(here: Ours) -> list[Line]:
    lines = conv("model.0", "down_1")
    for layer, place in ((2, 2), (3, 5), (4, 8)):
        lines += conv(f"model.{place}", f"down_{layer}") + batch_norm(f"model.{place + 1}", f"norm_{layer}")
    return lines + conv("model.11", "score")


CRITIC = Part("discriminator", "discriminator", _critic)
# The code makes all three images by the convolution `out`; `out1` and `out2` are in its files and never used.
GENERATOR = Part("generator", "generator", lambda here: _generator(here, ("out", "out")), ignored=("out1.*", "out2.*"))
# By the same names with a convolution for each image, as the paper has it and as ours is trained.
APART = Part("generator", "generator", lambda here: _generator(here, ("out1", "out2")))
