"""python -m experiments.throughput.ceilings [--out lines.jsonl]

Measures what the device in use can do at most: products of square matrices in float32 and bfloat16 (operations per
second), and a copy (bytes read and written per second). A line of JSON for each, written at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.throughput.lines import add_out, write
from jaxfuse.engine.cost.ceilings import best_seconds, product_rate


def measure(*, side: int, copied_bytes: int, rounds: int, calls: int) -> Iterator[dict[str, Any]]:
    """Yields a line for the product in either type, and one for the copy."""
    common = {"device": jax.devices()[0].device_kind, "version": jax.__version__}
    for dtype in ("float32", "bfloat16"):
        rate = product_rate(side, dtype, rounds=rounds, calls=calls)
        yield {**common, "ceiling": "product", "dtype": dtype, "side": side, "flops_per_s": rate}
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
