"""Which cases are looked at while a phase trains, and volumes from networks that lose a margin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.prepared import CachedCase, Prepared, PreparedCase
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES
from jaxfuse.engine.build import (
    abstract_state,
    build_system,
    case_predictor,
    example_batch,
    fixed_batches,
    make_sampler,
    spread,
    validation_interval,
)
from jaxfuse.errors import UserError
from jaxfuse.learning.system import Geometry, Segmentation
from tests.tiny_systems import valid_system


def case(number: int) -> PreparedCase:
    empty = {"affine": (), "voxels_per_class": (), "mean": (), "std": ()}
    place = {"spacing_mm": (1.0, 1.0), "original_shape": (4, 4), "crop_start": (0, 0), "shape": (4, 4)}
    return CachedCase(Path("nowhere"), "", CaseFacts(id=str(number), group="", modalities=("t1",), **empty, **place))


@pytest.mark.parametrize(
    ("cases", "count", "chosen"),
    [(9, 1, [4]), (9, 3, [1, 4, 7]), (10, 2, [2, 7]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (1, 1, [0])],
)
def test_watched_cases_are_spread_over_the_list(cases, count, chosen):
    assert [one.id for one in spread([case(i) for i in range(cases)], count)] == [str(i) for i in chosen]


# --- networks of valid convolutions -----------------------------------------------------------------------------

MODALITIES = ("t1", "t2")
(TINY, *_) = parse(cmff.get_config("tiny")).phases.values()


def valid_phase(layers=2, *, patch=(9, 9, 9), memory_mb=0, **changes):
    """A phase that builds a network of margin `layers`."""
    system = valid_system(layers, ndim=len(patch), channels=(0, 1))
    options = {"overlap": 0.0, "tile_batch": 3, "memory_mb": memory_mb, **changes.pop("validation", {})}
    plain = {
        "batch": 2,
        "unpaired": False,
        "sampling": sampling_rule("brain"),
        "augment": {},
        "pad": False,
        "labeled": True,
    }
    return replace(
        TINY,
        build=lambda modalities, classes, total, voxels=(): system,
        patch=patch,
        validation=replace(TINY.validation, **options),
        **{**plain, **changes},
    )


def drawn(phase):
    """The System of a phase, and weights of it."""
    system = build_system(phase, MODALITIES, ("background", "tissue"), 4)
    batch = example_batch(phase, MODALITIES, margin=system.geometry.margin)
    return system, system.init(jax.random.key(3), jax.tree.map(jnp.asarray, batch)).replace(opt_state={}, memory={})


def volume(shape=(20, 3, 11), seed=0):
    """A prepared volume in memory, one side of it shorter than any window."""
    image = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    facts = replace(case(0).facts, modalities=MODALITIES, original_shape=shape, crop_start=(0,) * 3, shape=shape)
    brain = np.arange(image[..., 0].size, dtype=np.int32)
    return Prepared(facts, image, None, np.zeros(0, np.int32), brain)


def on_disk(folder, name, label):
    """A prepared case of this label, as it lies in a cache."""
    (folder / name).mkdir()
    facts = replace(volume(label.shape).facts, id=name, voxels_per_class=tuple(np.bincount(label.ravel()).tolist()))
    arrays = {"image": volume(label.shape).image, "label": label}
    arrays |= {"tumor": np.flatnonzero(label), "brain": np.arange(label.size)}
    for kind, array in arrays.items():
        np.save(folder / name / f"{kind}.npy", array)
    return CachedCase(folder / name, name, facts)


@pytest.fixture
def labeled(tmp_path):
    """Two cases with a labeled voxel."""
    label = np.zeros((2, 12, 10, 9), np.uint8)
    label[0, 3, 7, 2] = label[1, 11, 0, 4] = 1
    return [on_disk(tmp_path, f"case{i}", one) for i, one in enumerate(label)]


@pytest.fixture
def healthy(tmp_path):
    return on_disk(tmp_path, "healthy", np.zeros((12, 10, 9), np.uint8))


def test_labels_of_a_batch_are_smaller_by_the_margin():
    phase = valid_phase(patch=(9, 11, 13))
    assert jax.tree.map(np.shape, example_batch(phase, MODALITIES, margin=2)) == {
        "image": (2, 9, 11, 13, 2),
        "label": (2, 5, 7, 9),
    }
    system = build_system(phase, MODALITIES, ("background", "tissue"), 4)
    state = abstract_state(system, phase, MODALITIES)
    after, _ = jax.eval_shape(system.train_step, state, example_batch(phase, MODALITIES, margin=2))
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_patch_that_the_margin_eats_is_refused():
    with pytest.raises(UserError, match=r"patch is \(9, 9, 4\); the network's valid convolutions take 2 voxels"):
        build_system(valid_phase(patch=(9, 9, 4)), MODALITIES, ("background", "tissue"), 4)


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


@pytest.mark.parametrize("without_label", [False, True])
def test_validation_batches_show_labeled_windows_where_every_case_has_one(labeled, healthy, without_label):
    phase = valid_phase(patch=(8, 8, 8), batch=4, sampling=sampling_rule("foreground", {"grid": 1}))
    cases = [*labeled, healthy] if without_label else labeled
    fixed = fixed_batches(phase, cases, seed=1, margin=3)
    assert [batch["label"].shape for batch in fixed] == [(4, 2, 2, 2)] * len(cases)
    held = [batch["label"].any((1, 2, 3)).all() for batch in fixed]
    assert all(held) != without_label


def test_a_pass_over_the_validation_cases_counts_the_windows_of_the_output():
    phase = valid_phase(patch=(8, 8, 8), batch=1, validation={"every": 1})
    one = replace(case(0), facts=replace(case(0).facts, original_shape=(8, 8, 8), shape=(8, 8, 8)))
    # One tile, a third of a step, in a tenth of the time; and eight of them.
    assert validation_interval(phase, [one], margin=0) == 4
    assert validation_interval(phase, [one], margin=2) == 27


def test_larger_tiles_change_no_answer():
    case, outputs = volume(), []
    for memory_mb in (0, 1, 100):
        system, weights = drawn(valid_phase(memory_mb=memory_mb))
        seen = []
        predict = case_predictor(_noting(system, seen), valid_phase(memory_mb=memory_mb))
        (values,) = predict(weights, case).values()
        outputs.append((set(seen), values))
    padded = np.pad(case.image, [(2, 2)] * 3 + [(0, 0)])[None]
    expected = system.predict(weights, {"image": jnp.asarray(padded)})["valid"][0]
    for _, values in outputs:
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert outputs[0][0] == {(3, 9, 9, 9, 2)}
    assert (3, 24, 7, 15, 2) in outputs[2][0]  # one tile


def test_a_limit_of_memory_given_later_replaces_that_of_the_phase():
    phase = valid_phase()
    system, weights = drawn(phase)
    seen = []
    case_predictor(_noting(system, seen), phase, memory_mb=100)(weights, volume())
    assert (3, 24, 7, 15, 2) in seen


def test_what_is_made_of_tiles_is_put_together_as_outputs_are_where_it_is_asked_for():
    system, weights = drawn(valid_phase())
    predict, case = case_predictor(system, valid_phase()), volume()

    def alongside(tiles, outputs):
        assert tiles["image"].shape[1:4] == (9, 9, 9)
        return {"doubled": 2 * np.asarray(outputs["valid"])}

    with_more = predict(weights, case, alongside=alongside)
    plain = predict(weights, case)
    assert (set(with_more), set(plain)) == ({"valid", "doubled"}, {"valid"})
    np.testing.assert_allclose(with_more["doubled"], 2 * plain["valid"], rtol=1e-6)


def _noting(system, seen):
    """The System, noting what its prediction is traced with."""

    class Noting(Segmentation):
        def predict(self, state, inputs):
            seen.append(inputs["image"].shape)
            return super().predict(state, inputs)

    return Noting(**vars(system))


def test_a_limit_of_memory_is_refused_where_the_tile_is_the_patch():
    phase = valid_phase(memory_mb=64)
    padded = replace(valid_system(2), geometry=Geometry(3, 1))
    phase = replace(phase, build=lambda modalities, classes, total, voxels=(): padded)
    with pytest.raises(UserError, match=f"memory_mb is 64, but the network of phase {TINY.name} has no valid conv"):
        build_system(phase, MODALITIES, ("background", "tissue"), 4)


@pytest.mark.parametrize(("axis", "memory_mb"), [("axial", 0), ("coronal", 1), ("sagittal", 0)])
def test_a_network_of_slices_goes_along_its_axis(axis, memory_mb):
    case, across = volume((6, 9, 7)), AXES[axis]
    phase = valid_phase(3, patch=(13, 11), memory_mb=memory_mb)
    system, weights = drawn(phase)
    (made,) = case_predictor(system, phase, axis=across)(weights, case).values()
    # The slice by hand: columns and rows, both from their far ends.
    picture = np.take(case.image, 2, axis=across).swapaxes(0, 1)[::-1, ::-1]
    padded = np.pad(picture, [(3, 3), (3, 3), (0, 0)])[None]
    expected = np.asarray(system.predict(weights, {"image": jnp.asarray(padded)})["valid"][0])
    np.testing.assert_allclose(np.take(made, 2, axis=across), expected[::-1, ::-1].swapaxes(0, 1), atol=1e-5)


def test_whole_pictures_lie_in_the_middle_as_they_did_in_training():
    """A network that answers, for every pixel, where in the patch it lies."""
    phase = valid_phase(1, patch=(9, 10), sampling=sampling_rule("whole"), pad=True)

    class Place(Segmentation):
        def predict(self, state, inputs):
            b, h, w, _ = inputs["image"].shape
            place = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), -1).astype(jnp.float32)
            return {"place": jnp.broadcast_to(place, (b, h, w, 2))[:, 1:-1, 1:-1]}

    system, weights = drawn(phase)
    (made,) = case_predictor(Place(**vars(system)), phase)(weights, volume((6, 5, 2))).values()
    places = {tuple(place.tolist()) for place in made.reshape(-1, 2)}
    # Pictures of 5 rows and 6 columns in patches of 9 x 10.
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 8)}
