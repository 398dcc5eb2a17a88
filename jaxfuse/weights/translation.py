"""The public code of pix2pix and CycleGAN (github.com/junyanz/pytorch-CycleGAN-and-pix2pix), a file for each network.

Generators are `unet_128`, `unet_256` and the like for pix2pix, `resnet_6blocks` and the like, without dropout, for
CycleGAN; critics are `basic` or `n_layers`.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxfuse.weights.lines import TRANSPOSED, Line, Ours, Part, batch_norm, conv


def _unet(here: Ours) -> list[Line]:
    """Lists the lines of the U-Net: each level lies within the one above it."""
    downs = sum(path.startswith("down_") and path.endswith("/kernel") for path in here.shapes)
    lines = conv("model.model.0", "down_1", bias=False) + conv("model.model.3", "up_1", form=TRANSPOSED)
    within = "model.model.1"
    for level in range(2, downs + 1):
        deepest = level == downs
        lines += conv(f"{within}.model.1", f"down_{level}", bias=False)
        lines += [] if deepest else batch_norm(f"{within}.model.2", f"down_norm_{level}")
        place = 3 if deepest else 5
        lines += conv(f"{within}.model.{place}", f"up_{level}", bias=False, form=TRANSPOSED)
        lines += batch_norm(f"{within}.model.{place + 1}", f"up_norm_{level}")
        within += ".model.3"
    return lines


def _resnet(here: Ours) -> list[Line]:
    """Lists the lines of the residual generator, whose normalization has no weights."""
    blocks = here.below("", "block_")
    lines = conv("model.1", "enter/conv/conv")
    lines += conv("model.4", "down_1/conv") + conv("model.7", "down_2/conv")
    for number, name in enumerate(blocks, start=10):
        lines += conv(f"model.{number}.conv_block.1", f"{name}/conv_1/conv")
        lines += conv(f"model.{number}.conv_block.5", f"{name}/conv_2/conv")
    after = 10 + len(blocks)
    lines += conv(f"model.{after}", "up_1/conv", form=TRANSPOSED)
    lines += conv(f"model.{after + 3}", "up_2/conv", form=TRANSPOSED)
    return lines + conv(f"model.{after + 7}", "leave/conv")


def _critic(here: Ours) -> list[Line]:
    """Lists the lines of a critic, whose layers lack a bias where they are normalized with a shift."""
    layers = sum(path.startswith("conv_") and path.endswith("/kernel") for path in here.shapes)
    lines = conv("model.0", "conv_1")
    for layer in range(2, layers + 1):
        place = 3 * layer - 4
        lines += conv(f"model.{place}", f"conv_{layer}", bias=f"conv_{layer}/bias" in here.shapes)
        if f"norm_{layer}/scale" in here.shapes:
            lines += batch_norm(f"model.{place + 1}", f"norm_{layer}")
    return lines + conv(f"model.{3 * layers - 1}", "score")


# Names of the files: latest_net_G.pth, latest_net_G_A.pth and so on.
PIX2PIX = (Part("G", "generator", _unet), Part("D", "discriminator", _critic))
_GIVEN: tuple[tuple[str, str, Callable[[Ours], list[Line]]], ...] = (
    ("G_A", "generators/ab", _resnet),
    ("G_B", "generators/ba", _resnet),
    ("D_A", "discriminators/b", _critic),
    ("D_B", "discriminators/a", _critic),
)
CYCLEGAN = tuple(Part(*given) for given in _GIVEN)
