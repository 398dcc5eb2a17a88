"""Blocks of steps come to the state of single ones."""

import jax
import numpy as np
import pytest

from jaxfuse.engine.cost.gpus import GPUS, compiled_for
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.feed.resident import put_cases
from jaxfuse.engine.feed.windows import Block, Places, Windows, block_of, cut_all
from jaxfuse.engine.programs import Programs
from tests.tiny_systems import valid_system


def test_a_block_comes_to_the_state_and_metrics_of_its_steps(sampler):
    programs = Programs(valid_system(1, ndim=2, channels=(0, 1)))
    placement = programs.placement
    given = list(
        put_cases(sampler(2, "mixed", margin=1), placement, lambda *_: None).stream(0, batch=2, seed=1, stop=3)
    )
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


@pytest.mark.h200
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_a_gpu_cuts_a_batch_by_one_kernel_for_images_and_one_for_labels_and_copies_nothing_else():
    """The data set has 28 GB: more values than 32 bits can count."""

    def windows(*steps: int) -> Windows:
        shapes = [(285, 176, 208, 160, 4), (285, 176, 208, 160), (*steps, 1), (*steps, 1, 3)]
        types = (np.float32, np.uint8, np.int32, np.int32)
        images, labels, case, start = map(jax.ShapeDtypeStruct, shapes, types)
        return Windows(images, labels, Places(case, start, None), (64, 64, 64), 1)

    found = CompiledKernels.of(compiled_for(GPUS["h200"], jax.jit(cut_all), windows()))
    assert (found.launches, found.temporary_bytes) == (2, 0)
    programs = Programs(valid_system(1, ndim=3, channels=(0, 1)))
    shapes = {"image": ((1, 64, 64, 64, 4), np.float32), "label": ((1, 62, 62, 62), np.int32)}
    state = programs.abstract_init({name: jax.ShapeDtypeStruct(*one) for name, one in shapes.items()})
    block = CompiledKernels.of(compiled_for(GPUS["h200"], programs.step, state, Block(windows(5))))
    assert block.temporary_bytes < 5e7
