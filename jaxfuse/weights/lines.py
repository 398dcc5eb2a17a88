"""Names of weights as data: which tensor of a public code is which array here, and how it lies there.

A `Part` is one network. Its lines are made for the sizes at hand, from the arrays that the network has here; read from
left to right they take a public state dict to our arrays, from right to left ours to a public one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxfuse.errors import UserError

# What stands for our own names where a table is asked for.
OWN = "jaxfuse"

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ours:
    """A network as it is here.

    Attributes:
        shapes: the sides of all arrays, by their paths below it, such as "encoder_t1/stage_1/layer_1/conv/kernel".
        sources: the modalities that it reads, in its order, where it has networks of their own for them.
    """

    shapes: Mapping[str, Shape]
    sources: Sequence[str] = ()

    def below(self, prefix: str, start: str = "") -> list[str]:
        """Lists the names right below a path that begin so, each once, in the order of the numbers they end in."""
        names = {path.removeprefix(prefix).split("/")[0] for path in self.shapes if path.startswith(prefix)}
        return sorted((name for name in names if name.startswith(start)), key=lambda name: (len(name), name))


@dataclass(frozen=True)
class Form:
    """A layout of one array.

    Attributes:
        read: (theirs, our shape) -> ours; may raise ValueError where it does not fit.
        write: ours -> theirs; None where nothing leads back, as from what a start was averaged or resized to.
    """

    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray] | None = None


def _front(ours: np.ndarray) -> np.ndarray:
    """(*kernel in out) -> (out in *kernel)."""
    return ours.transpose(ours.ndim - 1, ours.ndim - 2, *range(ours.ndim - 2))


def _back(theirs: np.ndarray, shape: Shape) -> np.ndarray:
    """(out in *kernel) -> (*kernel in out)."""
    return theirs.transpose(*range(2, theirs.ndim), 1, 0)


# One number per channel, or whatever lies the same there.
SAME = Form(lambda theirs, shape: theirs, lambda ours: ours)
# Convolutions, grouped ones too: (out in *kernel) there, (*kernel in out) here.
CONV = Form(_back, _front)
# Transposed convolutions: (in out h w) there, (h w in out) here.
TRANSPOSED = Form(lambda theirs, shape: theirs.transpose(2, 3, 0, 1), lambda ours: ours.transpose(2, 3, 0, 1))
# Linear maps: (out in) there, (in out) here, or (1 1 in out) where they are convolutions.
LINEAR = Form(lambda theirs, shape: theirs.T.reshape(shape), lambda ours: ours.reshape(ours.shape[-2:]).T)
# One number per head: (heads 1 1) there, (heads) here.
PER_HEAD = Form(lambda theirs, shape: theirs.reshape(-1), lambda ours: ours.reshape(-1, 1, 1))
# As many values in the same order, in other sides: of files that were written by JAX.
RESHAPED = Form(lambda theirs, shape: theirs.reshape(shape), lambda ours: ours)


@dataclass(frozen=True)
class Line:
    """One tensor.

    Attributes:
        theirs: its name in the public code.
        ours: the path of our array.
        order: where their channels stand among ours along `axis`: `ours[order] = theirs`; None: in the same order.
        share: (number, count) where theirs is one of so many equal shares of ours along the last axis.
    """

    theirs: str
    ours: str
    form: Form = SAME
    order: np.ndarray | None = None
    axis: int = -1
    share: tuple[int, int] = (0, 1)

    def read(self, theirs: np.ndarray, shape: Shape) -> np.ndarray:
        """Returns our array, or its share of it."""
        ours = self.form.read(theirs, self.shape(shape))
        return ours if self.order is None else np.take(ours, np.argsort(self.order), self.axis)

    def write(self, ours: np.ndarray) -> np.ndarray:
        """Returns their tensor.

        Raises:
            UserError: nothing leads back from ours to theirs.
        """
        if self.form.write is None:
            raise UserError(f"{self.theirs} is read as a start and cannot be made of {self.ours}; write our own names")
        number, count = self.share
        own = np.split(ours, count, -1)[number]
        return np.ascontiguousarray(self.form.write(own if self.order is None else np.take(own, self.order, self.axis)))

    def shape(self, shape: Shape) -> Shape:
        """Returns the sides of its share of our array."""
        return (*shape[:-1], shape[-1] // self.share[1])


@dataclass(frozen=True)
class Part:
    """One network of a table.

    Attributes:
        name: by which `convert` calls it, and files of several parts tell theirs.
        at: the path of our arrays below a System's parameters and statistics, the player first.
        lines: the network here -> the lines of all tensors that the public code has of it.
        ignored: patterns of names of theirs that are left out, such as of layers that it never uses.
        settle: what is done to their tensors before they are read by the lines, such as statistics that we keep once.
        partial: whether our network has arrays for which the public code has no name, which stay as they are drawn.
    """

    name: str
    at: str
    lines: Callable[[Ours], Sequence[Line]]
    ignored: tuple[str, ...] = ()
    settle: Callable[[Arrays, Ours], Arrays] | None = None
    partial: bool = False


@dataclass(frozen=True)
class Table:
    """The names of one public code.

    Attributes:
        title: the code, for a person.
        parts: its networks.
        recipe: "config:ARGUMENT,row=NAME" of the recipe whose run such weights make; "" where they make none.
        phase: the phase of the recipe.
        overrides: options of the recipe by which it is the public code's network, and prepares cases as that does.
        written_as: the table by whose names our weights are written instead, where these cannot tell them all;
            `OWN` for our own names.
    """

    title: str
    parts: tuple[Part, ...]
    recipe: str = ""
    phase: str = ""
    overrides: Mapping[str, Any] | None = None
    written_as: str = ""


def conv(theirs: str, ours: str, *, bias: bool = True, form: Form = CONV) -> list[Line]:
    """Lists the lines of a convolution."""
    lines = [Line(f"{theirs}.weight", f"{ours}/kernel", form)]
    return [*lines, Line(f"{theirs}.bias", f"{ours}/bias")] if bias else lines


def norm(theirs: str, ours: str) -> list[Line]:
    """Lists the lines of scale and shift."""
    return [Line(f"{theirs}.weight", f"{ours}/scale"), Line(f"{theirs}.bias", f"{ours}/bias")]


def batch_norm(theirs: str, ours: str) -> list[Line]:
    """Lists the lines of batch normalization with its running statistics."""
    statistics = [("running_mean", "mean"), ("running_var", "var")]
    return norm(theirs, ours) + [Line(f"{theirs}.{there}", f"{ours}/{here}") for there, here in statistics]


# The number of batches that batch normalization has seen: PyTorch keeps it, and nothing of prediction depends on it.
COUNTERS = "*.num_batches_tracked"


def counters(lines: Sequence[Line]) -> Arrays:
    """Returns, for each batch normalization of theirs, its number of batches, 0, which strict loading asks for."""
    ends = ".running_mean"
    names = [line.theirs.removesuffix(ends) for line in lines if line.theirs.endswith(ends)]
    return {f"{name}.num_batches_tracked": np.zeros((), np.int64) for name in names}
