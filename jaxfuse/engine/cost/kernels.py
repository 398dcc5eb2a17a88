"""Kernels of a program that XLA compiled for a GPU: how many, and how many bytes each reads and writes.

The bytes of a kernel are those of its operands and results, each once: what has to move if caches help nothing and
nothing is read twice. Of an operand of which only slices are read these count, and of an array that is changed in place
what is put into it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jax.stages import Compiled

from jaxfuse.engine.cost.gpus import LAUNCH_S, Gpu

# Bits of an element; others, such as tokens, have none.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16}
_BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}
_BITS |= {"f8e4m3fn": 8, "f8e5m2": 8}
# Operations that start no kernel.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "copy-done", "partition-id"}
_SLICES = {"slice", "dynamic-slice"}
_NAMED = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9][a-z0-9]*|pred)\[([0-9,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclass(frozen=True)
class Operation:
    """One line of a compiled computation.

    Attributes:
        shape: of its result, as text.
        kind: the name of the operation, or of what a custom call calls.
        operands: names of other lines.
        text: what stands behind the operands: attributes.
    """

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Kernel:
    """One launch of a program, or as many as a loop makes of it.

    Attributes:
        kind: its operation; "transpose" also for a fusion that XLA named so.
        shape: of its result, as text.
        moved_bytes: read and written by one launch.
        launches: how often it runs in one run of the program.
        window: the longest side of the window of a convolution; 0 for others.
    """

    kind: str
    shape: str
    moved_bytes: int
    launches: int
    window: int


@dataclass(frozen=True)
class CompiledKernels:
    """Kernels and memory of one compiled program.

    Attributes:
        text: the optimized program as XLA prints it.
        temporary_bytes, argument_bytes: what it needs beside its arguments, and they.
    """

    text: str
    temporary_bytes: int
    argument_bytes: int

    @classmethod
    def of(cls, compiled: Compiled) -> CompiledKernels:
        """Reads what XLA tells of a compiled program."""
        memory: Any = compiled.memory_analysis()
        return cls(compiled.as_text() or "", int(memory.temp_size_in_bytes), int(memory.argument_size_in_bytes))

    @cached_property
    def computations(self) -> Mapping[str, tuple[Operation, ...]]:
        """Every computation by name; the entry's name is ""."""
        return _computations(self.text)

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """All kernels of the entry, and of the loops, branches and calls in it."""
        return tuple(_kernels(self.computations, "", 1))

    @property
    def launches(self) -> int:
        """Kernels that one run starts."""
        return sum(one.launches for one in self.kernels)

    @property
    def moved_bytes(self) -> int:
        """Bytes that one run reads and writes."""
        return sum(one.moved_bytes * one.launches for one in self.kernels)

    @property
    def transposed_bytes(self) -> int:
        """Bytes that transposes move."""
        return sum(one.moved_bytes * one.launches for one in self.kernels if one.kind == "transpose")

    @property
    def largest_window(self) -> int:
        """The longest side of the window of any convolution, in voxels."""
        return max((one.window for one in self.kernels), default=0)

    def floor_s(self, gpu: Gpu) -> float:
        """Seconds of a run whose kernels each move their bytes at the card's bandwidth, or take a launch if longer."""
        return sum(max(LAUNCH_S, one.moved_bytes / gpu.bandwidth) * one.launches for one in self.kernels)

    def longest_narrow_sum(self) -> int:
        """The most elements that any one sum adds up in bfloat16."""
        longest = 0
        for operations in self.computations.values():
            shapes = {one.name: one.shape for one in operations}
            for one in operations:
                if one.kind == "reduce" and one.shape.startswith(("bf16[", "(bf16[")):
                    summed = max((_elements(shapes.get(name, "")) for name in one.operands), default=0)
                    longest = max(longest, summed // max(1, _elements(one.shape)))
        return longest


def _computations(text: str) -> dict[str, tuple[Operation, ...]]:
    found: dict[str, list[Operation]] = {}
    current: list[Operation] = []
    for raw in text.splitlines():
        line = _COMMENT.sub("", raw)
        if named := _NAMED.match(line):
            current = found.setdefault("" if line.startswith("ENTRY") else named.group(1), [])
        elif matched := _LINE.match(line):
            name, shape, kind, rest = matched.groups()
            operands, _, attributes = rest.partition(")")
            called = re.search(r'custom_call_target="([^"]+)"', attributes)
            # A parameter has its number in the place of operands.
            names = (operands,) if kind == "parameter" else tuple(re.findall(r"%([\w.\-]+)", operands))
            current.append(Operation(name, shape, called.group(1) if called else kind, names, attributes))
    return {name: tuple(operations) for name, operations in found.items()}


def _kernels(computations: Mapping[str, tuple[Operation, ...]], name: str, times: int) -> Iterator[Kernel]:
    operations = computations.get(name, ())
    shapes = {one.name: one.shape for one in operations}
    for one in operations:
        if one.kind in _FREE:
            continue
        inner = _inner(computations, one, times)
        if inner is not None:
            yield from inner
            continue
        yield Kernel(_kind(one), one.shape, _moved(computations, one, shapes), times, _window(one))


def _moved(computations: Mapping[str, tuple[Operation, ...]], one: Operation, shapes: Mapping[str, str]) -> int:
    """Bytes that a kernel reads and writes."""
    if one.kind in _SLICES:
        return 2 * size_of(one.shape)
    if one.kind == "dynamic-update-slice":
        return 2 * size_of(shapes.get(one.operands[1], ""))
    read = [size_of(shapes.get(operand, "")) for operand in one.operands]
    inside = computations.get(_attribute(one, "calls"), ()) if one.kind == "fusion" else ()
    users: dict[str, list[Operation]] = defaultdict(list)
    known: dict[str, float] = {}
    for inner in inside:
        for operand in inner.operands:
            users[operand].append(inner)
    for inner in inside:
        if inner.kind == "parameter":
            number = int(inner.operands[0])
            read[number] = round(_share_read(inner, users, known) * read[number])
    changes = [inner for inner in inside if inner.kind == "dynamic-update-slice" and _is_result(inner, users)]
    within = {inner.name: inner.shape for inner in inside}
    spared = sum(size_of(change.shape) - size_of(within.get(change.operands[1], "")) for change in changes)
    return max(0, size_of(one.shape) - spared) + sum(read)


def _share_read(given: Operation, users: Mapping[str, Sequence[Operation]], known: dict[str, float]) -> float:
    """The share of an array's elements that a fusion needs: a slice needs its own, what is changed in place none."""
    if given.name not in known:
        share, elements = 0.0 if users.get(given.name) else 1.0, _elements(given.shape)
        for user in users.get(given.name, ()):
            within = 1.0
            if user.kind in _SLICES and user.operands[0] == given.name:
                within = _elements(user.shape) / max(1, elements)
            elif user.kind == "dynamic-update-slice" and user.operands[0] == given.name and _is_result(user, users):
                within = 0.0
            share += within * _share_read(user, users, known)
        known[given.name] = min(1.0, share)
    return known[given.name]


def _is_result(one: Operation, users: Mapping[str, Sequence[Operation]]) -> bool:
    """Whether nothing in a fusion reads it further."""
    return all(user.kind in ("bitcast", "tuple") and _is_result(user, users) for user in users.get(one.name, ()))


def _inner(computations: Mapping[str, tuple[Operation, ...]], one: Operation, times: int) -> list[Kernel] | None:
    """The kernels of a loop's body, of a branch or of what is called; None for an operation that is a kernel."""
    if one.kind == "while":
        trips = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', one.text)
        body = _attribute(one, "body")
        return list(_kernels(computations, body, times * int(trips.group(1) if trips else 1)))
    if one.kind == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", one.text)
        names = re.findall(r"%([\w.\-]+)", branches.group(1)) if branches else []
        names = names or [_attribute(one, "true_computation"), _attribute(one, "false_computation")]
        each = [list(_kernels(computations, name, times)) for name in names]
        return max(each, key=lambda kernels: sum(k.moved_bytes * k.launches for k in kernels))
    if one.kind == "call":
        return list(_kernels(computations, _attribute(one, "to_apply"), times))
    return None


def _attribute(one: Operation, name: str) -> str:
    found = re.search(rf"{name}=%([\w.\-]+)", one.text)
    return found.group(1) if found else "?"


def _kind(one: Operation) -> str:
    called = _attribute(one, "calls") if one.kind == "fusion" else one.kind
    return "transpose" if "transpose" in called else one.kind


def _window(one: Operation) -> int:
    found = re.search(r"window=\{size=([0-9x]+)", one.text)
    return max(map(int, found.group(1).split("x"))) if found and "onv" in one.kind else 0


def _elements(shape: str) -> int:
    """Elements of the first array of a shape."""
    found = _ARRAY.search(shape)
    return math.prod(int(side) for side in found.group(2).split(",") if side) if found else 0


def size_of(shape: str) -> int:
    """Returns the bytes of all arrays of a shape, as XLA prints it."""
    total = 0
    for kind, sides in _ARRAY.findall(shape):
        total += _BITS.get(kind, 0) * math.prod(int(side) for side in sides.split(",") if side) // 8
    return total
