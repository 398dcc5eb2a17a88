"""Random numbers: where they lie, and how often."""

import jax
import numpy as np
import pytest

from jaxfuse.augment.draw import around_one, between, happens, settled

KEY = jax.random.key(3)


@pytest.mark.parametrize(("ends", "below"), [((0.7, 1.5), 0.5), ((0.5, 1.0), 1.0), ((1.0, 2.0), 0.0)])
def test_factors_lie_between_their_ends_and_as_often_below_one_as_above(ends, below):
    drawn = np.asarray(around_one(KEY, ends, (4000,)))
    assert ends[0] <= drawn.min() < ends[0] + 0.01 < ends[1] - 0.01 < drawn.max() <= ends[1]
    assert (drawn < 1).mean() == pytest.approx(below, abs=0.03)


def test_what_happens_happens_with_its_probability():
    assert np.asarray(happens(KEY, 0.3, (4000,))).mean() == pytest.approx(0.3, abs=0.03)
    assert not happens(KEY, 0.0, (100,)).any()
    assert happens(KEY, 1.0, (100,)).all()
    assert settled(between(KEY, (2.0, 2.0))) == 2.0
