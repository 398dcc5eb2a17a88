"""The mean of several networks' probabilities, those of slices each along its own axis; which may be averaged."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.segmenter import check_labels, ensemble_of
from jaxfuse.labels import label_scheme
from jaxfuse.learning.system import Geometry
from tests.engine.valid_phases import MODALITIES, TINY, volume
from tests.refusals import refused
from tests.tiny_systems import valid_system
from tests.untrained_run import fixed_system, held, state_of, sum_of_picture

SHAPE = (5, 8, 6)
DATA = parse(cmff.get_config("tiny")).data


def segmenter(axis, *, channel=0, landmarks=None, name="", scheme="brats", **data):
    """A network that was trained on slices along an axis and reads one of its channels."""
    system = fixed_system(Geometry(2, 1), "S", sum_of_picture, channels=(channel,))
    phase = replace(TINY, patch=(8, 8), sampling=sampling_rule("whole"))
    given = replace(DATA, source="slices", axis=axis, **{"modalities": MODALITIES, **data})
    made = held(name or axis, system, phase, given, state_of(), landmarks=landmarks)
    return replace(made, facts=replace(made.facts, scheme=scheme))


@pytest.fixture(scope="module")
def case():
    made = volume(SHAPE)
    return replace(made, image=0.2 * made.image)


def probability(case, axis, channel=0):
    """The probability of the second class by the network above, by hand."""
    total = case.image[..., channel].sum(tuple({0, 1, 2} - {AXES[axis]}), keepdims=True)
    return np.broadcast_to(1 / (1 + np.exp(-total)), SHAPE)


def test_any_views_are_averaged_with_equal_weight(case):
    for views in (chosen for count in (1, 2, 3) for chosen in itertools.combinations(sorted(AXES), count)):
        predicted = ensemble_of([segmenter(axis) for axis in views]).probabilities(case)
        expected = np.mean([probability(case, axis) for axis in views], axis=0)
        np.testing.assert_allclose(predicted[..., 1], expected, atol=1e-6)
    # Each view is given its own order of modalities.
    two = [segmenter("axial"), segmenter("coronal", modalities=MODALITIES[::-1])]
    expected = (probability(case, "axial", 0) + probability(case, "coronal", 1)) / 2
    np.testing.assert_allclose(ensemble_of(two).probabilities(case)[..., 1], expected, atol=1e-6)


def test_a_limit_of_memory_is_for_the_networks_whose_tiles_it_changes(case):
    valid = valid_system(2, ndim=2)
    batch = {"image": jnp.zeros((1, 8, 8, 1)), "label": jnp.zeros((1, 4, 4), jnp.int32)}
    weights = valid.init(jax.random.key(0), batch).replace(opt_state={})
    both = [segmenter("coronal"), replace(segmenter("axial"), system=valid, state=weights)]
    smaller, larger = (ensemble_of(both, passes=Passes(memory_mb=limit)).probabilities(case) for limit in (None, 50))
    np.testing.assert_allclose(smaller, larger, atol=1e-6)
    told = "memory_mb is 50, but no network of coronal, axial has valid convolutions"
    refused(told, ensemble_of, [segmenter("coronal"), segmenter("axial")], passes=Passes(memory_mb=50))


def test_folds_of_one_data_set_are_averaged_whatever_cases_trained_them():
    folds = [segmenter("axial", name=f"fold{k}") for k in range(3)]
    folds = [
        replace(
            one,
            facts=replace(one.facts, train=(f"case{k}",), val=("a", "b"), voxels_per_class=(k, 1)),
            preparation=replace(one.preparation, spacing_mm=(1.0 + k,) * 3, spacing_range_mm=((1.0, 2.0 + k),) * 3),
        )
        for k, one in enumerate(folds)
    ]
    assert check_labels(folds) == label_scheme("brats")


WINDOW = {"window": ((0, 4), (0, 4))}
LANDMARKS, OTHER_LANDMARKS = ({"landmarks": {"t1": (low, 1.0)}} for low in (0.5, 0.4))
OTHER_INTENSITIES = "their intensities are matched to other landmarks, or their slices show other windows; predict"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (LANDMARKS, LANDMARKS, ""),
        ({}, {"axis": "coronal"}, ""),
        (WINDOW, WINDOW, ""),
        (LANDMARKS, OTHER_LANDMARKS, OTHER_INTENSITIES),
        (WINDOW, {}, OTHER_INTENSITIES),
        (WINDOW, {"axis": "coronal", **WINDOW}, OTHER_INTENSITIES),
        ({}, {"blank_slices": True}, OTHER_INTENSITIES),
        ({}, {"modalities": ("t1", "flair")}, "they read the modalities t1, t2 and t1, flair; predict with each alone"),
        ({}, {"scheme": "brats2023"}, "label schemes brats and brats2023"),
        ({}, {"normalize": "minmax"}, "label schemes brats and brats, normalization brain and minmax"),
    ],
    ids=str,
)
def test_runs_are_averaged_that_prepare_cases_and_label_alike(first, second, told):
    both = [segmenter(**{"axis": "axial", **c}, name=f"run{i}") for i, c in enumerate((first, second))]
    if told:
        refused(f"run0 and run1 cannot be averaged: {told}", check_labels, both)
    else:
        assert check_labels(both) == label_scheme("brats")
