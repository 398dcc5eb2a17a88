"""The least bytes that a program moves, and the memory that it takes, counted in its trace: no compiler is asked.

The count is layer by layer. A convolution, a matrix product and a reduction each read their operands and write their
result once. All else fuses: an elementwise value is computed anew wherever it is read, from what lies in memory, unless
writing it moves fewer bytes. What is computed at one point of the program out of the same arrays reads each of them
once. A normalization with its activation so moves 8 maps in training: forward one is read for its moments, one read
and one written; backward two are read for the sums of gradients, two read and one written. Casts are free.

Caches help nothing here, and neither do kernels that keep a map between two layers on the chip.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxfuse.engine.cost.traced_graph import Graph, Operation, graph_of

_REDUCTIONS = {"reduce", "argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod"}
_REDUCTIONS |= {"reduce_sum", "reduce_xor"}
# Operations with kernels of their own. `_own_bytes` counts those in which not all that is named moves.
_LAYERS = {"conv_general_dilated", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "dot_general", "fft"}
_LAYERS |= {"dynamic_update_slice", "gather", "reduce_window", "reduce_window_max", "reduce_window_sum", "scatter"}
_LAYERS |= {"scatter-add", "scatter_add", "select_and_gather_add", "select_and_scatter_add", "sort", "top_k"}
_LAYERS |= {"cholesky", "eigh", "lu", "qr", "svd", "triangular_solve"}
# Primitives of `jaxfuse.nn` begin so: products of two arrays in a form of their own on CPU, and their gradients.
_OWN_LAYERS = ("convolve", "grouped_convolution")
# A kernel reads through these: they say in which order it does.
_ORDERS = {"expand_dims", "reshape", "rev", "squeeze", "transpose"}
_SLICES = {"slice", "dynamic_slice"}
# Fused values that join several arrays, so that it can pay to write them; those of more bytes than this share of all,
# and without trying where more levels than so many read them.
_JOINTS = {"add", "add_any", "concatenate", "sub"}
_SMALL = 1e-5
_MANY = 24
# Arrays of less than this share of the bytes of all values are not counted where fused kernels read them.
_NEGLIGIBLE = 1e-7

# Bytes that a kernel reads, by the array in memory and the part of it.
Reads = Mapping[tuple[int, str], float]


def temporary_bytes(program: ClosedJaxpr | Jaxpr) -> int:
    """Returns the memory of all that lies between a program's arguments and results at the worst moment of a run.

    Operations run in the order of the trace. What a compiler computes anew to save memory is not counted as saved.
    """
    count = _Count(graph_of(program))
    count.write_where_it_pays()
    return count.most_alive()


def least_bytes(program: ClosedJaxpr | Jaxpr) -> int:
    """Returns the least bytes that one run of a traced program reads and writes.

    Of branches the one that moves most counts. A loop counts as often as its trace says; one that ends by a condition
    counts once.
    """
    graph = graph_of(program)
    count = _Count(graph)
    count.write_where_it_pays()
    return round(count.total())


class _Count:
    """Values that lie in memory, the level of each, and the bytes that each level reads.

    A level is the number of layers and reductions that have to run before: what is of one level can be made together.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {output: one for one in graph.operations for output in one.outputs}
        self.level: dict[int, int] = defaultdict(int)
        self.apart = {*graph.inputs}
        self.roots: set[int] = set()
        self.negligible = _NEGLIGIBLE * sum(one.bytes for one in graph.values)
        self._reads: dict[int, dict[int, Reads]] = defaultdict(dict)
        for one in graph.operations:
            own = _is_apart(one)
            self.apart.update(one.outputs if own else ())
            for output in one.outputs:
                self.level[output] = max((self.level[i] for i in one.inputs), default=0) + own
            if own and one.name not in _REDUCTIONS:
                self.roots.update(filter(self._is_fused, map(self.operand, one.inputs)))
        self.roots.update(filter(self._is_fused, graph.outputs))

    def _is_fused(self, value: int) -> bool:
        """Whether it is made by what fuses; literals and the like are made by nothing."""
        return value in self.maker and value not in self.apart

    def operand(self, value: int) -> int:
        """The array in memory that a layer reads for an operand: before changes of its order, and before casts."""
        while self._is_fused(value) and value not in self.roots:
            one, sizes = self.maker[value], self.graph.values
            cast = one.name == "convert_element_type"
            narrow = cast and (sizes[one.inputs[0]].bytes <= sizes[value].bytes or not self._is_fused(one.inputs[0]))
            if not (one.name in _ORDERS or narrow):
                break
            value = one.inputs[0]
        return value

    def reads(self, value: int, level: int) -> Reads:
        """Returns the reads from memory of a kernel of a level that makes a value."""
        in_memory = value not in self.maker or value in self.apart
        if in_memory or (value in self.roots and self.level[value] < level):
            size = float(self.graph.values[value].bytes)
            return {(value, ""): size} if size > self.negligible else {}
        known = self._reads[level]
        if value not in known:
            known[value] = self._gathered(self.maker[value], value, level)
        return known[value]

    def _gathered(self, one: Operation, value: int, level: int) -> Reads:
        found: dict[tuple[int, str], float] = {}
        part, where = 1.0, ""
        if one.name in _SLICES:
            part = self.graph.values[value].elements / max(1, self.graph.values[one.inputs[0]].elements)
            where = f"/{value}"
        for i in one.inputs:
            for (array, told), size in self.reads(i, level).items():
                key = (array, where or told)
                found[key] = max(found.get(key, 0.0), size * part)
        return found

    def kernels(self) -> Iterator[tuple[int, int]]:
        """(value that is read through, level) of every fused kernel: one per value written and per reduced operand."""
        for root in self.roots:
            yield root, self.level[root]
        for one in self.graph.operations:
            if one.name in _REDUCTIONS:
                level = max(self.level[i] for i in one.inputs)
                yield from ((i, level) for i in one.inputs)

    def total(self) -> float:
        """All bytes that are read and written."""
        moved = sum(self._read_at(level, values) for level, values in self._by_level().items())
        moved += sum(self.graph.values[root].bytes for root in self.roots)
        return moved + sum(self._own(one) for one in self.graph.operations if one.outputs[0] in self.apart)

    def most_alive(self) -> int:
        """The most bytes that lie in memory at once, without the program's arguments and results."""
        last, change, results = self._last_reads(), defaultdict(int), set(self.graph.outputs)
        for place, one in enumerate(self.graph.operations):
            for value in set(one.outputs) - results:
                if value in self.apart or value in self.roots:
                    change[place] += self.graph.values[value].bytes
                    change[last.get(value, place) + 1] -= self.graph.values[value].bytes
        return max(itertools.accumulate(change[place] for place in sorted(change)), default=0)

    def _last_reads(self) -> dict[int, int]:
        """The place of the last operation that reads each array in memory."""
        last: dict[int, int] = {}
        for place, one in enumerate(self.graph.operations):
            read = set()
            if one.outputs[0] in self.apart and one.name not in _REDUCTIONS:
                read.update(map(self.operand, one.inputs))
            elif one.outputs[0] in self.apart or one.outputs[0] in self.roots:
                level = max((self.level[i] for i in one.inputs), default=0)
                read.update(array for i in one.inputs for array, _ in self.reads(i, level))
            last.update(dict.fromkeys(read, place))
        return last

    def write_where_it_pays(self) -> None:
        """Writes sums and concatenations that several levels read, one after the other, where fewer bytes move then."""
        kernels, reached, least = self._by_level(), defaultdict(set), _SMALL * self.total()
        for level, values in kernels.items():
            self._mark(level, values, reached)
        joints = [output for one in self.graph.operations if one.name in _JOINTS for output in one.outputs]
        joints = [one for one in joints if one not in self.roots and self.graph.values[one].bytes >= least]
        for value in filter(lambda one: len(reached[one]) > _MANY, joints):  # streams that each layer adds to
            self._write(value, kernels, reached[value])
        for value in filter(lambda one: 1 < len(reached[one]) <= _MANY, joints):
            size, levels = self.graph.values[value].bytes, reached[value]
            before = sum(self._read_at(level, kernels[level]) for level in levels)
            self._write(value, kernels, levels)
            if size + sum(self._read_at(level, kernels[level]) for level in levels) >= before:
                self._write(value, kernels, levels, undo=True)

    def _write(self, value: int, kernels: dict[int, set[int]], levels: set[int], *, undo: bool = False) -> None:
        change = set.discard if undo else set.add
        change(self.roots, value)
        change(kernels[self.level[value]], value)
        for level in {*levels, self.level[value]}:
            self._reads.pop(level, None)
        levels.add(self.level[value])

    def _by_level(self) -> dict[int, set[int]]:
        kernels: dict[int, set[int]] = defaultdict(set)
        for value, level in self.kernels():
            kernels[level].add(value)
        return kernels

    def _read_at(self, level: int, values: Iterable[int]) -> float:
        """Bytes that one level reads: each array once, and of an array that is read in parts no more than all."""
        together: dict[int, dict[str, float]] = defaultdict(dict)
        for value in values:
            for (array, part), size in self.reads(value, level).items():
                together[array][part] = size
        return sum(min(self.graph.values[array].bytes, sum(parts.values())) for array, parts in together.items())

    def _own(self, one: Operation) -> float:
        """Counts the bytes of an operation with a kernel of its own; of a reduction its result."""
        sizes = self.graph.values
        made = float(sum(sizes[i].bytes for i in one.outputs))
        if one.name in _REDUCTIONS:
            return made
        return _own_bytes(one, [float(sizes[self.operand(i)].bytes) for i in one.inputs], made)

    def _mark(self, level: int, values: Iterable[int], reached: dict[int, set[int]]) -> None:
        """Notes every fused value that the kernels of a level make anew."""
        pending = list(values)
        while pending:
            one = pending.pop()
            made = self._is_fused(one) and not (one in self.roots and self.level[one] < level)
            if made and level not in reached[one]:
                reached[one].add(level)
                pending.extend(self.maker[one].inputs)


