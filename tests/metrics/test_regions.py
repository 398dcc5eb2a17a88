import math

import numpy as np
import pytest

from jaxfuse.labels import IGNORED, label_scheme
from jaxfuse.metrics.protocols import default_one_empty_mm, one_empty_mm
from jaxfuse.metrics.regions import score_case, summarize, summary_document
from tests.refusals import refused

BRATS, YEAR_2023 = label_scheme("brats"), label_scheme("brats2023")
METRICS = ("dice", "iou", "sensitivity", "specificity", "hd95_mm")


def score(pred, truth, **changes):
    settings = {"spacing_mm": (1.0, 1.0), "one_empty": 373.0, "case": "a", "output": "S_F"} | changes
    return score_case(np.array(pred), np.array(truth), BRATS, **settings)


def row(case, region, dice, hd95_mm, *, pred_mm3=8.0, truth_mm3=8.0, output="S_F"):
    names = {"case": case, "output": output, "region": region}
    return names | dict.fromkeys(METRICS, dice) | {"hd95_mm": hd95_mm, "pred_mm3": pred_mm3, "truth_mm3": truth_mm3}


def test_regions_unite_classes():
    """Classes 1 core, 2 oedema, 3 enhancing: the prediction takes the oedema for core and finds the rest."""
    rows = score([[1, 1, 3, 0]], [[2, 1, 3, 0]])
    assert [r["region"] for r in rows] == ["WT", "TC", "ET"]
    expected = {"dice": [1, 4 / 5, 1], "iou": [1, 2 / 3, 1], "sensitivity": [1, 1, 1], "specificity": [1, 1 / 2, 1]}
    assert {name: [r[name] for r in rows] for name in expected} == {k: pytest.approx(v) for k, v in expected.items()}


def test_ignored_voxels_are_left_out():
    """Whatever is predicted there: no metric sees it, and specificity does not count it among the background."""
    rows, expected = (
        score([[1, 1, 3, 0, 0, 3]], [[2, 1, 3, 0, IGNORED, IGNORED]]),
        score([[1, 1, 3, 0]], [[2, 1, 3, 0]]),
    )
    assert rows == expected


def test_a_row_carries_its_names_and_volumes():
    first = score([[1, 1, 3, 0]], [[2, 1, 3, 0]], spacing_mm=(2.0, 1.5), case="b", output="S_A")[1]
    assert (first["case"], first["output"], first["pred_mm3"], first["truth_mm3"]) == ("b", "S_A", 9.0, 6.0)
    # TC: the prediction's extra voxel is one step of 1.5 mm away; distances 1.5, 0, 0 and 0, 0 pooled.
    assert first["hd95_mm"] == pytest.approx(0.8 * 1.5)


@pytest.mark.parametrize(
    ("pred", "truth", "values"),
    [((0, 1), (0, 1), (1, 1, 1, 0)), ((3, 1), (0, 1), (0, 0, 1 / 2, 373)), ((0, 1), (3, 1), (0, 0, 1, 373))],
    ids=["both empty", "only the prediction", "only the truth"],
)
def test_empty_case_rules(pred, truth, values):
    et = score([pred], [truth])[2]
    assert tuple(et[m] for m in ("dice", "sensitivity", "specificity", "hd95_mm")) == values


def test_perfect_prediction():
    labels = np.random.default_rng(0).integers(0, 4, (6, 7, 8))
    for r in score(labels, labels, spacing_mm=(1.0, 1.0, 1.0)):
        assert [r[m] for m in METRICS] == [1, 1, 1, 1, 0]


def test_refuses_what_is_not_a_class_index():
    refused("prediction of case a holds values from 0 to 4", score, [[4, 0]], [[3, 0]])
    refused("truth of case a holds values from -1", score, [[3, 0]], [[-1, 0]])
    refused("shape", score, [[3, 0]], [[3, 0, 0]])


def test_penalties_by_challenge_year():
    assert one_empty_mm("penalty", BRATS) == pytest.approx(373.12866, abs=1e-5)
    assert one_empty_mm("penalty", YEAR_2023) == default_one_empty_mm(YEAR_2023) == 374
    assert one_empty_mm("12.5", BRATS) == 12.5
    assert math.isnan(one_empty_mm("nan", BRATS))
    assert math.isnan(default_one_empty_mm(label_scheme("lesion")))
    refused("one_empty", one_empty_mm, "-1", BRATS)
    refused("one_empty", one_empty_mm, "diagonal", BRATS)
    refused("lesion", one_empty_mm, "penalty", label_scheme("lesion"))


