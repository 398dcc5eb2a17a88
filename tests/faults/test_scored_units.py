"""A table that counts slices where its paper counts subjects, or leaves out what was missed.

Judged are predictions of Fuse4Seg, a network of slices.
"""

import numpy as np
import pytest

from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.slices import View, prepare_slices
from jaxfuse.engine.judging import segmentation as judging
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.fusion import fusion
from jaxfuse.labels import SCHEMES
from jaxfuse.metrics.fusion import score_fused
from tests.engine.judging.heads import full, rows_of, summary_of
from tests.faults.catalogue import given, table
from tests.made_cases import case_files, ellipsoid

SHAPE, SPACING_MM = (44, 46, 10), (2.0, 2.0, 3.0)
SCHEME = SCHEMES["brats"]


def _slices(folder, *, one_per_case=False, cases=2):
    """The slices of heads of unequal height, of which one shows a tumor of four pixels; each of its own gray levels."""
    files = []
    for number in range(cases):
        brain = ellipsoid(SHAPE, (20, 21, 3 + number))
        rng, label = np.random.default_rng(number), np.zeros(SHAPE, np.uint8)
        label[20:24, 22, 4] = 4
        images = {name: (brain * rng.integers(50, 200, SHAPE)).astype(np.int16) for name in ("t1", "t2")}
        files.append(case_files(folder, f"c{number}", {**images, "seg": label}, spacing_mm=SPACING_MM))
    found = prepare_slices(
        files,
        ("t1", "t2"),
        SCHEME,
        view=View(one_per_case=one_per_case),
        normalize=NORMALIZATIONS["minmax"],
        cache=folder / "cache",
    )
    return [one for case in found.values() for one in case]


def _answer(found):
    """A prediction that finds `found` of (case, truth), and fuses by the mean."""

    def predict(case, asked):
        label = found(case, np.asarray(case.label))
        return {"S": label.astype(np.uint8), "fused": np.asarray(case.image).mean(-1, keepdims=True)}

    return predict


NOTHING = _answer(lambda case, truth: np.zeros_like(truth))


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """A function from an answer to the rows by case and region, and the summary; no panel is painted."""
    monkeypatch.setattr(judging.figures, "segmentation_panel", lambda path, **asked: None)

    def judge(predict, **options):
        cases = _slices(tmp_path, **options)
        full(fusion(Judged(SCHEME, "S", ("S",), ("t1+t2",))), predict, cases, tmp_path)
        return cases, rows_of(tmp_path, "case", "region"), summary_of(tmp_path)

    return judge


@given("a network that finds nothing, on slices of which most show no tumor", "Dice 0 of each subject, not near 1")
def test_slices_without_tumor_give_no_points(judged):
    cases, rows, summary = judged(NOTHING)
    assert {case for case, _ in rows} == {"c0", "c1"}
    assert (summary["cases"], summary["fusion"]["pictures"]) == (2, len(cases))
    assert {row["dice"] for (_, region), row in rows.items() if region == "ET"} == {0.0}


@given("a false alarm in a slice that shows no tumor", "counted in the one row of its subject")
def test_a_false_alarm_counts_in_its_subject(judged):
    def alarmed(case, truth):
        made = truth.copy()
        if truth.ndim == 3:
            row, column = made.shape[0] // 2, made.shape[1] // 2
            made[row - 2 : row + 2, column, 1] = 3
        return made

    _, rows, _ = judged(_answer(alarmed))
    assert rows["c0", "ET"]["dice"] == pytest.approx(2 * 4 / (4 + 8))


@table(
    "one_per_case,penalty",
    ("a missed tumor of a subject", "HD95 is 373.13 mm, the diagonal of a BraTS volume", False, 373.12866),
    ("a missed tumor in the one slice of a subject", "HD95 is the picture's diagonal", True, np.hypot(2 * 44, 2 * 46)),
)
def test_a_miss_has_the_distance_of_a_diagonal(judged, one_per_case, penalty):
    _, rows, summary = judged(NOTHING, one_per_case=one_per_case)
    found = {row["hd95_mm"] for (_, region), row in rows.items() if region == "ET"}
    assert list(found) == [pytest.approx(penalty)]
    assert f"{penalty:.7g} mm" in summary["one_empty"]


@given("fused slices of subjects of unequal height", "scored one by one; tables have the mean over subjects")
def test_fused_pictures_weigh_by_subject(judged, tmp_path):
    cases, _, summary = judged(NOTHING)
    rows = rows_of(tmp_path, "case", "output", table="fusion.csv")
    assert {case for case, _ in rows} == {case.id for case in cases}
    fused = [row for (_, output), row in rows.items() if output == "fused"]
    deviations = [[row["sd"] for row in fused if row["subject"] == name] for name in ("c0", "c1")]
    assert len(deviations[0]) != len(deviations[1])
    found = summary["fusion"]["outputs"]["fused"]["sd"]
    assert (found["mean"], found["n"]) == (pytest.approx(np.mean([np.mean(each) for each in deviations])), 2)


@given("a slice of a subject, fused within its volume", "the same scores as fused alone")
def test_a_picture_of_a_volume_is_that_picture(judged, tmp_path):
    cases, _, _ = judged(NOTHING)
    rows = rows_of(tmp_path, "case", "output", table="fusion.csv")
    picture = cases[2]
    image = np.pad(np.asarray(picture.image), [*_around(picture), (0, 0)])
    sources = np.rint(image * 255).transpose(2, 0, 1).astype(float)
    expected = score_fused(np.rint(image.mean(-1) * 255), list(sources))
    assert {name: rows[picture.id, "fused"][name] for name in expected} == pytest.approx(expected)


def _around(case):
    facts = case.facts
    place = zip(facts.crop_start, facts.shape, facts.original_shape, strict=True)
    return [(start, whole - start - side) for start, side, whole in place]
