"""Post-processing of label maps as they are made: on the grid of the files, whole, after the brain's mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxfuse.data.cases import Case
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.data.resample import prepare_resampled
from jaxfuse.postprocessing.plan import Plan, StoredPlan
from jaxfuse.postprocessing.steps import FillHoles, RemoveSmall
from jaxfuse.prediction.ensemble import Ensemble
from jaxfuse.prediction.labeler import CaseLabeler
from jaxfuse.prediction.postprocessed import Postprocessing, images_of, on_whole_grid, warning_of
from jaxfuse.prediction.preparation import Preparation

PREPARATION = Preparation(("flair",), ("flair",), "brain")


@dataclass(frozen=True)
class Answer(Ensemble):
    """An ensemble that always gives this label map."""

    given: Any = None

    def labels(self, case: Any) -> np.ndarray:
        return self.given

    def probabilities(self, case: Any) -> np.ndarray:
        return np.stack([1 - self.given, self.given], -1).astype(np.float32)


def case(shape, brain, spacing_mm=(1.0, 1.0, 1.0)) -> Case:
    image = np.zeros(shape, np.float32)
    image[brain] = 100 + np.random.default_rng(0).random(shape)[brain]
    return Case("a", ("flair",), [image], None, np.diag([*spacing_mm, 1.0]), spacing_mm)


def stored(plan: Plan, **more) -> Postprocessing:
    return Postprocessing(StoredPlan(plan, Path("plan.json"), **more))


def test_volumes_are_those_of_the_grid_of_the_files():
    """A voxel of 27 mm3 of the network's grid is one of 8 mm3 in the files, too small where 20 mm3 are asked for."""
    given = case((12, 12, 12), (slice(0, 12),) * 3, (2.0, 2.0, 2.0))
    given.channels[0][0, 0, 0] = 0
    prepared = prepare_resampled(given, (3.0, 3.0, 3.0))
    assert (prepared.facts.shape, prepared.facts.acquired_shape) == ((8, 8, 8), (12, 12, 12))
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2, 2, 2] = 1
    for below, left in ((20.0, 0), (8.0, 1)):
        plan = Plan("lesion", (RemoveSmall("lesion", "background", below),))
        made = CaseLabeler(PREPARATION, {0: Answer({}, given=labels)}, False, stored(plan)).labeled(prepared, 0)
        assert made.labels.shape == (12, 12, 12)
        assert made.labels.sum() == left


def test_a_crop_is_judged_as_the_whole_of_its_grid():
    """A ring in a brain of one slice encloses nothing in the volume that it was cropped from."""
    prepared = prepare_case(case((9, 9, 5), (slice(1, 8), slice(1, 8), slice(2, 3))))
    assert prepared.facts.shape == (7, 7, 1)
    ring = np.zeros((7, 7, 1), np.uint8)
    ring[1:6, 1:6] = 1
    ring[3, 3] = 0
    plan = Plan("lesion", (FillHoles("lesion", "lesion"),))
    np.testing.assert_array_equal(on_whole_grid(plan, ring, prepared), ring)
    slice_alone = prepare_case(case((9, 9, 1), (slice(1, 8), slice(1, 8), slice(0, 1))))
    assert on_whole_grid(plan, ring, slice_alone)[3, 3, 0] == 1


def test_it_comes_after_the_mask_of_the_brain():
    """Outside the brain lies the rest of a part, without which it is too small."""
    prepared = prepare_case(case((8, 8, 8), (slice(0, 4), slice(0, 8), slice(0, 8))), extent=(slice(0, 8),) * 3)
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[3:8, 4, 4] = 1
    plan = stored(Plan("lesion", (RemoveSmall("lesion", "background", 2.0),)))
    kept = [
        CaseLabeler(PREPARATION, {0: Answer({}, given=labels)}, on, plan).labels(prepared, 0).sum()
        for on in (True, False)
    ]
    assert kept == [0, 5]


@pytest.mark.parametrize(("changed", "told"), [(0, True), (1, False)])
def test_a_case_is_known_by_its_images(changed, told):
    prepared = prepare_case(case((8, 8, 8), (slice(1, 7),) * 3))
    other = case((8, 8, 8), (slice(1, 7),) * 3)
    other.channels[0][3, 3, 3] += np.float32(0.01 * changed)
    post = stored(Plan("lesion"), images={"another name": images_of(prepare_case(other).facts)})
    assert post.chosen_on(prepared.facts) == told


def test_a_warning_names_the_first_cases():
    assert warning_of([]) == ""
    assert "(a, b, c, d, e and 2 more)" in warning_of(list("abcdefg"))
