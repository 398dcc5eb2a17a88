"""Rows side by side: runs of equal data are drawn together, in the folder of the run and in its report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.preprocess import PreparedCase, prepare
from jaxfuse.data.sources.brats import find_cases
from jaxfuse.engine import rows
from jaxfuse.engine.assess import SegmentationAssessment
from jaxfuse.engine.rows import draw_rows
from jaxfuse.engine.workdir import related_runs
from jaxfuse.io.tables import write_json
from jaxfuse.labels import SCHEMES
from jaxfuse.report.html import write_report

SCHEME, SHAPE, MODALITIES = SCHEMES["brats"], (8, 7, 6), ("t1", "flair")


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Sequence[PreparedCase]:
    """Two heads without background, so that nothing is cropped."""
    root = tmp_path_factory.mktemp("data")
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 2:5, 2:4], label[3:5, 3, 3] = 2, 4
    for number, name in enumerate(("p1", "p2")):
        rng = np.random.default_rng(number)
        (root / name).mkdir()
        arrays = {m: rng.integers(1, 99, SHAPE).astype(np.int16) for m in MODALITIES}
        for suffix, array in (arrays | {"seg": label}).items():
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), root / name / f"{name}_{suffix}.nii.gz")
    files = find_cases(root, MODALITIES, labels_required=True)
    return prepare(files, MODALITIES, SCHEME, cache=root / "cache")


def begin(workdir: Path, row: str, fingerprint: str, result: tuple[str, ...] = ("fusion",)) -> Path:
    """The two files that every run has from its first step on."""
    workdir.mkdir(parents=True)
    schedule = ("transition", *result)
    write_json(workdir / "config.json", {"name": "cmff", "row": row, "schedule": schedule, "result": result})
    write_json(workdir / "dataset.json", {"fingerprint": fingerprint})
    return workdir


def keep(workdir: Path, folder: str, **maps: np.ndarray) -> Path:
    """The label maps that a judged result leaves behind."""
    (workdir / "results" / folder).mkdir(parents=True)
    np.savez_compressed(workdir / "results" / folder / "labels.npz", **maps)
    return workdir


def constant(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


@pytest.fixture
def drawn(monkeypatch) -> list[Mapping[str, Any]]:
    """What would be drawn, figure by figure."""
    calls: list[Mapping[str, Any]] = []
    monkeypatch.setattr(rows.figures, "comparison", lambda path, **given: calls.append({"path": path, **given}))
    return calls


def test_maps_of_equal_data_come_together_case_by_case(tmp_path, cases, drawn):
    mine = keep(begin(tmp_path / "ours", "ours", "1"), "fusion", p1=constant(1), p2=constant(2))
    keep(begin(tmp_path / "other", "S_A+S_B", "1", ("branch_a", "branch_b")), "result", p1=constant(3))
    keep(begin(tmp_path / "branch", "S_A", "1", ("branch_a",)), "branch_a", p1=constant(0), p2=constant(1))
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert [call["path"] for call in drawn] == [mine / "figures" / "rows" / f"{case}.png" for case in ("p1", "p2")]
    shown = [{name: np.unique(array).tolist() for name, array in call["predictions"].items()} for call in drawn]
    assert shown[0] == {"ours (ours)": [1], "S_A (branch)": [0], "S_A+S_B (other)": [3]}
    assert shown[1] == {"ours (ours)": [2], "S_A (branch)": [1]}
    for call, case in zip(drawn, cases, strict=True):
        assert call["modality"] == "flair"
        np.testing.assert_array_equal(call["image"], case.image[..., 1])
        np.testing.assert_array_equal(call["truth"], case.label)
        assert call["spacing_mm"] == (1.0, 2.0, 3.0)


def test_other_data_and_unfinished_runs_stay_out(tmp_path, cases, drawn):
    mine = keep(begin(tmp_path / "ours", "ours", "1"), "fusion", p1=constant(1), p2=constant(2))
    keep(begin(tmp_path / "other", "random", "2"), "fusion", p1=constant(3), p2=constant(3))
    begin(tmp_path / "unfinished", "wo_MG", "1")
    # A phase on the way is no result.
    keep(begin(tmp_path / "halfway", "S_A+S_B", "1", ("branch_a", "branch_b")), "branch_a", p1=constant(1))
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert drawn == []
    assert not (mine / "figures").exists()
    keep(begin(tmp_path / "same", "random", "1"), "fusion", p2=constant(3))
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert [(call["path"].stem, list(call["predictions"])) for call in drawn] == [
        ("p2", ["ours (ours)", "random (same)"])
    ]


def judged(workdir: Path, cases: Sequence[PreparedCase], answer: int) -> Path:
    """A result as the end of training judges it: one class for every voxel."""
    probs = np.zeros((*SHAPE, 4), np.float32)
    probs[..., answer] = 1
    SegmentationAssessment(SCHEME, "S_F", ("S_F",)).full(
        lambda case: {"S_F": probs},
        cases[:1],
        results=workdir / "results" / "fusion",
        figures_dir=workdir / "figures" / "fusion",
        title="fusion",
    )
    return workdir


def test_the_report_shows_the_rows_of_equal_data_only(tmp_path, cases):
    mine = judged(begin(tmp_path / "ours", "ours", "1"), cases, 2)
    judged(begin(tmp_path / "random", "random", "1"), cases, 1)
    judged(begin(tmp_path / "stranger", "wo_MG", "2"), cases, 3)
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert [path.name for path in (mine / "figures" / "rows").iterdir()] == ["p1.png"]
    page = write_report(mine, related=related_runs(mine)).read_text()
    picture = base64.b64encode((mine / "figures" / "rows" / "p1.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{picture}"' in page
    assert "p1: the rows side by side" in page
    assert "random" in page
    assert "stranger" not in page
    assert "wo_MG" not in page


def test_the_report_of_a_run_alone_compares_nothing(tmp_path, cases):
    mine = judged(begin(tmp_path / "ours", "ours", "1"), cases, 2)
    judged(begin(tmp_path / "stranger", "wo_MG", "2"), cases, 3)
    draw_rows(mine, related_runs(mine), cases, SCHEME)
    assert not (mine / "figures" / "rows").exists()
    assert "side by side" not in write_report(mine, related=related_runs(mine)).read_text()
