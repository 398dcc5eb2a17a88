"""Batches from draws: what is copied where, mirrored, and whose memory is used again."""

import pickle
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxfuse.data.assembly import Assembly, Buffers
from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.sampling import Draw, sampling_rule
from tests.refusals import refused


def _assembly(cases, **changes):
    options = {"patch": (6, 4, 4), "margin": 1, "label_margin": 1, "labels": True, "buffers": Buffers()} | changes
    return Assembly(cases, **options)


def test_a_batch_holds_images_and_labels_and_nothing_else(random_cases):
    draws = [Draw(0, (7, 1, 2)), Draw(2, (7, 1, 2)), Draw(0, (0, 0, 0))]
    batch = _assembly(random_cases.train).batch(draws)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        "image": ((3, 6, 4, 4, 2), np.float32),
        "label": ((3, 4, 2, 2), np.uint8),
    }
    assert sum(leaf.nbytes for leaf in batch.values()) == 3 * (6 * 4 * 4 * 2 * 4 + 4 * 2 * 2)
    for place, draw in enumerate(draws[:2]):
        case = random_cases.train[draw.case]
        np.testing.assert_array_equal(batch["image"][place], np.pad(case.image, 1)[7:13, 1:5, 2:6, 1:-1])
        np.testing.assert_array_equal(batch["label"][place], case.label[7:11, 1:3, 2:4])
    # The margin of a window at the corner lies outside.
    assert not batch["image"][2, 0].any()
    assert batch["image"][2, 1:, 1:, 1:].all()


def test_batches_tell_the_presence_of_their_examples_where_a_case_lacks_a_modality(random_cases):
    first, *others = random_cases.train
    cases = (replace(first, facts=replace(first.facts, presence=(True, False))), *others)
    sampler = PatchSampler(cases, (6, 4, 4), sampling_rule("brain").center, 0.0, unpaired=False)
    batch = sampler.batch([Draw(1, (0, 0, 0)), Draw(0, (0, 0, 0))])
    np.testing.assert_array_equal(batch["presence"], [[True, True], [True, False]])
    whole = PatchSampler(random_cases.train, (6, 4, 4), sampling_rule("brain").center, 0.0, unpaired=False)
    assert set(whole.batch([Draw(0, (0, 0, 0))])) == {"image", "label"}


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1, 2)])
def test_mirroring_mirrors_image_and_label_alike_also_where_a_patch_leaves_its_case(random_cases, axes):
    assembly = _assembly(random_cases.train)
    for start in ((6, 1, 1), (-2, 0, 7)):
        plain, mirrored = (assembly.batch([Draw(1, start, chosen)]) for chosen in ((), axes))
        for name in ("image", "label"):
            np.testing.assert_array_equal(mirrored[name][0], np.flip(plain[name][0], axes))


def test_a_case_without_label_is_refused_where_labels_are_asked_for(random_cases):
    assembly = _assembly((random_cases.bare,))
    refused("case bare has no label, and the phase learns from labels", assembly.batch, [Draw(0, (0, 0, 0))])


def test_memory_is_used_again_only_once_nothing_of_the_array_is_left():
    buffers = Buffers()
    first = buffers.empty((4, 5), np.float32)
    first[:] = 7
    part, address = first[1:3, 2:], first.ctypes.data
    assert address % 64 == 0
    del first
    second = buffers.empty((4, 5), np.float32)
    second[:] = 0
    assert second.ctypes.data != address
    assert (part == 7).all()
    del part
    assert buffers.empty((20,), np.int32).ctypes.data == address
    assert buffers.empty((20,), np.int8).ctypes.data != address
    assert pickle.loads(pickle.dumps(buffers)).empty((3,), np.uint8).shape == (3,)


def test_memory_that_a_device_array_shares_is_not_used_again():
    """On a CPU an aligned array is taken without a copy; the owner of its memory then lives as long as the device's."""
    buffers = Buffers()
    for size in (64, 1 << 16):
        host = buffers.empty((size,), np.float32)
        host[:] = 7
        put, address = jax.device_put(host), host.ctypes.data
        del host
        shared = put.unsafe_buffer_pointer() == address
        other = buffers.empty((size,), np.float32)
        other[:] = 0
        jax.block_until_ready(put)
        assert (np.asarray(put) == 7).all()
        assert not shared or other.ctypes.data != address
