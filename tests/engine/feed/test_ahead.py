"""Batches ahead are those of the stream, and a step is compiled once for all of them."""

import threading
import time

import jax
import numpy as np
import pytest

from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.feed.ahead import AHEAD, Ahead
from jaxfuse.engine.programs import Programs
from tests.tiny_systems import same, valid_system

HERE = one_device()


class Numbers:
    """Batches 0 to `count` - 1, the last of them an error where there is one."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.given, self.count, self.error, self.closed = 0, count, error, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.count:
            raise self.error or StopIteration
        self.given += 1
        return {"image": np.full((2, 3), self.given - 1, np.float32), "label": np.full(2, self.given, np.uint8)}

    def close(self) -> None:
        self.closed = True


def feeders() -> int:
    return sum(thread.name == "feed" for thread in threading.enumerate())


def test_batches_come_in_order_on_the_device_as_they_are_and_only_so_many_ahead():
    stream = Numbers(9)
    feed = Ahead(stream, HERE.put)
    for number in range(4):
        batch = next(feed)
        assert all(leaf.committed and leaf.sharding == HERE.batch for leaf in jax.tree.leaves(batch))
        assert batch["label"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"], np.full((2, 3), number))
        time.sleep(0.01)
        assert stream.given <= number + 1 + AHEAD
    feed.close()
    assert (stream.closed, feeders()) == (True, 0)


def test_the_end_and_an_error_come_where_their_batch_would_and_again():
    for error, kind in ((None, StopIteration), (OSError("gone"), OSError)):
        feed = Ahead(Numbers(3, error), HERE.put)
        assert [float(next(feed)["image"][0, 0]) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(kind):
                next(feed)
        feed.close()
    refused = Ahead(Numbers(3), lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(refused)
    refused.close()
    assert feeders() == 0


def test_a_step_is_compiled_once_for_fresh_states_and_its_own():
    programs = Programs(valid_system(2, ndim=3, channels=(0, 1)))
    batch = {"image": np.ones((1, 9, 9, 9, 2), np.float32), "label": np.ones((1, 5, 5, 5), np.uint8)}
    state = programs.placement.keep(programs.init(jax.random.key(0), batch))
    feed = Ahead(iter([batch] * 3), programs.placement.put)
    losses = []
    for given in feed:
        state, metrics = programs.step(state, given)
        losses += [metrics.rows()[0]["net/loss"]]
    feed.close()
    assert programs.step._cache_size() == 1
    assert len(set(losses)) == 3
    wide = {**batch, "label": batch["label"].astype(np.int32)}
    (one, _), (other, _) = (programs.step(programs.init(jax.random.key(0), batch), made) for made in (batch, wide))
    same(one.params, other.params)
