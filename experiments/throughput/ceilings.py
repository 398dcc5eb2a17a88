"""python -m experiments.throughput.ceilings [--out lines.jsonl]

Measures what the device in use can do at most: products of square matrices in float32 and bfloat16 (operations per
second), and a copy (bytes read and written per second). A line of JSON for each, written at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.throughput.lines import add_out, write


def best_seconds(run: Callable[[], Any], rounds: int, calls: int) -> float:
    """Returns the least seconds of a call, over rounds of so many calls that are waited for once."""
    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - started) / calls)
    return best


def measure(*, side: int, copied_bytes: int, rounds: int, calls: int) -> Iterator[dict[str, Any]]:
    """Yields a line for the product in either type, and one for the copy."""
    common = {"device": jax.devices()[0].device_kind, "version": jax.__version__}
    product = jax.jit(jnp.matmul)
    for dtype in ("float32", "bfloat16"):
        a = jnp.ones((side, side), dtype)
        seconds = best_seconds(lambda a=a: product(a, a), rounds, calls)
        yield {**common, "ceiling": "product", "dtype": dtype, "side": side, "flops_per_s": 2 * side**3 / seconds}
    copy, x = jax.jit(lambda x: x + 1), jnp.zeros(copied_bytes // 4, jnp.float32)
    seconds = best_seconds(lambda: copy(x), rounds, calls)
    yield {**common, "ceiling": "copy", "bytes": copied_bytes, "bytes_per_s": 2 * copied_bytes / seconds}


def main() -> int:
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048 if on_cpu else 8192)
    parser.add_argument("--megabytes", type=int, default=256 if on_cpu else 2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1 if on_cpu else 20)
    add_out(parser)
    options = parser.parse_args()
    sizes = {"side": options.side, "copied_bytes": options.megabytes * 10**6}
    write(measure(**sizes, rounds=options.rounds, calls=options.calls), options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
