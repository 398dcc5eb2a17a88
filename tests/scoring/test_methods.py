"""Predictions of several methods, compared by the command: copies of one truth, made worse in known ways."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from jaxfuse import evaluate
from jaxfuse.io.tables import read_json, read_rows
from tests.commands import call_here
from tests.made_cases import save_volume

CASES = 8
CHANGES = {
    "same": lambda truth, case: truth,
    "shifted": lambda truth, case: np.roll(truth, 1 + case % 2, axis=0),
    "dilated": lambda truth, case: binary_dilation(truth, iterations=1),
    "emptied": lambda truth, case: np.zeros_like(truth) if case == 0 else truth,
}


def _noisy(seed):
    """A training that errs at random: the truth with its border voxels flipped by chance."""

    def change(truth, case):
        border = binary_dilation(truth) & ~truth
        return truth | (border & (np.random.default_rng((seed, case)).random(truth.shape) < 0.3))

    return change


CHANGES |= {f"seed{seed}": _noisy(seed) for seed in range(6)}
WORSE = ("same", "shifted", "dilated", "emptied")


def written(root, *methods, cases=CASES):
    for case in range(cases):
        truth = np.zeros((14, 12, 10), bool)
        truth[3:9, 3 : 7 + case % 3, 2:7] = True
        save_volume(root / "ref" / f"c{case}.nii.gz", truth.astype(np.uint8))
        for method in methods:
            save_volume(root / method / f"c{case}.nii.gz", CHANGES[method](truth, case).astype(np.uint8))
    return [root / method for method in methods]


def compared(root, first, *others, protocol="brats2023", **more):
    folders = {"pred": first, "ref": root / "ref", "out": root / "out"}
    call_here(evaluate, *others, **folders, protocol=protocol, labels="lesion", pictures=0, **more)
    return read_json(root / "out" / "comparison.json")


def _pair(found, metric, first, second):
    (one,) = (one for one in found["pairs"] if (one["metric"], one["first"], one["second"]) == (metric, first, second))
    return one


def test_each_change_has_its_difference_and_its_place(tmp_path, capsys):
    found = compared(tmp_path, *written(tmp_path, *WORSE))
    printed = capsys.readouterr().out
    assert (found["methods"], found["cases"]) == ([*WORSE], CASES)
    shifted = _pair(found, "dice", "same", "shifted")
    # Of six slices one or two are off, in turns: Dice 5/6 and 4/6.
    assert shifted["difference"] == pytest.approx(0.25)
    assert (shifted["p"], shifted["effect"]) == (pytest.approx(2 / 2**CASES, abs=0.01), 1.0)
    # Six pairs are tested together, in one region; three of them differ as clearly.
    assert shifted["p"] < shifted["p_holm"] <= 6 * shifted["p"]
    emptied = _pair(found, "dice", "same", "emptied")
    assert (emptied["difference"], emptied["p"]) == (1 / CASES, pytest.approx(1.0, abs=0.35))
    assert _pair(found, "hd95_surfels_mm", "same", "emptied")["difference"] == -374 / CASES
    assert _pair(found, "sensitivity", "same", "dilated")["difference"] == 0.0
    places = {name: one["place"] for name, one in found["ranking"]["methods"].items()}
    assert (places["same"], places["emptied"]) == (1, 2)
    assert {one["metric"] for one in found["ranking"]["measures"]} == {"lesion_dice", "lesion_hd95_mm"}
    for name in WORSE:
        assert len(read_rows(tmp_path / "out" / name / "cases.csv")) == CASES
    rows = read_rows(tmp_path / "out" / "comparison.csv", text=("metric", "region", "first", "second"))
    assert [{**row} for row in rows] == found["pairs"]
    for words in ("| 1     | same ", "same - shifted", "+0.250", "Cases: 8 that all methods have."):
        assert words in printed


def test_another_seed_differs_by_chance_alone_and_a_worse_method_by_more(tmp_path):
    folders = written(tmp_path, *(f"seed{seed}" for seed in range(6)), "shifted")
    found = compared(tmp_path, f"a={','.join(map(str, folders[:3]))}", f"b={','.join(map(str, folders[3:6]))}")
    assert (found["methods"], found["seeds"]) == (["a", "b"], {"a": 3, "b": 3})
    same = _pair(found, "dice", "a", "b")
    assert min(same["p"], same["p_seeds"]) > 0.05
    assert abs(same["difference"]) < 0.02
    assert same["low"] < 0 < same["high"]
    tables = [read_rows(tmp_path / "out" / "a" / f"seed{n}" / "cases.csv") for n in range(3)]
    dice = [np.mean([row["dice"] for row in rows]) for rows in tables]
    (of_a,) = (one for one in found["between_seeds"] if (one["method"], one["metric"]) == ("a", "dice"))
    assert (of_a["mean"], of_a["std"]) == pytest.approx((np.mean(dice), np.std(dice, ddof=1)))
    assert (of_a["lowest"], of_a["highest"]) == pytest.approx((min(dice), max(dice)))
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(words in page for words in ("<h3>Between seeds</h3>", "p (seeds)", "<td>a/seed0</td>"))
    rows = read_rows(tmp_path / "out" / "seeds.csv", text=("method", "region", "metric"))
    assert {row["method"] for row in rows} == {"a", "b"}
    worse = compared(tmp_path, f"a={','.join(map(str, folders[:3]))}", folders[-1], overwrite=True)
    assert _pair(worse, "dice", "a", "shifted")["p"] < 0.01
    assert "p_seeds" not in worse["pairs"][0]


def test_what_an_earlier_call_has_written_and_this_one_has_not_goes(tmp_path, capsys):
    first, second = written(tmp_path, "same", "shifted", cases=2)
    out = tmp_path / "out"
    compared(tmp_path, first, second)
    assert {"comparison.json", "comparison.csv", "report.html"} == names(out)
    (out / "comparison.json").write_text("{}")
    plain = {"protocol": "brats", "one_empty": "nan"}
    call_here(evaluate, pred=first, ref=tmp_path / "ref", out=out, labels="lesion", pictures=0, **plain)
    printed = capsys.readouterr().out
    assert f"Removed, as of an earlier call: {out / 'comparison.csv'}\n" in printed
    assert f"Kept, but of an earlier call: {out / 'comparison.json'}\n" in printed, "somebody has changed it"
    assert f"Scores of methods of an earlier call: {out / 'same'}, {out / 'shifted'}\n" in printed
    assert names(out) == {"cases.csv", "summary.json", "comparison.json", "report.html"}
    (out / "comparison.json").unlink()
    compared(tmp_path, first, second, **plain)
    printed = capsys.readouterr().out
    assert names(out) == {"comparison.json", "comparison.csv", "report.html"}
    assert "lesions.csv" not in names(out / "same"), "brats tells none apart"
    removed = [line for line in printed.splitlines() if line.startswith("Removed, as of an earlier call: ")]
    assert any(str(out / "same" / "lesions.csv") in line for line in removed)
    assert "Scores of methods" not in printed


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}


def test_seeds_of_one_method_have_no_pairs(tmp_path):
    folders = written(tmp_path, "seed0", "seed1", cases=2)
    found = compared(tmp_path, f"a={','.join(map(str, folders))}", protocol="isles2022")
    assert (found["pairs"], {one["seeds"] for one in found["between_seeds"]}) == ([], {2})
    assert "Paired differences" not in (tmp_path / "out" / "report.html").read_text()


def test_equal_predictions_share_a_place_and_differ_by_nothing(tmp_path):
    first, second = written(tmp_path / "a", "same")[0], written(tmp_path / "b", "same")[0]
    found = compared(tmp_path / "a", first, second)
    assert found["methods"] == ["a-same", "b-same"]
    assert {one["p"] for one in found["pairs"]} == {1.0}
    assert {one["place"] for one in found["ranking"]["methods"].values()} == {1}


def test_cases_that_not_all_have_are_left_out_and_named(tmp_path):
    folders = written(tmp_path, "same", "shifted", cases=3)
    (tmp_path / "shifted" / "c1.nii.gz").unlink()
    found = compared(tmp_path, *folders, protocol="brats", one_empty="nan", allow_missing=True)
    assert (found["cases"], found["not_of_all"]) == (2, ["c1"])
