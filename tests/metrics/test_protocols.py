"""The metrics of tissues and strokes, on label maps worked by hand."""

import math

import numpy as np
import pytest

from jaxfuse.labels import label_scheme
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.protocols import (
    BRATS,
    BRATS2023,
    BRATS2023_MEN,
    BRATS2023_MET,
    ISEG,
    ISLES2022,
    PROTOCOLS,
    STROKE,
    one_empty_mm,
    protocol_of,
)
from jaxfuse.metrics.regions import score_case, summary_document

TISSUES, INFARCTS = label_scheme("iseg"), label_scheme("stroke")
# Classes CSF 1, GM 2, WM 3 along a line of voxels of 2 mm: the prediction takes one voxel of GM for CSF.
TRUTH = np.array([[1, 1, 2, 2, 2, 3, 3, 0]])
PRED = np.array([[1, 1, 1, 2, 2, 3, 3, 0]])


def score(pred, truth, scheme, **changes):
    settings = {"spacing_mm": (5.0, 2.0), "one_empty": math.nan, "case": "a", "output": "prediction"} | changes
    return score_case(np.array(pred), np.array(truth), scheme, **settings)


def test_data_are_scored_by_the_protocol_of_their_scheme():
    names = ("iseg", "stroke", "brats", "brats2023", "lesion")
    assert [protocol_of(label_scheme(name)) for name in names] == [ISEG, STROKE, BRATS, BRATS, BRATS]


def test_each_tissue_has_dice_and_all_its_distances():
    rows = score(PRED, TRUTH, TISSUES)
    assert [row["region"] for row in rows] == ["CSF", "GM", "WM"]
    csf, gm, wm = rows
    assert (csf["dice"], gm["dice"], wm["dice"]) == (pytest.approx(4 / 5), pytest.approx(4 / 5), 1)
    # CSF: one voxel too many, 2 mm off. D1 = 0, 0, 2 and D2 = 0, 0; all voxels of a line are surface.
    distances = {"hd_mm": 2, "hd95_mm": np.percentile([0, 0, 2, 0, 0], 95), "mhd_mm": 2 / 3, "asd_mm": 2 / 3}
    distances |= {"assd_mm": 2 / 5, "iseg_mhd_mm": 2, "iseg_asd_mm": 1 / 3, "mhd_dubuisson_mm": 2 / 3}
    assert {name: csf[name] for name in distances} == pytest.approx(distances)
    # GM: one voxel too few. The directed mean starts at the prediction, which lies wholly inside.
    assert (gm["asd_mm"], gm["mhd_mm"]) == (0, pytest.approx(2 / 3))
    assert {wm[name] for name in distances} == {0}
    assert tuple(csf) == ("case", "output", "region", "dice", *distances, "pred_mm3", "truth_mm3")


def test_a_stroke_is_measured_in_mm_and_in_voxels():
    """One voxel off along the thick axis of 5 mm and two along the thin one of 2 mm."""
    truth, pred = np.zeros((3, 6), int), np.zeros((3, 6), int)
    truth[0, 0] = pred[0, 0] = pred[1, 2] = 1
    (row,) = score(pred, truth, INFARCTS)
    measured = {"dice": 2 / 3, "hd_mm": math.hypot(5, 4), "hd_voxels": math.hypot(1, 2)}
    assert {name: row[name] for name in measured} == pytest.approx(measured)
    assert tuple(row) == ("case", "output", "region", *measured, "pred_mm3", "truth_mm3")


def test_a_missed_stroke_has_no_distance_in_voxels_whatever_the_penalty():
    (missed,) = score([[0, 0]], [[1, 0]], INFARCTS, one_empty=99.0)
    assert (missed["dice"], missed["hd_mm"]) == (0, 99)
    assert math.isnan(missed["hd_voxels"])
    (absent,) = score([[0, 0]], [[0, 0]], INFARCTS)
    assert (absent["dice"], absent["hd_mm"], absent["hd_voxels"]) == (1, 0, 0)


def test_a_protocol_may_be_chosen_for_another_scheme():
    (row,) = score([[1, 0]], [[1, 1]], label_scheme("lesion"), protocol=STROKE)
    assert row["hd_voxels"] == 1
    (row,) = score([[1, 0]], [[1, 1]], INFARCTS, protocol=BRATS)
    assert row["sensitivity"] == 0.5


