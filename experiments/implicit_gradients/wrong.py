"""One problem that a route to its hypergradient is asked about: does it say so if the answer is wrong?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        name: as the table has it.
        double: whether it is posed in float64.
        problem: () -> (upper, lower, x, y), or (row) -> these if there are rows.
        exact: the hypergradient; None where none exists.
        tolerance, steps: what every CG is told; None: the usual.
        rows: a batch; the route is called inside `vmap` over it.
        mixed: whether some leaves are float32 though it is posed in float64: the usual tolerance is theirs.
    """

    name: str
    double: bool
    problem: Callable[..., tuple[Any, Any, Any, Any]]
    exact: Any = None
    tolerance: float | None = None
    steps: int | None = None
    rows: Any = None
    mixed: bool = False

    @property
    def fine(self) -> bool:
        return self.double and not self.mixed
