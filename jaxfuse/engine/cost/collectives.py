"""Exchanges between devices in a program that XLA compiled for several: how many, how many bytes, and how long.

The time is a simulation: every device hands its share round a ring at the rate of the slowest link, nothing else is
done meanwhile, and beginning an exchange takes a time that was assumed, not measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxfuse.engine.cost.gpus import IN_A_MACHINE, Gpu
from jaxfuse.engine.cost.kernels import Kernel, size_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BEGUN = "-start"
# InfiniBand NDR, in one direction, for each card.
BETWEEN_MACHINES = 50e9
# Assumed to begin an exchange within a machine, and between machines.
BEGIN_S, BEGIN_BETWEEN_S = 15e-6, 30e-6


@dataclass(frozen=True)
class Exchange:
    """All exchanges of one kind in one run of a program; bytes are those of their results on one device.

    Attributes:
        largest: the bytes of the largest of them.
    """

    count: int
    bytes: int
    largest: int


def collectives_of(kernels: Iterable[Kernel]) -> dict[str, Exchange]:
    """Returns the exchanges among the kernels of a program, by kind."""
    found: dict[str, Exchange] = {}
    for one in kernels:
        if (kind := one.kind.removesuffix(_BEGUN)) in KINDS:
            size, before = _received(one, kind), found.get(kind, Exchange(0, 0, 0))
            count, total = before.count + one.launches, before.bytes + one.launches * size
            found[kind] = Exchange(count, total, max(before.largest, size))
    return found


def exchange_s(found: Mapping[str, Exchange], gpu: Gpu, *, devices: int, space: int) -> float:
    """Returns the seconds that the exchanges of a program among so many cards take.

    Borders of examples are exchanged by permutation within a machine where it holds all that share one.
    """
    total = 0.0
    for kind, one in found.items():
        near = devices <= IN_A_MACHINE or (kind == "collective-permute" and 1 < space <= IN_A_MACHINE)
        rate, begin = (gpu.link, BEGIN_S) if near else (min(gpu.link, BETWEEN_MACHINES), BEGIN_BETWEEN_S)
        total += one.count * begin + _rounds(kind, devices) * one.bytes / rate
    return total


def _rounds(kind: str, devices: int) -> float:
    """How often a device sends as many bytes as it receives in the end, in a ring."""
    share = (devices - 1) / devices
    return {"all-reduce": 2 * share, "reduce-scatter": devices - 1.0, "collective-permute": 1.0}.get(kind, share)


def _received(one: Kernel, kind: str) -> int:
    """Bytes of a result. What starts an exchange that goes on beside other work returns the operands before it."""
    if one.kind.endswith(_BEGUN) and kind != "all-reduce":
        return size_of(_parts(one.shape)[1])
    return size_of(one.shape)


def _parts(shape: str) -> list[str]:
    """The members of a tuple, tuples among them whole."""
    parts, depth = [""], 0
    for sign in shape:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 1:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