def test_statistics_by_hand():
    rows = [row("a", "WT", 0.5, 1.0), row("b", "WT", 0.7, 2.0), row("c", "WT", 0.9, 6.0)]
    wt = summarize(rows)["S_F"]["WT"]
    assert wt["dice"] == pytest.approx({"mean": 0.7, "std": 0.2, "median": 0.7, "n": 3, "undefined": 0})
    assert (wt["hd95_mm"]["mean"], wt["hd95_mm"]["median"]) == (3, 2)


def test_undefined_cases_are_left_out_and_counted():
    rows = [row("a", "ET", 0.0, math.nan, truth_mm3=0.0), row("b", "ET", 0.8, 2.0), row("c", "ET", 0.4, math.inf)]
    et = summarize(rows)["S_F"]["ET"]
    assert (et["hd95_mm"]["mean"], et["hd95_mm"]["n"], et["hd95_mm"]["undefined"]) == (2, 1, 2)
    assert math.isnan(et["hd95_mm"]["std"])
    assert et["dice"]["mean"] == pytest.approx(0.4)


def test_empty_truths_are_counted_and_their_dice_kept_apart():
    rows = [row("a", "ET", 1.0, 0.0, pred_mm3=0.0, truth_mm3=0.0), row("b", "ET", 0.0, 373.0, truth_mm3=0.0)]
    rows += [row("c", "ET", 0.0, 373.0, pred_mm3=0.0), row("d", "ET", 0.8, 2.0)]
    et = summarize(rows)["S_F"]["ET"]
    assert et["counts"] == {"cases": 4, "truth_empty": 2, "pred_empty": 2, "one_empty": 2}
    assert et["dice"]["mean"] == pytest.approx(0.45)
    assert [et["dice_nonempty"][name] for name in ("mean", "n", "undefined")] == [pytest.approx(0.4), 2, 2]


def test_mean_over_regions_is_the_mean_of_the_columns():
    rows = [row("a", "WT", 0.9, 1.0), row("a", "ET", 0.5, math.nan, truth_mm3=0.0)]
    rows += [row("b", "WT", 0.7, 3.0), row("b", "ET", 0.3, 8.0)]
    mean = summarize(rows)["S_F"]["mean"]
    # Per-case means are 0.7 and 0.5.
    assert (mean["dice"]["mean"], mean["dice"]["std"]) == pytest.approx(((0.8 + 0.4) / 2, math.sqrt(0.02)))
    # WT averages 2 over two cases, ET 8 over the one that is defined.
    assert [mean["hd95_mm"][name] for name in ("mean", "n", "undefined", "median")] == [5, 1, 1, 5.5]
    assert mean["counts"] == {"cases": 2, "truth_empty": 1, "pred_empty": 0, "one_empty": 1}


def test_document_keeps_outputs_apart_and_names_what_the_numbers_mean():
    rows = [row(case, "WT", dice, 1.0, output=output) for output, dice in (("S_A", 0.9), ("S_F", 0.5)) for case in "ab"]
    document = summary_document(rows, primary="S_F", one_empty=math.sqrt(139225))
    assert (document["kind"], document["primary"], document["cases"]) == ("segmentation", "S_F", 2)
    assert "373.1287 mm" in document["one_empty"]
    assert "pooled" in document["distances"]["HD95"]
    assert document["outputs"] == summarize(rows)
    assert {name: of["WT"]["dice"]["mean"] for name, of in document["outputs"].items()} == {"S_A": 0.9, "S_F": 0.5}
    assert "undefined" in summary_document(rows, primary="S_F", one_empty=math.nan)["one_empty"]


def test_refuses_incomplete_scores():
    refused("no scores", summarize, [])
    refused("lack ET for case b", summarize, [row("a", "WT", 1, 0), row("a", "ET", 1, 0), row("b", "WT", 1, 0)])
    refused("twice", summarize, [row("a", "WT", 1, 0), row("a", "WT", 1, 0)])
    refused("S_B", summary_document, [row("a", "WT", 1, 0)], primary="S_B", one_empty=math.nan)