def _is_apart(one: Operation) -> bool:
    return one.name in _REDUCTIONS | _LAYERS or one.name.startswith(_OWN_LAYERS) or bool(_bodies(one))


def _own_bytes(one: Operation, read: Sequence[float], made: float) -> float:
    """Bytes of an operation with a kernel of its own, given those of its operands and results."""
    if _bodies(one):
        return _of_bodies(one)
    counted: Mapping[str, Callable[[], float]] = {
        # The array that is changed stays where it is.
        "dynamic_update_slice": lambda: 2 * read[1],
        "gather": lambda: 2 * made + sum(read[1:]),
        "scatter": lambda: made + sum(read[1:]),
        "scatter-add": lambda: made + sum(read[1:]),
    }
    return counted.get(one.name, lambda: sum(read) + made)()


def _of_bodies(one: Operation) -> float:
    """Bytes of the loop, the branch or the solver that an operation holds."""
    each = [least_bytes(body) for body in _bodies(one)]
    if one.name == "cond":
        return max(each)
    return one.params["length"] * sum(each) if one.name == "scan" else sum(each)


def _bodies(one: Operation) -> list[Any]:
    """The programs within an operation; the function that a reduction adds by is none."""
    if one.name in _REDUCTIONS or one.name in _LAYERS:
        return []
    if one.name == "custom_linear_solve":
        return [one.params["jaxprs"].solve]
    held = [part for value in one.params.values() for part in (value if isinstance(value, tuple) else (value,))]
    return [part for part in held if isinstance(part, ClosedJaxpr | Jaxpr)]
