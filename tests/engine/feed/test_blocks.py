"""Blocks end where something is due, and batches stay in order."""

import numpy as np
import pytest

from jaxfuse.engine.feed.blocks import block_length, checked_length, in_blocks
from jaxfuse.engine.feed.windows import Block, Places, Windows
from tests.refusals import refused


def places(number: int) -> Windows:
    return Windows(None, None, Places(np.array([number]), np.zeros((1, 2)), None), (1, 1), 0)


@pytest.mark.parametrize(
    ("total", "every", "length"), [(800, (100, 0, 20), 5), (300, (100, 0, 10), 5), (64, (0, 0, 8), 8), (7, (0, 2), 1)]
)
def test_blocks_part_a_training_and_its_intervals_evenly(total, every, length):
    assert block_length(total, every) == length
    for resident, backend, wanted in ((True, "gpu", length), (True, "cpu", 1), (False, "gpu", 1)):
        assert checked_length(0, total, every, resident=resident, backend=backend) == wanted
        if resident:
            assert checked_length(3, total, every, resident=True, backend=backend) == 3


def test_blocks_of_batches_from_the_host_are_refused():
    host = {"resident": False, "backend": "gpu"}
    assert checked_length(1, 8, (), **host) == 1
    refused("loader.steps_per_call is 2, but batches come from the host", checked_length, 2, 8, (), **host)


@pytest.mark.parametrize(
    ("start", "length", "sizes"),
    [(0, 1, [1] * 11), (0, 3, [3, 1, 3, 1, 3]), (2, 3, [1, 1, 3, 1, 3]), (0, 8, [1] * 11), (4, 4, [4, 1, 1, 1])],
)
def test_blocks_end_where_something_is_due(start, length, sizes):
    closed = []

    def stream():
        try:
            yield from map(places, range(start, 11))
        finally:
            closed.append(True)

    found = list(in_blocks(stream(), length=length, start=start, total=11, every=(4, 0)))
    cases = [(one.batch if isinstance(one, Block) else one).places.case for one in found]
    assert [len(case) if isinstance(one, Block) else 1 for one, case in zip(found, cases, strict=True)] == sizes
    assert np.concatenate([case.ravel() for case in cases]).tolist() == list(range(start, 11))
    assert closed == [True]