def test_the_tasks_of_2023_tell_lesions_apart_in_their_own_ways():
    """Lesions of 27 mm3, five voxels apart: three steps of dilation join them; alone they count as metastases only."""
    scheme = label_scheme("brats2023")
    truth = np.zeros((9, 9, 20), int)
    truth[3:6, 3:6, 2:5] = truth[3:6, 3:6, 10:13] = 3
    pred = np.where(np.arange(20) < 8, truth, 0)
    found = {}
    for protocol in (BRATS2023, BRATS2023_MEN, BRATS2023_MET):
        penalty = one_empty_mm(protocol.one_empty, scheme)
        rows = score(pred, truth, scheme, spacing_mm=(1.0, 1.0, 1.0), one_empty=penalty, protocol=protocol)
        (row,) = (row for row in rows if row["region"] == "ET")
        found[protocol.name] = [
            row[name] for name in ("lesion_dice", "lesions_found", "lesions_missed", "lesions_false", "lesion_f1")
        ]
        assert row["dice"] == pytest.approx(2 / 3)
    assert found["brats2023"] == pytest.approx([2 / 3, 1, 0, 0, 1])
    assert found["brats2023_men"] == [1, 0, 0, 0, 1]
    assert found["brats2023_met"] == pytest.approx([1 / 2, 1, 1, 0, 2 / 3])


def test_strokes_are_counted_as_in_2022():
    """Two lesions of which one is touched, and a false alarm; 24 voxels of 10 mm3 in place of 16."""
    truth, pred = np.zeros((4, 30), int), np.zeros((4, 30), int)
    truth[0:2, 0:4] = truth[0:2, 10:14] = 1
    pred[0:4, 3:7] = pred[0:2, 20:24] = 1
    (row,) = score(pred, truth, INFARCTS, protocol=ISLES2022)
    found = {name: row[name] for name in ("volume_difference_ml", "lesion_f1", "lesion_difference")}
    assert found == pytest.approx({"volume_difference_ml": 0.08, "lesion_f1": 2 / 4, "lesion_difference": 0})
    (none,) = score(np.zeros_like(truth), np.zeros_like(truth), INFARCTS, protocol=ISLES2022)
    assert (none["dice"], none["volume_difference_ml"], none["lesion_f1"], none["lesion_difference"]) == (1, 0, 1, 0)
    (missed,) = score(np.zeros_like(truth), truth, INFARCTS, protocol=ISLES2022)
    assert (missed["lesion_f1"], missed["lesion_difference"]) == (0, 2)


def test_a_missed_region_costs_374_mm_since_2023():
    scheme = label_scheme("brats2023")
    truth = np.zeros((8, 8, 8), int)
    truth[2:6, 2:6, 2:6] = 3
    rows = score(
        np.zeros_like(truth),
        truth,
        scheme,
        spacing_mm=(1.0, 1.0, 1.0),
        one_empty=one_empty_mm(BRATS2023.one_empty, scheme),
        protocol=BRATS2023,
    )
    assert {row["hd95_surfels_mm"] for row in rows} == {row["lesion_hd95_mm"] for row in rows} == {374.0}
    assert {row["nsd_1mm"] for row in rows} == {row["lesion_dice"] for row in rows} == {0.0}


def test_tissues_are_averaged_over_subjects():
    rows = [*score(PRED, TRUTH, TISSUES), *score(TRUTH, TRUTH, TISSUES, case="b")]
    document = summary_document(rows, primary="prediction", one_empty=math.nan)
    csf = document["outputs"]["prediction"]["CSF"]
    assert (csf["dice"]["mean"], csf["dice"]["std"]) == pytest.approx((0.9, 0.2 / math.sqrt(2)))
    assert csf["iseg_mhd_mm"]["mean"] == 1
    names = ["HD", "HD95", "MHD", "ASD", "ASSD", "iSeg MHD", "iSeg ASD", "Dubuisson MHD"]
    assert list(document["distances"]) == names
    # Three things are called MHD: each is told apart in words.
    assert len({document["distances"][name] for name in ("MHD", "iSeg MHD", "Dubuisson MHD")}) == 3


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_a_protocol_measures_the_metrics_that_it_names_and_every_distance_is_defined(protocol):
    one = np.ones((1, 1), bool)
    measured, _ = protocol.measure(one, one, spacing_mm=(1.0, 1.0), one_empty=math.nan)
    assert tuple(measured) == names_of(protocol.metrics)
    distances = [metric for metric in protocol.metrics if metric.name.endswith(("_mm", "_voxels"))]
    assert distances or protocol is ISLES2022
    assert all(metric.definition and not metric.larger_is_better for metric in distances)
