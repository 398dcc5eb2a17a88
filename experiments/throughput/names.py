"""Weights of a System by the names and in the shapes that its PyTorch peer has.

Modules of a peer bear the names of their counterparts, so a parameter's path is the same but for its last word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch

# The last word there; any other is the same on both sides.
WORDS = {"kernel": "weight", "scale": "weight", "slope": "weight", "embedding": "weight"}
STATISTICS = {"mean": "running_mean", "var": "running_var", "variance": "running_var"}
# Channels lie last here, (*kernel in out), and first there, (out in *kernel).
KERNELS = ("kernel", "mix")


def torch_names(tree: Any, words: Mapping[str, str] = WORDS) -> dict[str, np.ndarray]:
    """Returns {name there: values in the shape there} of a tree of parameters, gradients or statistics."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        *modules, word = (str(entry.key) for entry in path)
        value = np.asarray(leaf)
        if word in KERNELS:
            value = value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
        found[".".join([*modules, words.get(word, word)])] = value
    return found


def copy_weights(params: Any, module: torch.nn.Module) -> None:
    """Gives a peer the parameters of its counterpart.

    Raises:
        ValueError: a name or a shape is on one side only.
    """
    given = torch_names(params)
    own = dict(module.named_parameters())
    if set(given) != set(own):
        raise ValueError(f"on one side only: {sorted(set(given) ^ set(own))}")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != given[name].shape:
                raise ValueError(f"{name} is {tuple(parameter.shape)} there and {given[name].shape} here")
            parameter.copy_(torch.from_numpy(given[name].copy()))


def to_torch(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Returns a batch with the channels of its image first."""
    image = np.ascontiguousarray(np.moveaxis(batch["image"], -1, 1))
    return {"image": torch.from_numpy(image), "label": torch.from_numpy(batch["label"])}
