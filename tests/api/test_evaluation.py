"""Evaluations that are called for in Python give what the command writes."""

import numpy as np
import pytest

import jaxfuse
from jaxfuse import evaluate
from jaxfuse.io.tables import read_json, read_rows, write_json
from tests.commands import call_here
from tests.made_cases import nested_cubes, save_volume
from tests.refusals import refused

SHAPE = (12, 12, 12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """References, predictions of two methods, and the tables that the command writes."""
    folder = tmp_path_factory.mktemp("evaluation")
    for number, case in enumerate("abc"):
        save_volume(folder / "ref" / f"{case}.nii.gz", nested_cubes(SHAPE, {2: 4, 1: 3, 4: 2}))
        for name, shift in (("one", number), ("two", 1)):
            save_volume(folder / name / f"{case}.nii.gz", np.roll(nested_cubes(SHAPE), shift, 0))
    common = {"ref": folder / "ref", "protocol": "brats", "labels": "brats", "processes": 1, "pictures": 0}
    call_here(evaluate, pred=folder / "one", out=folder / "alone", **common)
    call_here(evaluate, folder / "two", pred=folder / "one", out=folder / "both", **common)
    return folder


def test_a_table_holds_what_the_command_writes(folders, tmp_path):
    scores = jaxfuse.evaluate(folders / "one", folders / "ref", "brats", labels="brats")
    assert scores.rows == read_rows(folders / "alone" / "cases.csv")
    assert scores.summary == read_json(folders / "alone" / "summary.json")
    assert scores.to_csv(tmp_path / "t.csv").read_bytes() == (folders / "alone" / "cases.csv").read_bytes()
    assert len(scores) == 9
    assert scores.columns[:3] == ("case", "output", "region")
    assert scores.column("case", region="WT") == ["a", "b", "c"]
    assert scores.mean("dice", region="WT") == pytest.approx(
        scores.summary["outputs"]["prediction"]["WT"]["dice"]["mean"]
    )
    assert "<td>WT</td>" in scores._repr_html_()
    assert "Dice" in str(scores)


def test_files_are_written_where_they_are_asked_for(folders, tmp_path):
    how = {"labels": "brats", "pictures": 0}
    jaxfuse.evaluate(str(folders / "one"), folders / "ref", "brats", out=tmp_path / "out", **how)
    for name in ("cases.csv", "summary.json", "report.html"):
        assert (tmp_path / "out" / name).read_bytes() == (folders / "alone" / name).read_bytes(), name


def test_several_methods_are_compared(folders, tmp_path):
    methods = {"one": folders / "one", "two": folders / "two"}
    found = jaxfuse.evaluate(methods, folders / "ref", "brats", labels="brats")
    write_json(tmp_path / "c.json", found.document)
    assert (tmp_path / "c.json").read_bytes() == (folders / "both" / "comparison.json").read_bytes()
    assert found["two"].rows == read_rows(folders / "both" / "two" / "cases.csv")
    assert found.to_csv(tmp_path / "t.csv").read_bytes() == (folders / "both" / "comparison.csv").read_bytes()
    assert "<th>Mean rank</th>" in found._repr_html_()
    assert "| Place |" in str(found)
    seeds = jaxfuse.evaluate({"all": [folders / "one", folders / "two"]}, folders / "ref", "brats", labels="brats")
    assert seeds.document["seeds"] == {"all": 2}


def test_a_case_that_cannot_be_scored_is_named(folders, tmp_path):
    for case in "ab":
        save_volume(tmp_path / "pred" / f"{case}.nii.gz", nested_cubes(SHAPE)[:, :, : 12 if case == "a" else 11])
    given = {"labels": "brats", "allow_missing": True}
    with pytest.warns(UserWarning, match="left out: prediction and reference of case b do not fit"):
        scores = jaxfuse.evaluate(tmp_path / "pred", folders / "ref", "brats", **given)
    assert scores.refused.keys() == {"b"}
    assert scores.summary["without_prediction"] == ["c"]


@pytest.mark.parametrize(
    ("protocol", "options", "sentence"),
    [
        ("bratz", {}, "protocol 'bratz' is not known; choose one of brats,"),
        ("brats", {"target": "flair"}, "target is an option of the protocol synthesis, not of brats"),
        ("synthesis", {"emulate": "x"}, "emulate is 'x'; choose one of"),
        ("brats", {"labels": "x"}, "label scheme 'x' is not known"),
        ("brats", {"labels": "brats", "pictures": 2}, "out is not given, so that there is no page"),
        ("brats", {"labels": "brats", "groups": "none.csv"}, "^groups none.csv cannot be read"),
    ],
)
def test_odd_requests_are_refused(folders, protocol, options, sentence):
    refused(sentence, jaxfuse.evaluate, folders / "one", folders / "ref", protocol, **options)


def test_what_is_no_argument_and_what_is_no_prediction(folders):
    with pytest.raises(TypeError, match="evaluate has no option 'label'; protocol brats has labels"):
        jaxfuse.evaluate(folders / "one", folders / "ref", "brats", label="brats")
    refused("predictions came as int", jaxfuse.evaluate, 3, folders / "ref", "brats")


def test_what_a_run_predicts_is_scored_without_a_folder(folders):
    class Made:
        """Stands in for predictions of a run."""

        def save(self, folder):
            for case in "abc":
                save_volume(folder / f"{case}.nii.gz", nested_cubes(SHAPE))

    assert jaxfuse.evaluate(Made(), folders / "ref", "brats", labels="brats").mean("dice") == 1
