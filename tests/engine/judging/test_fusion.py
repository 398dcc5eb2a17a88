"""Fused images whose scores are known, beside a segmentation whose Dice is."""

import numpy as np
import pytest
from PIL import Image

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.fusion import fusion
from jaxfuse.engine.judging.segmentation import segmentation
from jaxfuse.errors import UserError
from jaxfuse.inference.tiling import Asked
from jaxfuse.metrics.fusion import METRICS, qabf, score_fused
from jaxfuse.metrics.names import names_of
from tests.engine.judging.fused_pictures import SOURCES, expected, fused_in_unit, on_the_whole_picture, pictures
from tests.engine.judging.heads import LESION, begins_as_it_says, full, rows_of, summary_of

CROP = slice(2, 44), slice(3, 45)


@pytest.fixture
def cases(tmp_path) -> tuple[PreparedCase, ...]:
    return pictures(tmp_path / "cache")


def predict(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
    """The fused image, and two of the four lesion pixels."""
    found = np.zeros((42, 42), np.uint8)
    found[10, 10:12] = 1
    return {"fused": fused_in_unit(), "S": found}


def segmentation_only(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
    return {"S": predict(case, asked)["S"]}


def attentive(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
    """Attends to the upper half of t1 four times as much as on the mean, to t2 not at all, to flair evenly."""
    received = np.zeros((42, 42, 3), np.float32)
    received[:21, :, 0], received[21:, :, 0], received[..., 2] = 4, 0.25, 1
    return {**predict(case, asked), "attention": received}


def judge(pairs: tuple[str, ...] = ("flair+t1", "t1+t2")):
    return fusion(Judged(LESION, "S", ("S",), pairs))


def test_quick_scores_are_dice_and_qabf_of_a_fused_image_and_dice_chooses(cases, tmp_path, drawn):
    scores = judge().quick(predict, cases)
    sources = [on_the_whole_picture(SOURCES[name]) for name in ("flair", "t1")]
    assert scores["fused/qabf"] == pytest.approx(qabf(expected(), sources))
    assert scores["score"] == scores["S/lesion/dice"] == pytest.approx(2 / 3)
    assert begins_as_it_says(judge(), predict, cases, tmp_path / "noted")
    drawn.clear()
    assert set(judge().quick(segmentation_only, cases)) == {"score", "S/lesion/dice"}
    document = full(judge(), segmentation_only, cases, tmp_path)
    assert list(document["fusion"]["outputs"]) == ["mean", "maximum"]
    assert [asked["modalities"] for asked in drawn] == [("flair", "t1")] * 2


def test_the_fused_image_is_scored_on_the_whole_picture_beside_mean_and_maximum(cases, tmp_path, drawn):
    document = full(judge(), predict, cases, tmp_path)
    rows = rows_of(tmp_path, "case", "output", table="fusion.csv")
    assert {case for case, _ in rows} == {"one", "two"}
    assert [output for case, output in rows if case == "one"] == ["fused", "fused, stretched", "mean", "maximum"]
    flair, t1 = (on_the_whole_picture(SOURCES[name]) for name in ("flair", "t1"))
    images = {"fused": expected(), "mean": (flair + t1) / 2, "maximum": np.maximum(flair, t1)}
    for name, image in images.items():
        assert {m: rows["two", name][m] for m in names_of(METRICS)} == pytest.approx(score_fused(image, [flair, t1]))
    # 0 outside the crop and 255 in one pixel: the range is whole already.
    assert rows["one", "fused, stretched"]["sd"] == pytest.approx(rows["one", "fused"]["sd"])
    found = summary_of(tmp_path)["fusion"]
    assert found == document["fusion"]
    assert found["sources"] == ["flair", "t1"]
    kept = qabf(images["maximum"], [flair, t1])
    statistics = {"mean": kept, "std": 0.0, "median": kept, "n": 2, "undefined": 0}
    assert found["outputs"]["maximum"]["qabf"] == pytest.approx(statistics)


def test_the_segmentation_is_judged_as_any_other(cases, tmp_path, drawn):
    document = full(judge(), predict, cases, tmp_path)
    other = full(segmentation(Judged(LESION, "S", ("S",))), predict, cases, tmp_path / "alone")
    assert (tmp_path / "results" / "labels.npz").exists()
    keys = ("case", "output", "region")
    assert rows_of(tmp_path, *keys) == rows_of(tmp_path / "alone", *keys)
    assert document["outputs"] == other["outputs"]
    assert set(document) - set(other) == {"fusion"}


def test_panels_show_sources_and_fused_image_inside_the_brain_and_what_is_received(cases, tmp_path, drawn):
    full(judge(), attentive, cases, tmp_path)
    first, second = (asked["below"] for asked in drawn)
    assert list(first.maps) == ["flair", "t1"]
    np.testing.assert_array_equal(first.maps["flair"], 1.0)
    np.testing.assert_array_equal(first.maps["t1"][:, 7], [4.0] * 21 + [0.25] * 21)
    assert first.scale is second.scale
    assert (first.scale.vmin, first.scale.vmax) == pytest.approx((0.25, 4))
    assert [asked["modalities"] for asked in drawn] == [("flair", "t1", "fused")] * 2
    np.testing.assert_allclose(drawn[0]["image"][..., 0] * 255, SOURCES["flair"], rtol=1e-6)
    np.testing.assert_allclose(drawn[0]["image"][..., 2] * 255, expected()[CROP], rtol=1e-6)
    # Left out are sources that nobody reads, and systems that do not tell.
    full(judge(("t2+t1",)), attentive, cases, tmp_path)
    full(judge(), predict, cases, tmp_path)
    assert [asked["below"] and list(asked["below"].maps) for asked in drawn[2:]] == [["t1"], ["t1"], None, None]


def test_attention_is_drawn_below_its_source(cases, tmp_path):
    full(judge(), attentive, cases[:1], tmp_path)
    with Image.open(tmp_path / "figures" / "one.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Of the second line, t1 is the second of five columns: red above, blue below; flair is gray.
    cell = int(1.55 * 130)
    lower = pixels[60 + cell : 60 + 2 * cell]
    for column, rows, color in ((1, slice(40, 80), "red"), (1, slice(140, 180), "blue"), (0, slice(40, 180), "gray")):
        red, _, blue = lower[rows, column * cell + 60 : column * cell + 140].mean((0, 1))
        assert {"red": red - blue > 80, "blue": blue - red > 80, "gray": abs(red - blue) < 10 < red}[color], column
    assert lower[40:180, 2 * cell + 20 : 5 * cell].max() == 0


def test_sources_must_be_named_and_three_have_no_scd(cases, tmp_path, drawn):
    with pytest.raises(UserError, match="the first of the config's pairs"):
        judge(())
    document = full(judge(("t1+t2+flair",)), predict, cases, tmp_path)
    assert set(document["fusion"]["outputs"]["fused"]) == set(names_of(METRICS)) - {"scd"}
