"""Any modality from any others, judged: each that a case has, from all others that it has."""

import numpy as np
import pytest

from jaxfuse.data.cache import prepare_with
from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.prepared import with_absent
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.completion import completion
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.synthesis import METRICS, psnr_db
from tests.engine.judging import heads
from tests.made_cases import channels_of
from tests.refusals import refused

MODALITIES = ("t1", "t2", "flair")
ALL = "+".join(MODALITIES)
# Of each case: those that it has.
HAS = {"a": MODALITIES, "b": ("t1", "flair"), "c": ("t2",)}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    def make(files):
        there = HAS[files.id]
        image = np.zeros((14, 13, 12, len(there)), np.float32)
        image[1:13, 1:12, 1:11] = np.random.default_rng(ord(files.id)).uniform(1, 2, (12, 11, 10, len(there)))
        case = Case(files.id, there, channels_of(image), None, np.eye(4), (1.0, 1.0, 1.0))
        return with_absent(prepare_case(case, normalize=NORMALIZATIONS["minmax"], classes=0), MODALITIES)

    cache = tmp_path_factory.mktemp("cache")
    return prepare_with(make, [CaseFiles(name, {}) for name in HAS], {}, images=(), label=False, cache=cache)


def judge(pairs=(ALL, ALL)):
    return completion(Judged(None, "completed", pairs=pairs))


def predict(case, asked):
    """Every modality too dark, flair more so than the others."""
    factors = {"synthesized_t1": 0.9, "synthesized_t2": 0.9, "synthesized_flair": 0.6}
    places = {f"synthesized_{name}": place for place, name in enumerate(MODALITIES)}
    image = np.asarray(case.image)
    return {name: factors[name] * image[..., places[name], None] for name in asked.values}


def psnr(case, name, factor):
    real = np.asarray(case.image[..., MODALITIES.index(name)])
    return psnr_db(real, factor * real)


def test_only_what_a_case_has_is_made_of_what_else_it_has(cases):
    found = {case.id: {one.target: one.sources for one in judge().of_case(case)} for case in cases}
    assert found == {
        "a": {"t1": ("t2", "flair"), "t2": ("t1", "flair"), "flair": ("t1", "t2")},
        "b": {"t1": ("flair",), "flair": ("t1",)},
        "c": {},
    }
    assert [one.target for one in judge(("t1+t2", "flair")).of_case(cases[1])] == ["flair"]


def test_the_score_is_the_mean_over_modalities(cases):
    a, b, _ = cases
    found = judge().quick(predict, cases)
    each = {
        "t1": np.mean([psnr(a, "t1", 0.9), psnr(b, "t1", 0.9)]),
        "t2": psnr(a, "t2", 0.9),
        "flair": np.mean([psnr(a, "flair", 0.6), psnr(b, "flair", 0.6)]),
    }
    for name, value in each.items():
        assert found[f"synthesized_{name}/psnr_db"] == pytest.approx(value)
    assert found["score"] == found["completed/psnr_db"] == pytest.approx(np.mean(list(each.values())))


def test_rows_and_summary(cases, tmp_path, drawn):
    assert heads.begins_as_it_says(judge(), predict, cases, tmp_path / "noted")
    drawn.clear()
    document = heads.full(judge(), predict, cases, tmp_path)
    rows = heads.rows_of(tmp_path, "case", "output")
    a, b = ([output for case, output in rows if case == name] for name in "ab")
    plain = ["mean of the others as t1", "mean of the others as t2", "mean of the others as flair"]
    assert a == ["completed", "mean of the others", "t1", "t2", "flair", *plain]
    assert b == ["completed", "mean of the others", "t1", "flair", plain[0], plain[2]]
    row = rows["b", "flair"]
    assert row["psnr_db"] == pytest.approx(psnr(cases[1], "flair", 0.6))
    whole = np.mean([rows["a", name]["psnr_db"] for name in MODALITIES])
    assert rows["a", "completed"]["psnr_db"] == pytest.approx(whole)
    image = np.asarray(cases[0].image)
    assert rows["a", plain[2]]["psnr_db"] == pytest.approx(psnr_db(image[..., 2], image[..., :2].mean(-1)))
    assert (document["kind"], document["primary"], document["cases"]) == ("synthesis", "completed", 2)
    assert document["outputs"]["t2"]["psnr_db"]["n"] == 1
    # Drawn is what is made worst, of the worst case first.
    worst = sorted("ab", key=lambda name: rows[name, "completed"]["psnr_db"])
    assert [(one["path"].name, one["target"]) for one in drawn] == [(f"{name}.png", "flair") for name in worst]


def test_a_score_that_one_modality_lacks_is_left_out_of_the_mean(cases, tmp_path, drawn):
    def exact_t1(case, asked):
        places = {f"synthesized_{name}": place for place, name in enumerate(MODALITIES)}
        image = np.asarray(case.image)
        return {
            name: (1.0 if name == "synthesized_t1" else 0.9) * image[..., places[name], None] for name in asked.values
        }

    heads.full(judge(), exact_t1, cases, tmp_path)
    rows = heads.rows_of(tmp_path, "case", "output")
    assert np.isinf(rows["a", "t1"]["psnr_db"])
    others = [rows["a", name]["psnr_db"] for name in ("t2", "flair")]
    assert rows["a", "completed"]["psnr_db"] == pytest.approx(np.mean(others))
    assert rows["a", "completed"]["ssim"] == pytest.approx(np.mean([rows["a", name]["ssim"] for name in MODALITIES]))
    nothing = {"case": "a", "output": "t1", **dict.fromkeys(names_of(METRICS), np.nan)}
    assert np.isnan(judge()._over(cases[0], "completed", [nothing])["psnr_db"])


def test_what_cannot_be_judged_is_refused(cases, tmp_path):
    refused("none of the 1 cases that are watched while training has two", judge().quick, predict, cases[2:])
    refused("no case to be judged has two modalities", heads.full, judge(), predict, cases[2:], tmp_path)
    refused(r"pairs is \('t1\+t2',\); a synthesis from any sources is judged with", judge, ("t1+t2",))
