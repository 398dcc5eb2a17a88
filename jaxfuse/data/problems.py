"""Problems of a data set, each with its case and its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fatal", "warning"]
# Stands for the case's id where a problem is one of the whole data set.
ALL_CASES = "(all cases)"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in a clause."""

    case: str
    severity: Severity
    message: str
