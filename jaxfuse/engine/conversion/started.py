"""A training that starts from weights of a file: of a public code, or of another run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxfuse.engine.conversion.arrays import own_arrays, with_arrays
from jaxfuse.engine.conversion.sources import Source, arrays_of, parse_sources
from jaxfuse.errors import UserError
from jaxfuse.learning.state import State
from jaxfuse.weights.matching import listed


def started(state: State, text: str, sources: Sequence[str]) -> tuple[State, str]:
    """Returns a state with the weights that `PHASE.start` names, and a sentence on what was taken.

    Raises:
        UserError: a file cannot be read, holds other weights, or gives what another has given.
    """
    given, told = start_arrays(state, text, sources)
    return with_arrays(state, given), told


def start_arrays(state: State, text: str, sources: Sequence[str]) -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays by name, and the sentence; the state may be one of shapes."""
    own, given, files = own_arrays(state), dict[str, np.ndarray](), parse_sources(text)
    for source in files:
        arrays = arrays_of(source, own, sources)
        if twice := sorted(arrays.keys() & given.keys()):
            raise UserError(f"start names two files that have {listed(twice)}; leave one of them out")
        given |= arrays
    return given, _told(given, list(own), files)


def _told(given: dict[str, np.ndarray], own: Sequence[str], files: Sequence[Source]) -> str:
    values = sum(math.prod(array.shape) for array in given.values())
    drawn = [name for name in own if name not in given]
    rest = f"; {len(drawn)} of {len(own)} arrays stay as they are drawn, {listed(drawn)}" if drawn else ""
    return f"{values:,} values start from {' and '.join(map(str, files))}{rest}"
