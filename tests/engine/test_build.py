"""Phases and samplers of networks that lose a margin."""

from dataclasses import replace

import jax
import numpy as np

from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXIAL
from jaxfuse.engine.build import abstract_state, build_system, example_batch, make_sampler
from jaxfuse.engine.trained.passes import PATCHES, way_of
from jaxfuse.learning.system import Geometry
from tests.engine.valid_phases import CLASSES, MODALITIES, TINY, valid_phase
from tests.refusals import refused
from tests.tiny_systems import valid_system


def test_labels_of_a_batch_are_smaller_by_the_margin_and_patches_and_limits_must_fit():
    phase = valid_phase(patch=(9, 11, 13))
    batch = example_batch(phase, MODALITIES, margin=2)
    assert jax.tree.map(np.shape, batch) == {"image": (2, 9, 11, 13, 2), "label": (2, 5, 7, 9)}
    system = build_system(phase, MODALITIES, CLASSES, 4)
    state = abstract_state(system, phase, MODALITIES)
    after, _ = jax.eval_shape(system.train_step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    told = r"patch is \(9, 9, 4\); the network's valid convolutions take 2 voxels"
    refused(told, build_system, valid_phase(patch=(9, 9, 4)), MODALITIES, CLASSES, 4)
    padded = replace(valid_system(2), geometry=Geometry(3, 1))
    limited = valid_phase(memory_mb=64)
    told = f"memory_mb is 64, but the network of phase {TINY.name} has no valid conv"
    refused(told, way_of, PATCHES, limited, padded, AXIAL)


def test_batches_have_the_margin_around_their_labels(labeled, healthy):
    phase = valid_phase(patch=(8, 8, 8), sampling=sampling_rule("foreground", {"grid": 2}), validation={"cases": 1})
    system = build_system(phase, MODALITIES, CLASSES, 4)
    sampler = make_sampler(phase, system, labeled, seed=0)
    batch = sampler.batch([sampler.draw(0, np.random.default_rng(0))])
    assert (batch["image"].shape, batch["label"].shape) == ((1, 8, 8, 8, 2), (1, 4, 4, 4))
    assert batch["label"].any()
    told = f"phase {TINY.name}: case healthy has no labeled voxel"
    refused(told, make_sampler, phase, system, [*labeled, healthy], seed=0)
    everywhere = replace(phase, sampling=sampling_rule("foreground"))
    told = f"phase {TINY.name}: the grid of windows is 5; .* choose 1 to 4"
    refused(told, make_sampler, everywhere, system, labeled, seed=0)
