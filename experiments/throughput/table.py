"""python -m experiments.throughput.table lines.jsonl [more.jsonl ...]

Prints lines of `step` and `ceilings` as a Markdown table: of each System the best of PyTorch's layouts, our step, and
their ratio. A side that has no line is "not measured", and so is a ratio without both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.throughput.systems import CASES

NONE = "not measured"
Line = Mapping[str, Any]


def read_lines(paths: Iterable[Path]) -> list[Line]:
    return [json.loads(text) for path in paths for text in path.read_text(encoding="utf-8").splitlines() if text]


def best(lines: Iterable[Line]) -> Line | None:
    """The line with the least time of a step."""
    return min(lines, key=lambda line: line["best_s"], default=None)


def rows(lines: Iterable[Line]) -> Iterator[str]:
    """Yields the rows of the table of steps."""
    steps = [line for line in lines if "best_s" in line]
    kinds = sorted({(line["size"], line["dtype"]) for line in steps})
    for size, dtype in kinds:
        for name in CASES:
            own = [line for line in steps if (line["system"], line["size"], line["dtype"]) == (name, size, dtype)]
            ours = best(line for line in own if line["side"] == "jaxfuse")
            theirs = best(line for line in own if line["side"] == "torch")
            if not own:
                yield f"| {name} | {_sides(name, size)}, {dtype} | {NONE} | {NONE} | {NONE} |  |  |"
                continue
            ratio = f"{theirs['best_s'] / ours['best_s']:.2f}" if ours and theirs else NONE
            there = f"{theirs['best_s']:.3f} ({theirs['form'].removeprefix('eager ')})" if theirs else NONE
            here = f"{ours['best_s']:.3f}" if ours else NONE
            rate = f"{ours['flops'] / ours['best_s'] / 1e9:.0f}" if ours and ours["flops"] else ""
            compiled = f"{ours['compile_s']:.0f}" if ours else ""
            where = f"{_sides(name, size)} x {own[0]['batch']}, {dtype}"
            yield f"| {name} | {where} | {there} | {here} | {ratio} | {rate} | {compiled} |"


def _sides(name: str, size: str) -> str:
    return " x ".join(map(str, CASES[name](size).patch))


def table(lines: Iterable[Line]) -> str:
    """Renders the table of steps, and what was measured of the device."""
    lines = list(lines)
    head = ["System", "size x batch", "PyTorch s", "jaxfuse s", "PyTorch / jaxfuse", "GFLOP/s", "compiled in s"]
    text = [f"| {' | '.join(head)} |", "|---|---|--:|--:|--:|--:|--:|", *rows(lines)]
    ceilings = [line for line in lines if "ceiling" in line]
    for line in ceilings:
        if line["ceiling"] == "product":
            text.append(
                f"\nProduct of {line['side']}^2 matrices, {line['dtype']}: {line['flops_per_s'] / 1e9:.0f} GFLOP/s."
            )
        else:
            text.append(f"\nCopy: {line['bytes_per_s'] / 1e9:.1f} GB/s.")
    text += [f"\n{line['item']}: skipped, {line['skipped']}." for line in lines if "skipped" in line]
    return "\n".join(text)


def main() -> int:
    print(table(read_lines(map(Path, sys.argv[1:]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
