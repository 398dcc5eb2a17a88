"""Phases and samplers of networks that lose a margin."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxfuse.data.sampling import sampling_rule
from jaxfuse.engine.build import abstract_state, build_system, example_batch, make_sampler
from jaxfuse.errors import UserError
from jaxfuse.learning.system import Geometry
from tests.engine.valid_phases import CLASSES, MODALITIES, TINY, valid_phase
from tests.tiny_systems import valid_system


def test_labels_of_a_batch_are_smaller_by_the_margin():
    phase = valid_phase(patch=(9, 11, 13))
    batch = example_batch(phase, MODALITIES, margin=2)
    assert jax.tree.map(np.shape, batch) == {"image": (2, 9, 11, 13, 2), "label": (2, 5, 7, 9)}
    system = build_system(phase, MODALITIES, CLASSES, 4)
    state = abstract_state(system, phase, MODALITIES)
    after, _ = jax.eval_shape(system.train_step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_patches_and_limits_that_do_not_fit_the_network_are_refused():
    with pytest.raises(UserError, match=r"patch is \(9, 9, 4\); the network's valid convolutions take 2 voxels"):
        build_system(valid_phase(patch=(9, 9, 4)), MODALITIES, CLASSES, 4)
    padded = replace(valid_system(2), geometry=Geometry(3, 1))
    limited = replace(valid_phase(memory_mb=64), build=lambda modalities, classes, total, voxels=(): padded)
    with pytest.raises(UserError, match=f"memory_mb is 64, but the network of phase {TINY.name} has no valid conv"):
        build_system(limited, MODALITIES, CLASSES, 4)


def test_batches_have_the_margin_around_their_labels(labeled, healthy):
    phase = valid_phase(patch=(8, 8, 8), sampling=sampling_rule("foreground", {"grid": 2}), validation={"cases": 1})
    sampler = make_sampler(phase, labeled, margin=2)
    example = sampler(0, np.random.default_rng(0))
    assert (example["image"].shape, example["label"].shape) == ((8, 8, 8, 2), (4, 4, 4))
    assert example["label"].any()
    with pytest.raises(UserError, match=f"phase {TINY.name}: case healthy has no labeled voxel"):
        make_sampler(phase, [*labeled, healthy], margin=2)
    with pytest.raises(UserError, match=f"phase {TINY.name}: the grid of windows is 5; .* choose 1 to 4"):
        make_sampler(replace(phase, sampling=sampling_rule("foreground")), labeled, margin=2)
