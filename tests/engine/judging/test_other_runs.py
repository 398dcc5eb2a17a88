"""Rows side by side: runs of equal data are drawn together, in the folder of the run and in its report."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.prepared import PreparedCase
from jaxfuse.engine.judging.other_runs import draw_rows, draw_synthesized
from jaxfuse.engine.judging.segmentation import SegmentationAssessment
from jaxfuse.engine.run_folder.workdir import related_runs
from jaxfuse.io.npz import write_npz
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.labels import SCHEMES
from jaxfuse.report.html import write_report
from tests.made_cases import prepared_cases

SCHEME, SHAPE, MODALITIES = SCHEMES["brats"], (8, 7, 6), ("t1", "flair")


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Sequence[PreparedCase]:
    """Two heads without background, so that nothing is cropped."""
    root = tmp_path_factory.mktemp("data")
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 2:5, 2:4], label[3:5, 3, 3] = 2, 4
    rng = np.random.default_rng(0)
    made = {p: {m: rng.integers(1, 99, SHAPE, np.int16) for m in MODALITIES} | {"seg": label} for p in ("p1", "p2")}
    return prepared_cases(root, made, SCHEME, spacing_mm=(1, 2, 3))


def begin(workdir: Path, row: str, fingerprint: str, result: tuple[str, ...] = ("fusion",)) -> Path:
    """The two files that every run has from its first step on."""
    workdir.mkdir(parents=True)
    schedule = ("transition", *result)
    write_json(workdir / "config.json", {"name": "cmff", "row": row, "schedule": schedule, "result": result})
    write_json(workdir / "dataset.json", {"fingerprint": fingerprint})
    return workdir


def keep(workdir: Path, folder: str, **maps: np.ndarray) -> Path:
    """The label maps that a judged result leaves behind."""
    write_npz(workdir / "results" / folder / "labels.npz", **maps)
    return workdir


def constant(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def test_maps_of_equal_data_come_together_case_by_case(tmp_path, cases, drawn):
    mine = keep(begin(tmp_path / "ours", "ours", "1"), "fusion", p1=constant(1), p2=constant(2))
    # Other data and unfinished runs stay out; a phase on the way is no result.
    keep(begin(tmp_path / "stranger", "random", "2"), "fusion", p1=constant(3), p2=constant(3))
    begin(tmp_path / "unfinished", "wo_MG", "1")
    keep(begin(tmp_path / "halfway", "S_A+S_B", "1", ("branch_a", "branch_b")), "branch_a", p1=constant(1))
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert drawn == []
    assert not (mine / "figures").exists()
    keep(begin(tmp_path / "branch", "S_A", "1", ("branch_a",)), "branch_a", p2=constant(1))
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    keep(begin(tmp_path / "other", "S_A+S_B", "1", ("branch_a", "branch_b")), "result", p1=constant(3), p2=constant(0))
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert [call["path"] for call in drawn] == [
        mine / "figures" / "rows" / f"{case}.png" for case in ("p2", "p1", "p2")
    ]
    first, *shown = [{name: np.unique(array).tolist() for name, array in call["predictions"].items()} for call in drawn]
    assert first == {"ours (ours)": [2], "S_A (branch)": [1]}
    assert shown == [{"ours (ours)": [1], "S_A+S_B (other)": [3]}, {**first, "S_A+S_B (other)": [0]}]
    for call, case in zip(drawn[1:], cases, strict=True):
        assert (call["modality"], call["spacing_mm"]) == ("flair", (1.0, 2.0, 3.0))
        np.testing.assert_array_equal(call["image"], case.image[..., 1])
        np.testing.assert_array_equal(call["truth"], case.label)


def synthesizing(workdir: Path, row: str, pairs: tuple[str, str], fingerprint: str = "1", **volumes) -> Path:
    """A run that made a modality, as it leaves it behind; without volumes it is not judged yet."""
    begin(workdir, row, fingerprint, ("synthesis",))
    write_json(workdir / "config.json", {**read_json(workdir / "config.json"), "pairs": pairs})
    if volumes:
        write_npz(workdir / "results" / "synthesis" / "synthesized.npz", **volumes)
    return workdir


def test_synthesized_volumes_of_one_target_come_together(tmp_path, cases, drawn):
    half, whole = np.full(SHAPE, 0.5, np.float16), np.ones(SHAPE, np.float16)
    mine = synthesizing(tmp_path / "ours", "full", ("t1", "flair"), p1=half, p2=half)
    draw_synthesized(mine, related_runs(mine), cases)
    assert drawn == []
    synthesizing(tmp_path / "early", "early", ("t1", "flair"), p2=whole)
    synthesizing(tmp_path / "unfinished", "late", ("t1", "flair"))
    synthesizing(tmp_path / "other_target", "full", ("flair", "t1"), p1=whole, p2=whole)
    synthesizing(tmp_path / "other_data", "late", ("t1", "flair"), "2", p1=whole, p2=whole)
    keep(begin(tmp_path / "labels", "ours", "1"), "fusion", p1=constant(1), p2=constant(2))
    draw_synthesized(mine, related_runs(mine), cases)
    (call,) = drawn
    assert call["path"] == mine / "figures" / "rows" / "p2.png"
    shown = {name: (made.dtype, made.max()) for name, made in call["made"].items()}
    assert shown == {"full (ours)": (np.float32, 0.5), "early (early)": (np.float32, 1.0)}
    assert (call["target"], list(call["sources"]), call["spacing_mm"]) == ("flair", ["t1"], (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(call["sources"]["t1"], cases[1].image[..., 0])
    np.testing.assert_array_equal(call["truth"], cases[1].image[..., 1])


def judged(workdir: Path, cases: Sequence[PreparedCase], answer: int) -> Path:
    """A result as the end of training judges it: one class for every voxel."""
    labels = np.full(SHAPE, answer, np.uint8)
    places = {"results": workdir / "results" / "fusion", "figures_dir": workdir / "figures" / "fusion"}
    judge = SegmentationAssessment(SCHEME, "S_F", ("S_F",))
    judge.full(lambda case, asked: {"S_F": labels}, cases[:1], **places, title="fusion")
    return workdir


def test_the_report_shows_the_rows_of_equal_data_only(tmp_path, cases):
    mine = judged(begin(tmp_path / "ours", "ours", "1"), cases, 2)
    judged(begin(tmp_path / "stranger", "wo_MG", "2"), cases, 3)
    assert "side by side" not in write_report(mine, related=related_runs(mine)).read_text()
    judged(begin(tmp_path / "random", "random", "1"), cases, 1)
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert [path.name for path in (mine / "figures" / "rows").iterdir()] == ["p1.png"]
    page = write_report(mine, related=related_runs(mine)).read_text()
    picture = base64.b64encode((mine / "figures" / "rows" / "p1.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{picture}"' in page
    assert "p1: the rows side by side" in page
    assert [word in page for word in ("random", "stranger", "wo_MG")] == [True, False, False]
