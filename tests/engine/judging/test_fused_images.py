"""Fused images alone, whose scores are known: no label is read, and none is needed."""

import numpy as np
import pytest

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.fused_images import fused_images
from jaxfuse.inference.tiling import Asked
from jaxfuse.metrics.fusion import METRICS, qabf, score_fused
from jaxfuse.metrics.names import names_of
from jaxfuse.report.kinds import kind_of
from tests.engine.judging.fused_pictures import SOURCES, expected, fused_in_unit, on_the_whole_picture, pictures
from tests.engine.judging.heads import begins_as_it_says, full, rows_of, summary_of
from tests.refusals import refused


@pytest.fixture
def cases(tmp_path) -> tuple[PreparedCase, ...]:
    return pictures(tmp_path / "cache")


def predict(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
    assert asked == Asked(values=("fused",))
    return {"fused": fused_in_unit()}


def judge(*pairs: str):
    return fused_images(Judged(None, "fused", (), pairs))


def sources(*names: str) -> list[np.ndarray]:
    return [on_the_whole_picture(SOURCES[name]) for name in names]


def test_qabf_is_the_score_while_training(cases, tmp_path, drawn):
    scores = judge("flair+t1").quick(predict, cases)
    assert scores["score"] == scores["fused/qabf"] == pytest.approx(qabf(expected(), sources("flair", "t1")))
    assert begins_as_it_says(judge("flair+t1"), predict, cases, tmp_path)


def test_every_metric_stands_beside_those_of_mean_and_maximum(cases, tmp_path, drawn):
    document = full(judge("flair+t1"), predict, cases, tmp_path)
    assert document == summary_of(tmp_path)
    assert {key: document[key] for key in ("kind", "primary", "cases", "sources", "pictures")} == {
        "kind": "fusion",
        "primary": "fused",
        "cases": 2,
        "sources": ["flair", "t1"],
        "pictures": 2,
    }
    assert list(document["outputs"]) == ["fused", "fused, stretched", "mean", "maximum"]
    rows = rows_of(tmp_path, "case", "output")
    flair, t1 = sources("flair", "t1")
    for name, image in {"fused": expected(), "maximum": np.maximum(flair, t1)}.items():
        assert {m: rows["two", name][m] for m in names_of(METRICS)} == pytest.approx(score_fused(image, [flair, t1]))
    assert "Qabf" in kind_of(document).render(document)
    panel = next(one for one in drawn if "images" in one)
    assert panel["headers"] == ["flair", "t1", "fused"]
    np.testing.assert_array_equal(panel["images"][1], SOURCES["t1"])
    assert panel["images"][2][0, 0] == 255


def test_without_pairs_all_modalities_are_its_sources(cases, tmp_path, drawn):
    document = full(judge(), predict, cases, tmp_path)
    assert document["sources"] == ["t1", "t2", "flair"]
    assert set(document["outputs"]["fused"]) == set(names_of(METRICS)) - {"scd"}


def test_another_result_is_refused():
    refused("the result S is no fused image", fused_images, Judged(None, "S"))
