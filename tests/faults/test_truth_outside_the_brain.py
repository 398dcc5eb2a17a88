"""Labels where every image shows background, as of a tumor that skull stripping has cut."""

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.prepared import brain_mask
from jaxfuse.data.slices import AXES, View, prepare_slices
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.assessment import Judged, whole_truth
from jaxfuse.engine.judging.segmentation import segmentation
from jaxfuse.labels import label_scheme
from jaxfuse.metrics.regions import score_case
from tests.faults.catalogue import table
from tests.made_cases import case_files, ellipsoid

SHAPE, SCHEME, MODALITIES = (20, 22, 18), label_scheme("lesion"), ("t1", "flair")
BRAIN = ellipsoid(SHAPE, (7, 7, 6))
CUTS = (
    ("half of a tumor lies beyond the brain's box on its right", (slice(13, 19), slice(9, 13), slice(7, 11))),
    ("it lies beyond in front and above", (slice(9, 11), slice(14, 21), slice(11, 17))),
    ("all of it lies beyond", (slice(0, 2), slice(0, 3), slice(0, 2))),
    ("it lies within the box, outside the brain", (slice(3, 5), slice(4, 6), slice(3, 5))),
    ("none lies beyond", (slice(8, 12), slice(9, 13), slice(7, 11))),
)


def files(folder, box):
    image = np.where(BRAIN, np.random.default_rng(0).integers(100, 200, SHAPE), 0).astype(np.int16)
    truth = np.zeros(SHAPE, np.uint8)
    truth[box] = 1
    return [case_files(folder, "a", {"t1": image, "flair": 2 * image, "seg": truth}, spacing_mm=(1, 2, 1))], truth


def found(case):
    """The upper half of what is labeled within the crop."""
    label = np.asarray(case.label).copy()
    label[: label.shape[0] // 2] = 0
    return label


@table("box", *((what, "all of it is the truth in a run's table, as in evaluate", box) for what, box in CUTS))
@pytest.mark.parametrize("axis", ["", *AXES])
def test_the_truth_of_a_run_is_that_of_the_file(tmp_path, box, axis):
    listed, truth = files(tmp_path, box)
    cases = prepare(listed, MODALITIES, SCHEME, cache=tmp_path / "cache")
    if axis:
        slices = prepare_slices(listed, MODALITIES, SCHEME, view=View(AXES[axis]), cache=tmp_path / "cache")
        cases = subjects_of([one for case in slices.values() for one in case])
    (case,) = cases
    np.testing.assert_array_equal(whole_truth(case), truth)
    judge = segmentation(Judged(SCHEME, "S", ("S",)))
    maps = []

    def predict(one, asked):
        maps.append(found(one))
        return {"S": maps[-1].astype(np.uint8)}

    (row,), _, _ = judge.judge(predict, cases)
    assert row["truth_mm3"] == 2 * truth.sum()
    whole = np.zeros(SHAPE, np.uint8)
    start, shape = case.facts.crop_start, case.facts.shape
    whole[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = np.where(brain_mask(case), maps[0], 0)
    (evaluated,) = score_case(whole, truth, SCHEME, spacing_mm=(1, 2, 1), one_empty=0.0, case="a", output="S")
    assert row["dice"] == evaluated["dice"]
    assert judge.quick(predict, cases)["score"] == pytest.approx(evaluated["dice"])
