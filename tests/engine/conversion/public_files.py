"""Files of public weights, made by the rule of `tests.weights`, and recipes of their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from configs import fuse4seg, hinet
from jaxfuse.io.safetensors import write_safetensors
from tests.weights import sizes
from tests.weights.make_outputs import stored
from tests.weights.rule import state_dict


def public_file(folder: Path, case: str, start: str = "module.") -> Path:
    """Writes the state dict of a case, as of a model that was trained on several devices; returns its path."""
    path = folder / f"{case}.safetensors"
    write_safetensors(path, {f"{start}{name}": array for name, array in tensors(case).items()})
    return path


def tensors(case: str) -> dict[str, np.ndarray]:
    """Returns the state dict of a case."""
    return state_dict(stored(case)[0])


def hinet_config(folder: Path, text: str = "tiny") -> Any:
    """Returns a recipe whose networks have the sizes of the cases of Hi-Net."""
    config = hinet.get_config(text)
    config.data.cache = str(folder / "cache")
    return config


def fuse4seg_config(folder: Path) -> Any:
    """Returns a recipe whose segmentation network has the sizes of the cases of TransUNet."""
    config = fuse4seg.get_config("tiny,row=wo_cross_attention")
    form = config.cooperative.args.segmentation
    form.update(sizes.TRANSUNET)
    form.update({f"vit_{name}": value for name, value in sizes.VIT.items()})
    form.decoder_widths = sizes.DECODER
    config.data.cache = str(folder / "cache")
    return config
