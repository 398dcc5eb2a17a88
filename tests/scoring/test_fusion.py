"""Fused images scored against the folders of their sources: values, baselines, colors, refusals, the command."""

import math
import re

import numpy as np
import pytest

from jaxfuse.errors import CasesLeftOut
from jaxfuse.io.png import write_png
from jaxfuse.io.tables import read_json, read_rows
from jaxfuse.metrics.fusion import luminance, score_fused, stretch
from jaxfuse.report.fusion_table import render_fusion
from jaxfuse.scoring.fusion import score_fusion
from jaxfuse.scoring.protocol import Call
from tests.commands import call
from tests.refusals import refused

SIDE = 44  # vif needs 41
RNG = np.random.default_rng(0)
T1, T2 = (RNG.integers(20, 200, (SIDE, SIDE), np.uint8) for _ in range(2))
COLOR = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Two cases: the maximum of the sources, and a copy of the first."""
    for case, fused in (("a_z077", np.maximum(T1, T2)), ("b_z012", T1)):
        write_png(tmp_path / "pred" / f"{case}.png", fused)
        write_png(tmp_path / "ref" / "t1" / f"{case}.png", T1)
        write_png(tmp_path / "ref" / "t2" / f"{case}.png", T2)
    return tmp_path


def scored(root, ref="ref", *, allow_missing=False, **options):
    options = {"sources": None} | options
    return score_fusion(root / "pred", root / ref, root / "out", Call(allow_missing), **options)


def left_out(root, told, **options):
    """Asserts that one case alone is left out with this sentence, a pattern, and is in no row."""
    summary = scored(root, **options)
    assert list(summary["refused"]) == ["a_z077"]
    assert re.search(told, summary["refused"]["a_z077"])
    assert "a_z077" not in {row["case"] for row in read_rows(root / "out" / "cases.csv")}


def rows_of(root):
    return {(row["case"], row["output"]): row for row in read_rows(root / "out" / "cases.csv")}


def test_each_image_is_scored_beside_the_baselines(folders):
    summary = scored(folders)
    rows = rows_of(folders)
    outputs = [name + more for name in ("fused", "mean", "maximum") for more in ("", ", stretched")]
    assert [output for case, output in rows if case == "a_z077"] == outputs
    a = {output: rows["a_z077", output] for output in outputs}
    assert {**a["fused"], "output": ""} == {**a["maximum"], "output": ""}
    assert a["fused"]["qabf"] == score_fused(np.maximum(T1, T2), [T1, T2])["qabf"]
    assert a["fused, stretched"]["sd"] == stretch(np.maximum(T1, T2)).round().std()
    assert a["mean"]["mi_nats"] == score_fused((T1 / 2 + T2 / 2), [T1, T2])["mi_nats"]
    assert math.isnan(rows["b_z012", "fused"]["scd"])
    assert summary == read_json(folders / "out" / "summary.json") | {"outputs": summary["outputs"]}
    assert (summary["cases"], summary["sources"]) == (2, ["t1", "t2"])
    scd = summary["outputs"]["fused"]["scd"]
    assert (scd["n"], scd["undefined"], scd["mean"]) == (1, 1, a["fused"]["scd"])
    table = render_fusion(summary)
    assert f"| {summary['outputs']['fused']['qabf']['mean']:.3f} |" in table
    assert "fused: undefined and left out: SCD in 1 of 2 cases." in table


def test_color_is_judged_by_its_luminance(tmp_path):
    """A color source and a color fused image; a gray source stored as RGB counts as gray."""
    write_png(tmp_path / "pred" / "a.png", COLOR)
    write_png(tmp_path / "ref" / "PET" / "a.png", COLOR)
    write_png(tmp_path / "ref" / "MRI" / "a.png", np.repeat(T1[..., None], 3, axis=-1))
    scored(tmp_path)
    expected = score_fused(luminance(COLOR), [T1, luminance(COLOR)])
    found = rows_of(tmp_path)["a", "fused"]
    assert math.isnan(expected["scd"])  # the fused image copies a source
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_the_sources_are_chosen(folders):
    for case in ("a_z077", "b_z012"):
        write_png(folders / "ref" / "flair" / f"{case}.png", T2.T)
    assert scored(folders)["sources"] == ["flair", "t1", "t2"]
    assert "scd" not in rows_of(folders)["a_z077", "fused"]  # defined for two
    assert scored(folders, sources=["t2", "flair"])["sources"] == ["t2", "flair"]
    assert rows_of(folders)["a_z077", "maximum"]["sd"] == np.maximum(T2, T2.T).std()
    for names, said in (("t1",), "names t1; name 2 to 4"), (("t1",) * 2, "2 to 4 different"), (("t1", "x"), "folder x"):
        refused(said, scored, folders, sources=names)


def test_cases_that_lack_a_file_are_refused_or_left_out(folders):
    (folders / "ref" / "t2" / "b_z012.png").unlink()
    refused(r"case b_z012 has no image in .*t2; add b_z012.png, or pass --allow_missing", scored, folders)
    summary = scored(folders, allow_missing=True)
    assert (summary["cases"], summary["without_reference"]) == (1, ["b_z012"])


def test_folders_that_do_not_fit_are_refused_and_sizes_left_out(folders):
    write_png(folders / "pred" / "a_z077.png", T1[:-1])
    left_out(folders, r"case a_z077: .*are of 43 x 44 and 44 x 44 pixels; they must show one grid")
    for path in folders.rglob("*_z0*.png"):
        write_png(path, T1[:30, :30])
    with pytest.raises(CasesLeftOut, match="none of 2 cases could be done:\n  case a_z077: vif needs 41 pixels"):
        scored(folders)
    refused("ref is not a folder", scored, folders, ref="no/ref")
    refused(r"t1 holds 0 folders \(none\); name 2 to 4 of its folders", scored, folders, ref="ref/t1")


def test_the_command_prints_the_table(folders):
    options = [f"--{name}={folders / name}" for name in ("pred", "ref", "out")]
    result = call("evaluate", *options, "--protocol=fusion", "--sources=t2,t1", folder=folders)
    assert result.returncode == 0, result.stderr
    for words in ("| maximum, stretched |", "Sources: t2, t1."):
        assert words in result.stdout
    assert read_json(folders / "out" / "summary.json")["sources"] == ["t2", "t1"]


@pytest.mark.slow
def test_processes_write_what_one_writes(folders):
    for count in (1, 2):
        score_fusion(folders / "pred", folders / "ref", folders / f"{count}", Call(processes=count), sources=None)
    for name in ("cases.csv", "summary.json"):
        assert (folders / "2" / name).read_bytes() == (folders / "1" / name).read_bytes()
