"""Blocks of steps come to the state of single ones."""

import jax
import numpy as np

from jaxfuse.engine.feed.resident import put_cases
from jaxfuse.engine.feed.windows import block_of
from jaxfuse.engine.programs import Programs
from tests.tiny_systems import valid_system


def test_a_block_comes_to_the_state_and_metrics_of_its_steps(sampler):
    programs = Programs(valid_system(1, ndim=2, channels=(0, 1)))
    placement = programs.placement
    given = list(put_cases(sampler(2, "mixed", margin=1), placement).stream(0, batch=2, seed=1, stop=3))
    first = jax.device_get(given[0].batch())

    def fresh():
        return placement.keep(programs.init(jax.random.key(0), first))

    state, rows = fresh(), []
    for batch in given:
        state, measured = programs.step(state, placement.put(batch))
        assert measured.steps == 1
        rows += measured.rows()
    after, block = programs.step(fresh(), placement.put(block_of(given)))
    assert (block.steps, int(after.step)) == (3, 3)
    assert [list(row) for row in block.rows()] == [["net/loss"]] * 3
    np.testing.assert_allclose([row["net/loss"] for row in block.rows()], [row["net/loss"] for row in rows], rtol=1e-6)
    for one, other in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
