"""Exports a trained run, so that it predicts without jaxfuse.

    python -m jaxfuse.export --workdir RUN[:PHASE[@last|@best]] [RUN ...] --output DIR

The folder holds programs for CPUs and for CUDA (StableHLO), weights (safetensors), the preparation of cases, labels,
the post-processing that was chosen for the run, a card, and run.py, which predicts as `jaxfuse.predict` does. NumPy,
nibabel and JAX are all that it takes. Runs that label volumes, and those that synthesize one modality, are exported;
several are averaged, as `predict` averages them.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxfuse import cli
from jaxfuse.io import outputs
from jaxfuse.postprocessing import option


def define_flags() -> None:
    """Defines the options of the command, not on import, so that commands can be imported side by side."""
    flags.DEFINE_string("workdir", None, "Run: RUN, RUN:PHASE or RUN:PHASE@best; further ones may follow it.")
    flags.DEFINE_string("output", None, "Folder for the bundle; made if need be.")
    flags.DEFINE_float(
        "overlap", None, "Least share of a tile in common with its neighbor; that of the run if not given."
    )
    flags.DEFINE_enum(
        "weighting",
        None,
        ["equal", "gaussian"],
        "How the voxels of overlapping tiles count; that of the run if not given.",
    )
    flags.DEFINE_string(
        "mirror", None, "Axes along which tiles are mirrored as well: none, all, or such as 0 or 0,1; those of the run."
    )
    flags.DEFINE_bool("onnx", False, "Write each network as ONNX as well, by jax2onnx (extra `onnx`).")
    flags.DEFINE_string(option.OPTION, option.AUTO, option.HELP)
    flags.DEFINE_bool(outputs.OVERWRITE, False, outputs.OVERWRITE_HELP)
    for name in ("workdir", "output"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.exported.written_bundle import export_bundle
    from jaxfuse.engine.trained.passes import Passes
    from jaxfuse.engine.trained.phases import load

    asked = flags.FLAGS
    phases = load([asked.workdir, *argv[1:]])
    passes = Passes(overlap=asked.overlap, weighting=asked.weighting, mirror=asked.mirror)
    export_bundle(
        phases,
        Path(asked.output),
        Display(),
        passes=passes,
        postprocessing=asked.postprocessing,
        command=without_places(sys.argv[1:]),
        onnx=asked.onnx,
        overwrite=asked.overwrite,
    )
    return 0


def without_places(words: Sequence[str]) -> str:
    """Returns the call with the names of its folders alone: a bundle is passed on, and tells not where they lay."""
    told = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        told.append(f"{option}{equals}{Path(value).name}" if "/" in value else word)
    return shlex.join(["python", "-m", "jaxfuse.export", *told])


if __name__ == "__main__":
    define_flags()
    cli.run(main)
