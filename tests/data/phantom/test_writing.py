"""Phantoms of volumes as data sets: cases repeat, a set is written once and whole, and found again by its request."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from jaxfuse.data.phantom import brats, infant, isles, stroke
from jaxfuse.errors import UserError
from tests.refusals import refused


@dataclass(frozen=True)
class Kind:
    """One generator: its grid for tests, and a grid too small with the least spacing that is told."""

    make: Any
    write: Any
    small: dict[str, Any]
    shape: tuple[int, int, int]
    least_mm: str


KINDS = {
    # Spans in mm over voxels: the axis that decides differs.
    "brats": Kind(
        brats.make_case, brats.write_brats_phantoms, {"shape": (32, 32, 24), "spacing_mm": 6.0}, (32,) * 3, "5.75"
    ),
    "infant": Kind(
        infant.make_infant, infant.write_infant_phantoms, {"shape": (32, 36, 28), "spacing_mm": 4.6}, (32,) * 3, "5.13"
    ),
    "isles": Kind(
        isles.make_isles, isles.write_isles_phantoms, {"shape": (36, 40, 30), "spacing_mm": 4.6}, (40,) * 3, "4.60"
    ),
    # The number of slices does not matter.
    "stroke": Kind(
        stroke.make_stroke,
        stroke.write_stroke_phantoms,
        {"shape": (36, 40, 16), "spacing_mm": 4.6},
        (40, 40, 4),
        "4.60",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


def test_a_case_repeats_and_cases_differ(kind):
    (images, label), (again, label_again) = (kind.make(3, 5, **kind.small) for _ in range(2))
    other, _ = kind.make(3, 6, **kind.small)
    np.testing.assert_array_equal(label, label_again)
    for modality, image in images.items():
        np.testing.assert_array_equal(image, again[modality])
        assert not np.array_equal(image, other[modality])


def test_a_request_is_written_once_and_another_is_refused(kind, tmp_path):
    def written(seed=1):
        calls = []
        asked = {"cases": 2, "seed": seed, "on_case": lambda *done: calls.append(done), **kind.small}
        places = kind.write(tmp_path / "set", **asked)
        return places, calls, {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}

    places, calls, stamps = written()
    assert calls == [(1, 2), (2, 2)]
    assert written() == (places, [], stamps)
    refused("seed 1 there and 2 asked for", written, seed=2)
    with pytest.raises(UserError, match=r"at least 1 case.* a seed of at least 0.*; came 0"):
        kind.write(tmp_path / "none", cases=0, seed=1, **kind.small)


def test_a_foreign_folder_is_left_alone(kind, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    refused("no phantom data set", kind.write, tmp_path, cases=1, seed=0, **kind.small)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_run_leaves_no_data_set(kind, tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind.write(tmp_path / "set", cases=2, seed=0, on_case=interrupt, **kind.small)
    assert list(tmp_path.iterdir()) == []


def test_a_view_too_small_is_refused_with_the_spacing_to_use(kind, tmp_path):
    message, asked = f"use a spacing of at least {kind.least_mm} mm", {"shape": kind.shape, "spacing_mm": 3.0}
    refused(message, kind.make, 0, 0, **asked)
    refused(message, kind.write, tmp_path / "set", cases=1, seed=0, **asked)
    kind.make(0, 0, shape=kind.shape, spacing_mm=float(kind.least_mm))
