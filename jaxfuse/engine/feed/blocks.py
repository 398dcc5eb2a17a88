"""Steps in blocks: how many one call carries out, so that none is due in between what the loop does after a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from jaxfuse.engine.feed.windows import block_of
from jaxfuse.engine.loop import close_stream
from jaxfuse.errors import UserError

_MOST = 8


def block_length(total: int, every: Sequence[int]) -> int:
    """Returns the most steps, up to 8, that part a training evenly, and all the intervals of what is due in it."""
    common = math.gcd(total, *every)
    return max(steps for steps in range(1, _MOST + 1) if common % steps == 0)


def checked_length(asked: int, total: int, every: Sequence[int], *, resident: bool, backend: str) -> int:
    """Returns the steps of a block that a config asks for.

    0 asks for `block_length` where data lie on an accelerator. A CPU gains nothing: its steps are long.

    Raises:
        UserError: blocks are asked for, and batches come from the host.
    """
    if asked > 1 and not resident:
        raise UserError(
            f"loader.steps_per_call is {asked}, but batches come from the host, which makes one at a time; set "
            "loader.on_device to on, or steps_per_call to 1"
        )
    return asked or (block_length(total, every) if resident and backend != "cpu" else 1)


def in_blocks(stream: Iterator[Any], *, length: int, start: int, total: int, every: Sequence[int]) -> Iterator[Any]:
    """Yields the batches of `length` steps as one `Block`, and single ones where something is due before its end.

    Args:
        every: intervals in steps at whose ends something is due; 0: never.
    """
    step = start
    try:
        while step < total:
            due = min(total, *((step // one + 1) * one for one in every if one))
            steps = length if due - step >= length else 1
            yield next(stream) if steps == 1 else block_of([next(stream) for _ in range(steps)])
            step += steps
    finally:
        close_stream(stream)
