"""Plans: steps in order, within the box of the labels, and as files."""

import numpy as np
import pytest

from jaxfuse.io.tables import write_json
from jaxfuse.labels import SCHEMES
from jaxfuse.postprocessing.plan import Plan, box_of, read_plan
from jaxfuse.postprocessing.steps import FillHoles, KeepLargest, RemoveSmall, ReplaceSmallTotal, applied

NECROSIS, EDEMA, ENHANCING = SCHEMES["brats"].classes[1:]
STEPS = (
    RemoveSmall("WT", "background", 30.0),
    KeepLargest("TC", EDEMA, 6),
    FillHoles("TC", NECROSIS),
    ReplaceSmallTotal("ET", NECROSIS, 100.0),
)
PLAN = Plan("brats", STEPS)


def labels_of(seed: int, shape=(9, 8, 7)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, rng.integers(1, 4, shape), 0).astype(np.uint8)


@pytest.mark.parametrize("shape", [(9, 8, 7), (9, 8, 1), (1, 8, 7)])
def test_a_plan_is_its_steps_one_after_the_other_on_the_whole_volume(shape):
    for seed in range(3):
        labels = np.pad(labels_of(seed, shape), [(0, 0) if n == 1 else (2, 3) for n in shape])
        expected = labels
        for step in STEPS:
            expected = applied(step, expected, SCHEMES["brats"], 3.0)
        assert (expected != labels).any()
        np.testing.assert_array_equal(PLAN(labels, (1.0, 1.5, 2.0)), expected)


def test_the_order_counts():
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 1
    fill, small = FillHoles("TC", NECROSIS), RemoveSmall("TC", "background", 110.0)
    counts = [int(Plan("brats", order)(labels, (1.0,) * 3).sum()) for order in ((fill, small), (small, fill))]
    assert counts == [125, 0]


def test_a_sheared_voxel_has_the_volume_of_its_steps():
    steps = np.array([[1.0, 0, 0], [1.0, 2.0, 0], [0, 0, 3.0]])  # 6 mm3, and sides whose product is 6.7
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 2
    found = [int(Plan("brats", (RemoveSmall("WT", "background", mm3),))(labels, steps).sum()) for mm3 in (6.0, 6.1)]
    assert found == [2, 0]


def test_what_is_empty_stays_so():
    labels = np.zeros((4, 4, 4), np.uint8)
    assert box_of(labels) is None
    assert PLAN(labels, (1.0,) * 3) is labels


def test_a_box_is_a_voxel_wider_where_there_is_one():
    labels = np.zeros((6, 5, 1), np.uint8)
    labels[2, 0, 0] = 1
    assert box_of(labels) == (slice(1, 4), slice(0, 2), slice(0, 1))


def test_plans_come_back_from_their_files(tmp_path):
    write_json(tmp_path / "plan.json", PLAN.document())
    stored = read_plan(tmp_path / "plan.json")
    assert (stored.plan, stored.networks, stored.images) == (PLAN, (), {})
    assert stored.plan.digest == PLAN.digest != Plan("brats", STEPS[1:]).digest


def test_schemes_of_the_same_classes_and_regions_share_plans():
    PLAN.check(SCHEMES["brats2023"], "a file")
