"""Predictions whose scores are known by hand."""

import numpy as np
import pytest

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.judging import assessment
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.segmentation import segmentation
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.labels import SCHEMES
from jaxfuse.report.segmentation_table import render_segmentation
from tests.engine.judging.heads import (
    DICE,
    LESION,
    OUTPUTS,
    begins_as_it_says,
    full,
    predict,
    prepared,
    prepared_slices,
    prepared_volumes,
    rows_of,
    summary_of,
)

JUDGED = Judged(LESION, "S_F", OUTPUTS)


@pytest.mark.parametrize("most", [6, 3])
def test_figures_show_the_worst_three_first_up_to_a_limit(tmp_path, drawn, monkeypatch, most):
    assert assessment.FIGURES_AT_MOST == 6
    monkeypatch.setattr(assessment, "FIGURES_AT_MOST", most)
    full(segmentation(JUDGED), predict, prepared(tmp_path), tmp_path)
    assert [figure["path"].stem for figure in drawn] == ["c", "b", "d", "a"][:most]
    first = drawn[0]
    assert (first["path"], first["title"]) == (tmp_path / "figures" / "c.png", "fusion: c")
    assert (first["spacing_mm"], sorted(first["predictions"])) == ((2.0, 1.0, 1.0), ["S_A", "S_F"])


def test_quick_scores_and_tables_on_disk(tmp_path, drawn):
    judge, cases, mean = segmentation(JUDGED), prepared(tmp_path), pytest.approx(np.mean(list(DICE.values())))
    assert judge.quick(predict, cases) == {"S_A/lesion/dice": 0.0, "S_F/lesion/dice": mean, "score": mean}
    assert begins_as_it_says(judge, predict, cases, tmp_path / "noted")
    document = full(judge, predict, cases, tmp_path)
    rows = rows_of(tmp_path, "case", "output")
    assert sorted(rows) == [(case, output) for case in "abcd" for output in ("S_A", "S_F")]
    assert {case: rows[case, "S_F"]["dice"] for case in "abcd"} == pytest.approx(DICE)
    # 2 mm x 1 mm x 1 mm voxels; and every voxel of the volume counts as background, not those of the crop only.
    assert (rows["b", "S_F"]["pred_mm3"], rows["b", "S_F"]["truth_mm3"]) == (4.0, 8.0)
    assert rows["b", "S_F"]["specificity"] == 1.0
    # The last of four voxels in a row is missed: distances 0 0 0 1 and 0 0 0, pooled, 95th percentile 0.7.
    assert rows["d", "S_F"]["hd95_mm"] == pytest.approx(0.7)
    assert np.isnan(rows["a", "S_A"]["hd95_mm"])
    found = summary_of(tmp_path)
    assert set(found) == {"kind", "primary", "cases", "distances", "one_empty", "outputs", "seconds_per_subject"} | {
        "mask_to_brain"
    }
    assert (found["kind"], found["primary"], found["cases"]) == ("segmentation", "S_F", 4)
    assert found["outputs"]["S_F"]["lesion"]["dice"]["mean"] == mean
    assert found["seconds_per_subject"] >= 0
    assert render_segmentation(found) == render_segmentation(document)
    everything = {"S_F": np.ones((6, 6, 6), np.uint8)}
    full(segmentation(Judged(LESION, "S_F", ("S_F",))), lambda case, asked: everything, cases[:1], tmp_path)
    assert rows_of(tmp_path, "case")["a"]["specificity"] == pytest.approx((8**3 - 6**3) / (8**3 - 4))


def test_a_segmentation_has_a_scheme_and_is_judged_by_class_probabilities_and_labels(tmp_path):
    with pytest.raises(UserError, match="case a has no label .*; leave it out of the validation split"):
        segmentation(JUDGED).quick(predict, prepared(tmp_path, "a", labeled=False))
    with pytest.raises(UserError, match="only with a label scheme; set assess to engine.judging.losses:losses"):
        segmentation(Judged(None, "S_F", OUTPUTS))
    with pytest.raises(UserError, match="the result S_F is no class probabilities.*judging.losses:losses"):
        segmentation(Judged(LESION, "S_F", ("S_A",)))


