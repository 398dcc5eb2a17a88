"""A start of our FILM from its public code (github.com/Zhaozixiang1228/IF-FILM).

There each of two images has a branch of its own, and captions are the text; here all images share one branch, and the
text is one learned vector (`jaxfuse.models.baselines.film`). So these weights are a start: our branch begins as that of
their first image, the decoder, which reads both branches there and their mean and maximum here, as theirs; the text
stays as it is drawn.
"""

from __future__ import annotations

import numpy as np

from jaxfuse.weights.cddfuse import attention_block
from jaxfuse.weights.lines import LINEAR, Form, Line, Ours, Part, Shape, conv

# What `torch.nn.MultiheadAttention` keeps in one tensor.
_THIRDS = ("query", "key", "value")


def _third(number: int, *, kernel: bool) -> Form:
    """Takes one of three equal parts of a tensor along its first axis."""

    def read(theirs: np.ndarray, shape: Shape) -> np.ndarray:
        own = np.split(theirs, 3)[number]
        return LINEAR.read(own, shape) if kernel else own

    return Form(read)


def _images(theirs: str, ours: str) -> list[Line]:
    """Lists the lines of what a round sees an image by."""
    lines = [
        *conv(f"{theirs}.convA1", f"{ours}/embed", bias=False),
        Line(f"{theirs}.preluA1.weight", f"{ours}/bend/slope"),
    ]
    return lines + attention_block(f"{theirs}.restormerA1", f"{ours}/block")


def _round(theirs: str, ours: str) -> list[Line]:
    """Lists the lines of one look of the text at an image."""
    lines = conv(f"{theirs}.imagef2textfA1.conv", f"{ours}/to_text") + conv(f"{theirs}.convA2", f"{ours}/from_text")
    lines += conv(f"{theirs}.convA3", f"{ours}/join")
    lines += [Line(f"{theirs}.preluA2.weight", f"{ours}/bend_text/slope")]
    lines += [Line(f"{theirs}.preluA3.weight", f"{ours}/bend/slope")]
    attention = f"{theirs}.cross_attentionA1.multihead_attn"
    for number, word in enumerate(_THIRDS):
        lines.append(Line(f"{attention}.in_proj_weight", f"{ours}/weights/{word}/kernel", _third(number, kernel=True)))
        lines.append(Line(f"{attention}.in_proj_bias", f"{ours}/weights/{word}/bias", _third(number, kernel=False)))
    return lines + conv(f"{attention}.out_proj", f"{ours}/weights/project", form=LINEAR)


def _lines(here: Ours) -> list[Line]:
    lines = _images("restormerca1", "encoder")
    for number, name in enumerate(here.below("guidance/", "round_"), start=1):
        theirs = f"restormerca{number}"
        lines += _images(theirs, f"guidance/encoder_{number}") if number > 1 else []
        lines += _round(theirs, f"guidance/{name}")
    for number, name in enumerate(here.below("decoder/", "block_"), start=1):
        lines += attention_block(f"restormer{number}", f"decoder/{name}")
    return lines + conv("conv1", "decoder/narrow") + conv("conv2", "decoder/image")


# The branch of the second image, and what makes captions text.
_UNUSED = (
    "*.convB?.*",
    "*.preluB?.*",
    "*.restormerB1.*",
    "*.cross_attentionA2.*",
    "*.imagef2textfB1.*",
    "text_process.*",
)
FUSION = Part("fusion", "fusion", _lines, _UNUSED, partial=True)
