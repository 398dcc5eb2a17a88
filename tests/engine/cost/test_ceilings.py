"""Rates that are measured."""

import pytest

from jaxfuse.engine.cost import ceilings
from jaxfuse.engine.cost.ceilings import best_seconds, product_rate


def test_the_best_round_counts_and_what_goes_before_does_not(monkeypatch):
    ticks = iter([0.0, 8.0, 10.0, 14.0])
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: next(ticks))
    calls = []
    assert best_seconds(lambda: calls.append(0), rounds=2, calls=2) == 2.0
    assert len(calls) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rate_is_the_operations_over_the_seconds(monkeypatch, dtype):
    seen = []

    def timed(run, rounds, calls):
        seen.append((run().dtype, rounds, calls))
        return 0.5

    monkeypatch.setattr(ceilings, "best_seconds", timed)
    assert product_rate(16, dtype, rounds=3, calls=4) == 2 * 16**3 / 0.5
    assert seen == [(dtype, 3, 4)]
