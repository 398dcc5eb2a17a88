"""The mean of several networks' probabilities, those of slices each along its own axis."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES
from jaxfuse.engine.trained import phases as trained
from jaxfuse.engine.trained.phases import Member, load_members, mean_probabilities
from jaxfuse.errors import UserError
from jaxfuse.labels import label_scheme
from jaxfuse.learning.networks import Stateless
from jaxfuse.learning.state import State
from jaxfuse.learning.system import Geometry, Segmentation
from tests.tiny_systems import valid_system

SHAPE = (5, 8, 6)
MODALITIES = ("t1", "flair")
EXPERIMENT = parse(cmff.get_config("tiny"))
(PHASE, *_) = EXPERIMENT.phases.values()
WEIGHTS = State(jnp.int32(0), jax.random.key(0), {"net": {}}, {"net": {}}, {}, {})


class SumOfPicture:
    """Logits 0 and, everywhere in a picture, the sum of all of its pixels."""

    def init(self, rng, image):
        return {}

    def __call__(self, params, image):
        total = image.sum((1, 2, 3), keepdims=True) * jnp.ones_like(image[..., :1])
        return jnp.concatenate([0 * total, total], -1)


def member(axis, *, modalities=MODALITIES, channel=0):
    """A network that was trained on slices along an axis and reads one of its channels."""
    network = Stateless(SumOfPicture())
    system = Segmentation(network, (channel,), lambda logits, label: logits.sum(), {}, Geometry(2, 1), "S")
    phase = replace(PHASE, patch=(8, 8), sampling=sampling_rule("whole"))
    data = replace(EXPERIMENT.data, axis=axis, modalities=modalities)
    return Member(axis, system, phase, data, label_scheme("brats"), WEIGHTS)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.2, (*SHAPE, 2)).astype(np.float32)
    empty = {"affine": (), "voxels_per_class": (), "mean": (), "std": ()}
    place = {"original_shape": SHAPE, "crop_start": (0, 0, 0), "shape": SHAPE}
    facts = CaseFacts(id="case", group="", modalities=MODALITIES, spacing_mm=(1.0, 1.0, 1.0), **empty, **place)
    return Prepared(facts, image, None, np.zeros(0, np.int32), np.arange(np.prod(SHAPE), dtype=np.int32))


def probability(case, axis, channel=0):
    """Of the second class, for the network above: by hand."""
    across = AXES[axis]
    total = case.image[..., channel].sum(tuple(i for i in range(3) if i != across), keepdims=True)
    return np.broadcast_to(1 / (1 + np.exp(-total)), SHAPE)


VIEWS = [chosen for count in (1, 2, 3) for chosen in itertools.combinations(sorted(AXES), count)]


@pytest.mark.parametrize("views", VIEWS, ids="+".join)
def test_any_views_are_averaged_with_equal_weight(case, views):
    predicted = mean_probabilities([member(axis) for axis in views], overlap=None)(case)
    expected = np.mean([probability(case, axis) for axis in views], axis=0)
    np.testing.assert_allclose(predicted[..., 1], expected, atol=1e-6)
    np.testing.assert_allclose(predicted.sum(-1), 1, atol=1e-6)
    assert np.ptp(expected) > 0.1


def test_each_view_reads_its_modalities_in_its_order(case):
    two = [member("axial"), member("coronal", modalities=MODALITIES[::-1])]
    expected = (probability(case, "axial", 0) + probability(case, "coronal", 1)) / 2
    np.testing.assert_allclose(mean_probabilities(two, overlap=None)(case)[..., 1], expected, atol=1e-6)


def test_a_limit_of_memory_is_for_the_members_whose_tiles_it_changes(case):
    valid = valid_system(2, ndim=2)
    batch = {"image": jnp.zeros((1, 8, 8, 1)), "label": jnp.zeros((1, 4, 4), jnp.int32)}
    weights = valid.init(jax.random.key(0), batch).replace(opt_state={})
    other = replace(member("axial"), system=valid, weights=weights)
    both = [member("coronal"), other]
    smaller, larger = (mean_probabilities(both, overlap=None, memory_mb=limit)(case) for limit in (None, 50))
    np.testing.assert_allclose(smaller, larger, atol=1e-6)
    with pytest.raises(UserError, match="memory_mb is 50, but no network of coronal, axial has valid convolutions"):
        mean_probabilities([member("coronal"), member("axial")], overlap=None, memory_mb=50)


def test_runs_that_prepare_cases_in_other_ways_are_not_averaged(monkeypatch):
    def load(*changed):
        found = {f"run{i}": replace(member("axial"), name=f"run{i}", **changes) for i, changes in enumerate(changed)}
        monkeypatch.setattr(trained, "_of_run", lambda folder, phase, best: [found[folder.name]])
        return load_members([*found])

    def shown(axis="axial", **options):
        return {"data": replace(member(axis).data, **options)}

    first, second = {"t1": (0.5, 1.0)}, {"t1": (0.4, 1.0)}
    assert len(load({"landmarks": first}, {"landmarks": first})) == 2
    assert len(load(shown("axial"), shown("coronal"))) == 2
    window = ((0, 4), (0, 4))
    assert len(load(shown(window=window), shown(window=window))) == 2
    for changes in (
        ({"landmarks": first}, {"landmarks": second}),
        (shown(window=window), shown()),
        (shown(window=window), shown("coronal", window=window)),
        (shown(), shown(blank_slices=True)),
    ):
        with pytest.raises(UserError, match="run0 and run1 cannot be averaged: their intensities are matched to other"):
            load(*changes)