def test_tissues_are_judged_by_their_own_protocol(tmp_path, drawn):
    """CSF, gray and white matter, two layers each; a is exact, in b a layer of gray matter is taken for white."""
    image = np.random.default_rng(0).uniform(1, 2, (3, 3, 6, 2)).astype(np.float32)
    truth = np.broadcast_to(np.repeat(np.array([1, 2, 3], np.uint8), 2), (3, 3, 6)).copy()
    cases = prepared_volumes(tmp_path, "ab", image, truth, ("t1", "t2"), spacing_mm=(1.0, 1.0, 2.0), classes=4)

    def label(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
        found = np.asarray(case.label).copy()
        found[..., 3] = 3 if case.id == "b" else 2
        return {"fused": found}

    judge = segmentation(Judged(SCHEMES["iseg"], "fused", ("fused",)))
    scores = judge.quick(label, cases)
    gm, wm = (1 + 2 / 3) / 2, (1 + 4 / 5) / 2
    assert scores["score"] == pytest.approx((1 + gm + wm) / 3)
    document = full(judge, label, cases, tmp_path)
    rows = rows_of(tmp_path, "case", "region")
    # The layer lies one slice of 2 mm off; of white matter a third of the prediction is 2 mm from the truth.
    assert (rows["b", "GM"]["hd_mm"], rows["b", "WM"]["hd_mm"], rows["a", "WM"]["hd_mm"]) == (2, 2, 0)
    assert rows["b", "WM"]["mhd_dubuisson_mm"] == pytest.approx(2 / 3)
    assert rows["b", "WM"]["iseg_asd_mm"] == pytest.approx(1 / 3)
    found = summary_of(tmp_path)["outputs"]["fused"]["GM"]
    assert found["dice"]["mean"] == pytest.approx(gm)
    assert found["dice"]["std"] == pytest.approx((1 - 2 / 3) / np.sqrt(2))
    assert "iSeg MHD (mm)" in render_segmentation(document)
    assert [figure["path"].stem for figure in drawn] == ["b", "a"]


def test_a_slice_is_scored_as_a_case(tmp_path, drawn):
    """Heads of 6 x 6 pixels of 2 x 3 mm in pictures of 8 x 10, with class 1 in four pixels of a row or nowhere."""
    labels = {name: np.zeros((6, 6), np.uint8) for name in ("marked", "empty")}
    labels["marked"][2, 1:5] = 1
    image = np.random.default_rng(0).uniform(1, 2, (6, 6, 2)).astype(np.float32)
    at = {"whole": (8, 10), "start": (1, 1), "spacing_mm": (2.0, 3.0)}
    cases = prepared_slices(tmp_path, labels, image, ("t1", "flair"), **at, classes=4)
    two = np.zeros((6, 6), np.uint8)
    two[2, 1:3] = 1

    def find_two(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
        return {"segmentation": two}

    judge = segmentation(Judged(SCHEMES["brats"], "segmentation", ("segmentation",)))
    scores = judge.quick(find_two, cases)
    # The marked slice: 2 of 4 pixels; the empty one: false alarm. ET is absent from both.
    expected = {"segmentation/WT/dice": 1 / 3, "segmentation/TC/dice": 1 / 3, "segmentation/ET/dice": 1}
    assert scores == pytest.approx({**expected, "score": (1 / 3 + 1 / 3 + 1) / 3})
    full(judge, find_two, cases, tmp_path)
    rows = rows_of(tmp_path, "case", "region")
    assert rows["marked", "WT"]["dice"] == pytest.approx(2 / 3)
    assert rows["empty", "WT"]["specificity"] == pytest.approx((80 - 2) / 80)
    # Pixels lie 3 mm apart along a row: distances 0 0 and 0 0 3 6, pooled.
    assert rows["marked", "WT"]["hd95_mm"] == pytest.approx(np.percentile([0, 0, 0, 0, 3, 6], 95))
    # The penalty of a challenge is a volume's diagonal, and of slices that of the picture.
    assert rows["empty", "WT"]["hd95_mm"] == pytest.approx(np.hypot(16, 30))
    found = summary_of(tmp_path)
    assert ("seconds_per_slice" in found, "seconds_per_subject" in found) == (True, False)
    assert [figure["path"].stem for figure in drawn] == ["empty", "marked"]
    assert (drawn[0]["image"].shape, drawn[0]["spacing_mm"]) == ((6, 6, 2), (2.0, 3.0))
