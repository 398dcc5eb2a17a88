"""The networks of public codes in PyTorch, at the sizes of `sizes` and at those that are published."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.weights import sizes
from tests.weights.public import cddfuse, hinet, hyperdense, translation, transunet
from tests.weights.rule import image, state_dict

_VIT, _CDDFUSE = sizes.VIT, sizes.CDDFUSE
SMALL: dict[str, Callable[[], torch.nn.Module]] = {
    "hinet": lambda: hinet.Generator(sizes.HINET),
    "hinet_apart": lambda: hinet.Generator(sizes.HINET, apart=True),
    "hinet_critic": lambda: hinet.Critic(sizes.HINET),
    "hyperdense_2": lambda: hyperdense.HyperDense(2, sizes.CLASSES, sizes.FILTERS, sizes.HEAD),
    "hyperdense_3": lambda: hyperdense.HyperDense(3, sizes.CLASSES, sizes.FILTERS, sizes.HEAD),
    "cddfuse": lambda: cddfuse.Networks(_CDDFUSE["dim"], _CDDFUSE["heads"], _CDDFUSE["blocks"], _CDDFUSE["nodes"]),
    "pix2pix": lambda: translation.UNet(sizes.PIX2PIX["width"], sizes.PIX2PIX["downs"]),
    "pix2pix_critic": lambda: translation.Critic(
        2, sizes.CRITIC["width"], sizes.CRITIC["layers"], torch.nn.BatchNorm2d
    ),
    "cyclegan": lambda: translation.ResNet(sizes.CYCLEGAN["width"], sizes.CYCLEGAN["blocks"]),
    "cyclegan_critic": lambda: translation.Critic(
        1, sizes.CRITIC["width"], sizes.CRITIC["layers"], torch.nn.InstanceNorm2d
    ),
    "transunet": lambda: transunet.TransUNet(
        **sizes.TRANSUNET, **_VIT, side=sizes.SIDE, decoder_widths=sizes.DECODER, classes=sizes.CLASSES
    ),
}


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the sides of all tensors of a state dict by their names."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def output(case: str) -> tuple[dict[str, tuple[int, ...]], np.ndarray]:
    """Returns names and sides of a network's state dict, and its output, channels last, by the weights of the rule."""
    network = SMALL[case]().eval()
    shapes = shapes_of(network)
    network.load_state_dict({name: torch.from_numpy(one) for name, one in state_dict(shapes).items()})
    given = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image(case, sizes.IMAGES[case]), -1, 1)))
    with torch.no_grad():
        return shapes, np.moveaxis(network(given).numpy(), 1, -1)


def save(path: Path, *, archive: bool) -> None:
    """Writes a file as trainers do: a state dict within a dictionary, views of one storage, an optimizer beside it."""
    whole = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict({"module.whole": whole, "module.turned": whole.T, "module.corner": whole[1:3, 2:4]})
    state["module.number"] = torch.tensor(7)
    state["module.empty"] = torch.zeros(0, 3)
    state["module.learned"] = torch.nn.Parameter(torch.tensor([1.5, -2.0]))
    for name in ("float16", "bfloat16", "float64", "int32", "uint8", "bool"):
        state[f"module.{name}"] = torch.tensor([0, 1, 1]).to(getattr(torch, name))
    momentum = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3, "params": [torch.ones(3)]}]}
    content = {"state_dict": state, "optimizer": momentum, "epoch": 3, "name": "a run", "sizes": whole.shape}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
