"""Weights by the names of a public code, or by our own, written into files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxfuse.engine.conversion.arrays import network_paths, own_arrays
from jaxfuse.engine.conversion.sources import sources_of
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError
from jaxfuse.io.npz import write_npz
from jaxfuse.io.outputs import open_outputs
from jaxfuse.io.safetensors import write_safetensors
from jaxfuse.weights.lines import OWN, Table
from jaxfuse.weights.matching import write_part
from jaxfuse.weights.tables import table_of

# The file of our own names.
OWN_FILE = "weights.safetensors"
_ENDS = (".safetensors", ".npz")


def write_weights(phase: TrainedPhase, table: str, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes a file for each network of a table, or one of all weights by our own names; returns their paths.

    PyTorch reads them by `safetensors.torch.load_file`, and its modules take them strictly.

    Raises:
        UserError: the table cannot be written or is of another network, or the folder cannot be written.
    """
    names = None if table == OWN else _written(table)
    arrays = {name: np.asarray(leaf) for name, leaf in own_arrays(phase.weights()).items()}
    files = _by_parts(phase, names, arrays) if names else {OWN_FILE: arrays}
    reads = [("the run", phase.workdir)]
    outputs = open_outputs(folder, "--output", reads=reads, names=files, overwrite=overwrite)
    metadata = {"format": "pt", "code": table, "from": phase.name}
    with outputs.together() as staged:
        for name, tensors in files.items():
            write_safetensors(staged / name, tensors, metadata)
    return [folder / name for name in files]


def _written(table: str) -> Table:
    """Returns a table by whose names weights can be written; refuses the others."""
    names = table_of(table)
    if names.written_as:
        raise UserError(
            f"the names of {table} cannot tell all of our weights, which differ from {names.title}'s; write them with "
            f"--to {names.written_as}"
        )
    return names


def _by_parts(phase: TrainedPhase, names: Table, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the tensors of each network by the names of its file."""
    files = {}
    for part in names.parts:
        paths = network_paths(arrays, part.at, names.title)
        network = {path: arrays[name] for path, name in paths.items()}
        files[f"{part.name}.safetensors"] = write_part(part, network, sources_of(phase.pairs))
    return files


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], *, overwrite: bool = False) -> None:
    """Writes weights by our own names into one file, .safetensors or .npz.

    Raises:
        UserError: the file has another end, or cannot be written.
    """
    if path.suffix not in _ENDS:
        raise UserError(f"--output is {path}; weights are written into a file that ends in {' or '.join(_ENDS)}")
    outputs = open_outputs(path.parent, "--output", reads=[], names=[path.name], overwrite=overwrite)
    with outputs.together() as staged:
        if path.suffix == ".npz":
            write_npz(staged / path.name, **arrays)
        else:
            write_safetensors(staged / path.name, arrays, {"format": "pt", "code": OWN})
