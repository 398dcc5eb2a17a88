"""Networks of trained phases as ONNX, by jax2onnx, where that knows all of their operations."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.engine.exported.plain_functions import plain
from jaxfuse.engine.exported.programs import Forward
from jaxfuse.errors import UserError


def check_installed() -> None:
    """Refuses to go on where jax2onnx is not installed."""
    try:
        importlib.import_module("jax2onnx")
    except ImportError as error:
        raise UserError(
            'ONNX takes jax2onnx, which is not installed; call pip install "jaxfuse[onnx]", or leave out --onnx'
        ) from error


def write_onnx(path: Path, forward: Forward, weights: Mapping[str, np.ndarray], image: tuple[int, ...]) -> None:
    """Writes a network with its weights; it takes tiles of this shape and gives its first output.

    Raises:
        UserError: jax2onnx does not know one of its operations.
    """
    converter, onnx = importlib.import_module("jax2onnx"), importlib.import_module("onnx")

    def network(tiles: Any) -> Any:
        return forward({name: jnp.asarray(array) for name, array in weights.items()}, tiles)[forward.outputs[0]]

    function = plain(network, jax.ShapeDtypeStruct(image, np.float32))
    try:
        model: Any = converter.to_onnx(lambda tiles: function(tiles)[0], [image], model_name=forward.phase.phase.name)
    except (NotImplementedError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:160]
        raise UserError(
            f"{forward.phase.name} cannot be written as ONNX: jax2onnx says {told!r}; leave out --onnx"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
