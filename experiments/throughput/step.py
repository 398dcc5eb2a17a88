"""python -m experiments.throughput.step --system cmff --sides both [--size cpu] [--rounds 6] [--out lines.jsonl]

Times the training step of one System, of its PyTorch peer, or of both by turns in one process. A line of JSON for each
contestant is written at once: for every round the seconds of a step, of which the best and the median are given too.

In a round each contestant carries out `--per-round` steps on a batch that lies on the device, and waits once at the
end; PyTorch runs once per layout of memory. With both sides no figure of one is from another time of day than that of
the other, and their ratio is the figure to read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from experiments.throughput.lines import add_out, write
from experiments.throughput.systems import CASES, SIZES, Case
from jaxfuse.engine.programs import Programs

LAYOUTS = ("contiguous", "channels_last")
# Threads of the side that has just been waited for may spin on for a while.
REST_S = 0.05


class Contestant:
    """One side in one form.

    Attributes:
        facts: what its line says beside the times.
        run: carries out so many steps and waits for the last.
    """

    def __init__(self, facts: dict[str, Any], run: Callable[[int], None]) -> None:
        self.facts, self.run, self.seconds = facts, run, []

    def time(self, steps: int) -> None:
        started = time.perf_counter()
        self.run(steps)
        self.seconds.append((time.perf_counter() - started) / steps)
        time.sleep(REST_S)

    def line(self) -> dict[str, Any]:
        times = {"best_s": min(self.seconds), "median_s": statistics.median(self.seconds), "rounds_s": self.seconds}
        return {**self.facts, **times}


def ours(case: Case, dtype: str) -> Contestant:
    """Compiles our step and carries out two."""
    programs = Programs(case.ours(case.optimizers(), dtype))
    batch = programs.placement.put(case.example())
    state = programs.placement.keep(programs.init(jax.random.key(0), batch))
    started = time.perf_counter()
    program = programs.step.lower(state, batch).compile()
    compile_s = time.perf_counter() - started
    memory: Any = program.memory_analysis()
    facts = {
        "side": "jaxfuse",
        "form": "compiled",
        "device": jax.devices()[0].device_kind,
        "version": jax.__version__,
        "compile_s": compile_s,
        "flops": programs.step_operations(state, batch),
        "program_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
    }
    kept = [state]

    def run(steps: int) -> None:
        for _ in range(steps):
            kept[0], _ = program(kept[0], batch)
        jax.block_until_ready(kept[0])

    run(2)
    return Contestant({**facts, "peak_bytes": _peak()}, run)


def _peak() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def theirs(case: Case, layout: str, dtype: str, threads: int) -> Contestant:
    """Builds the peer and carries out two steps; asks nothing of JAX, which would take the memory of a GPU."""
    import torch

    from experiments.throughput.names import to_torch
    from experiments.throughput.peers.learning import laid_out

    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS") != "cpu" else "cpu"
    # As JAX has it: float32 products of a GPU in TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    peer = case.peer(case.rules).to(device, layout)
    batch = {name: laid_out(value.to(device), layout) for name, value in to_torch(case.example()).items()}

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                peer.step(batch)
        if device == "cuda":
            torch.cuda.synchronize()

    run(2)
    on_gpu = device == "cuda"
    facts = {
        "side": "torch",
        "form": f"eager {layout}",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "version": torch.__version__,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }
    return Contestant(facts, run)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Builds the contestants, times them by turns, and returns their lines."""
    case = CASES[options.system](options.size)
    contestants = []
    if options.sides in ("ours", "both"):
        contestants.append(ours(case, options.dtype))
    if options.sides in ("torch", "both"):
        contestants += [theirs(case, layout, options.dtype, options.threads) for layout in options.layouts]
    for _ in range(options.rounds):
        for contestant in contestants:
            contestant.time(options.per_round)
    common = {"system": options.system, "size": options.size, "batch": case.batch, "dtype": options.dtype}
    return [{**common, **contestant.line()} for contestant in contestants]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=CASES, required=True)
    parser.add_argument("--sides", choices=("ours", "torch", "both"), default="both")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--per-round", type=int, default=1, help="steps between two waits; 10 on a GPU")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on a CPU; 0 leaves them to it")
    add_out(parser)
    options = parser.parse_args()
    write(measure(options), options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
