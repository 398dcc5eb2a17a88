"""Bytes, kernels and memory of the steps of the papers' presets, compiled for a card that need not be there.

    pip install "jaxfuse[h200]"
    python -m experiments.throughput.bytes

writes bytes.md beside this file: of each step what XLA's program moves, beside the least that it has to, its kernels
and its memory, and the time that the bytes take at the card's bandwidth. `--only "CMFT;CMFF"` compiles some of them;
the lines of the others stay as they are. A step takes one to ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.engine.cost.gpus import GPUS, gpu_named
from jaxfuse.engine.description import describe
from jaxfuse.errors import UserError

PAGE = Path(__file__).resolve().parent / "bytes.md"
# Of each step: config, argument, phase.
STEPS = {
    "CMFT": ("cmff", "paper", "transition"),
    "CMFF": ("cmff", "paper", "fusion"),
    "CMFT and CMFF at once": ("cmff", "paper,row=joint", "joint"),
    "HyperDense-Net": ("hyperfusion", "paper,row=baseline", "segmentation"),
    "HyperFusionNet": ("hyperfusion", "paper", "segmentation"),
    "HyperFusionNet, stroke": ("hyperfusion", "paper,data=stroke", "segmentation"),
    "InfiNet": ("infinet", "paper,row=coronal", "coronal"),
    "Hi-Net": ("hinet", "paper", "synthesis"),
    "pix2pix": ("hinet", "paper,row=pix2pix", "synthesis"),
    "CycleGAN": ("hinet", "paper,row=cyclegan", "synthesis"),
    "Fuse4Seg, pre-training": ("fuse4seg", "paper", "pretraining"),
    "Fuse4Seg, cooperative": ("fuse4seg", "paper", "cooperative"),
}
COLUMNS = (
    "step",
    "patch",
    "settled",
    "least GB",
    "moved GB",
    "moved / least",
    "kernels",
    "transposed",
    "temporary GB",
)
COLUMNS += (
    "floor ms",
    "bound ms",
    "prediction of one patch: moved GB",
    "moved / least",
    "kernels",
    "temporary GB",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles, prints a line for each step, and writes the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="h200", choices=sorted(GPUS))
    parser.add_argument(
        "--only",
        default="",
        help="names of steps, with semicolons between; all if empty",
    )
    options = parser.parse_args(argv)
    names = [name for name in options.only.split(";") if name] or list(STEPS)
    if unknown := [name for name in names if name not in STEPS]:
        raise UserError(f"the step {unknown[0]!r} is not known; choose of {'; '.join(STEPS)}")
    for name in names:
        module, argument, phase = STEPS[name]
        config = importlib.import_module(f"configs.{module}").get_config(argument)
        line = _line(
            row(
                name,
                describe(config, cost=True, gpu=gpu_named(options.device), only=phase),
                phase,
            )
        )
        print(line, flush=True)
        known = kept(PAGE.read_text() if PAGE.exists() else "") | {name: line}
        PAGE.write_text(text([known[one] for one in STEPS if one in known], options.device))
    return 0


def kept(page: str) -> dict[str, str]:
    """Returns the lines of steps on a page, by their names."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return {name: line for line in lines if (name := line.split("|")[1].strip()) in STEPS}


def row(name: str, found: Mapping[str, Any], phase: str) -> list[str]:
    """Returns the cells of one step, as `describe` tells of it."""
    told = found["phases"][phase]
    step, prediction = told["cost"]["step"], told["cost"]["prediction"]
    settled = " ".join(sorted({f"{key.rpartition('.')[2]} {value}" for key, value in found["settled"].items()}))
    return [
        name,
        " x ".join(map(str, told["patch"])),
        settled,
        _giga(step["least_bytes"]),
        _giga(step["moved_bytes"]),
        f"{step['times_least']:.2f}",
        f"{step['kernels']:,}",
        f"{100 * step['transposed_bytes'] / step['moved_bytes']:.1f} %",
        _giga(step["temporary_bytes"]),
        f"{step['floor_ms']:.1f}",
        f"{step['bound_ms']:.1f}",
        _giga(prediction["moved_bytes"]),
        f"{prediction['times_least']:.2f}",
        f"{prediction['kernels']:,}",
        _giga(prediction["temporary_bytes"]),
    ]


def text(lines: Sequence[str], device: str) -> str:
    """Returns the page around the table."""
    name = gpu_named(device).name
    return f"""# Bytes and kernels of the papers' steps, compiled for an {name}

    python -m experiments.throughput.bytes

**Nothing here was timed, and no GPU was there**: XLA's compiler for CUDA made each program for a described card.
Neither autotuning nor the workspaces of cuDNN are in it; matrix products are those of a library, not Triton's.

- *least*: counted in the trace, layer by layer (`jaxfuse/engine/cost/least_bytes.py`): what has to move even if
  everything between convolutions, matrix products and sums fuses.
- *moved*: operands and results of all kernels of the compiled program; *transposed*: of that, by transposes.
- *floor*: each kernel moves its bytes at the card's bandwidth, or takes a launch of 2.5 us if that is longer. A real
  step takes longer. *bound*: the least bytes at that bandwidth.
- *settled*: what `dtype=auto` and `remat=auto` become on this card.

{_line(COLUMNS)}
{_line(["---", "---", "---", *["---:"] * (len(COLUMNS) - 3)])}
{chr(10).join(lines)}
"""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _giga(size: int) -> str:
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
