"""Translations whose errors are known."""

import numpy as np
import pytest

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.translation import translation
from jaxfuse.inference.tiling import Asked
from tests.engine.judging.heads import (
    MODALITIES,
    begins_as_it_says,
    full,
    prepared,
    prepared_volumes,
    rows_of,
    summary_of,
)


def translate(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
    """Fakes off by 0.5 (group a) and 0.25 (b), cycles by 0.125; outside the brain they are far off."""
    image = np.asarray(case.image)
    a, b = image[..., [0, 1]], image[..., [3, 2]]  # the pair t2 is named after flair below
    return {"fake_a": a + 0.5, "fake_b": b - 0.25, "cycle_a": a + 0.125, "cycle_b": b - 0.125}


def test_translation_errors_by_modality(tmp_path, drawn):
    judge = translation(Judged(None, "", pairs=("t1+t1ce", "flair+t2")))
    cases = prepared(tmp_path, "ab", labeled=False)
    scores = judge.quick(translate, cases)
    assert scores["score"] == pytest.approx(-0.125)
    assert (scores["fake_t1/mae"], scores["fake_t2/mae"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert begins_as_it_says(judge, translate, cases, tmp_path / "noted")
    drawn.clear()
    full(judge, translate, cases, tmp_path)
    assert len(rows_of(tmp_path, "case", "output")) == 2 * 8
    found = summary_of(tmp_path)
    assert set(found) == {"kind", "primary", "cases", "outputs", "seconds_per_subject"}
    assert (found["kind"], found["primary"], found["cases"]) == ("translation", "fake t1", 2)
    expected = {f"fake {m}": e for m, e in (("t1", 0.5), ("t1ce", 0.5), ("t2", 0.25), ("flair", 0.25))}
    expected |= {f"cycle {m}": 0.125 for m in MODALITIES}
    means = {output: metrics["mae"]["mean"] for output, metrics in found["outputs"].items()}
    assert means == pytest.approx(expected)
    assert [(figure["path"].stem, figure["modalities"]) for figure in drawn] == [
        (case, ["t1", "t1ce", "flair", "t2"]) for case in "ab"
    ]


def test_translation_counts_the_brain_only_and_groups_of_unequal_size_have_no_panel(tmp_path, drawn):
    """A head with a corner cut off: what is made outside of it does not count."""
    head = np.zeros((4, 4, 4, 4), np.float32)
    head[1:, 1:, 1:] = np.random.default_rng(0).uniform(1, 2, (3, 3, 3, 4))
    head[0, 0, 1] = 1.0

    def outside(case: PreparedCase, asked: Asked) -> dict[str, np.ndarray]:
        image = np.asarray(case.image)
        a, b = np.split(np.where(image == 0, np.float32(100), image), [1], axis=-1)
        return {"fake_a": a, "cycle_a": a, "fake_b": b, "cycle_b": b}

    judge = translation(Judged(None, "", pairs=("t1", "t1ce+t2+flair")))
    cases = prepared_volumes(tmp_path, "a", head, None)
    assert set(judge.quick(outside, cases).values()) == {0.0}
    assert full(judge, outside, cases, tmp_path)["cases"] == 1
    assert drawn == []
