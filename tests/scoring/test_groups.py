"""Scores by groups, by the command: what differs between the groups is known."""

import numpy as np

from jaxfuse import evaluate
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.scoring.groups import COLUMNS
from tests.commands import call_here
from tests.made_cases import save_volume

TEXTS = COLUMNS[:4]


def written(root, *methods):
    """Six cases of one lesion of rising size; of the last two the prediction is empty."""
    for case in range(6):
        truth = np.zeros((24, 12, 10), np.uint8)
        truth[2 : 4 + 3 * case, 2:8, 2:8] = 1
        pred = truth if case < 4 else np.zeros_like(truth)
        save_volume(root / "ref" / f"c{case}.nii.gz", truth)
        for method in methods or ("pred",):
            save_volume(root / method / f"c{case}.nii.gz", pred)


def called(root, *others, protocol="brats2023", **more):
    folders = {"pred": root / "pred", "ref": root / "ref", "out": root / "out"}
    call_here(evaluate, *others, **folders, protocol=protocol, pictures=0, **more)


def test_groups_are_in_all_files(tmp_path):
    written(tmp_path)
    lines = ["case,grade,site", *(f"c{n},{'HGG' if n < 4 else 'LGG'},{'x' if n else ''}" for n in range(6))]
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    called(tmp_path, groups=tmp_path / "groups.csv", labels="lesion")
    groups = read_json(tmp_path / "out" / "summary.json")["groups"]
    assert list(groups) == ["grade", "site", "volume of the truth", "number of lesions", "volume of the lesion"]
    (region,) = groups["grade"]["groups"]["HGG"]
    means = {group: regions[region]["dice"]["mean"] for group, regions in groups["grade"]["groups"].items()}
    assert means == {"HGG": 1.0, "LGG": 0.0}
    assert groups["site"]["in_none"] == 1
    thirds = groups["volume of the lesion"]["groups"]
    assert [one[region]["found"]["mean"] for one in thirds.values()] == [1, 1, 0]
    rows = read_rows(tmp_path / "out" / "groups.csv", text=TEXTS)
    (one,) = (row for row in rows if (row["group"], row["metric"]) == ("LGG", "hd95_surfels_mm"))
    assert (one["count"], one["mean"], one["undefined"]) == (2, 374, 0)
    for name in ("groups.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert all(words in text for words in ("LGG", "largest third", "374.00 ± 0.00", "1 in no group"))


def test_methods_stand_side_by_side_and_bounds_are_stated(tmp_path):
    written(tmp_path, "pred", "other")
    called(tmp_path, tmp_path / "other", protocol="stroke", sizes_mm3="100,300")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<td>up to 100 mm³</td>") == 2
    groups = read_json(tmp_path / "out" / "other" / "summary.json")["groups"]
    assert list(groups) == ["volume of the truth"]
    counts = [next(iter(regions.values()))["count"] for regions in groups["volume of the truth"]["groups"].values()]
    assert counts == [1, 2, 3]


def test_few_cases_have_no_groups_and_no_table_of_them(tmp_path):
    written(tmp_path)
    for case in range(2, 6):
        for folder in ("pred", "ref"):
            (tmp_path / folder / f"c{case}.nii.gz").unlink()
    called(tmp_path, protocol="stroke")
    assert read_json(tmp_path / "out" / "summary.json")["groups"] == {}
    assert not (tmp_path / "out" / "groups.csv").exists()
