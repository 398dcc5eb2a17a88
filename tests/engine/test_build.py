"""Which cases are looked at while a phase trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxfuse.data.preprocess import CaseFacts, PreparedCase
from jaxfuse.engine.build import spread


def case(number: int) -> PreparedCase:
    empty = {"affine": (), "voxels_per_class": (), "mean": (), "std": ()}
    place = {"spacing_mm": (1.0, 1.0), "original_shape": (4, 4), "crop_start": (0, 0), "shape": (4, 4)}
    return PreparedCase(Path("nowhere"), "", CaseFacts(id=str(number), group="", modalities=("t1",), **empty, **place))


@pytest.mark.parametrize(
    ("cases", "count", "chosen"),
    [(9, 1, [4]), (9, 3, [1, 4, 7]), (10, 2, [2, 7]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]), (1, 1, [0])],
)
def test_watched_cases_are_spread_over_the_list(cases, count, chosen):
    assert [one.id for one in spread([case(i) for i in range(cases)], count)] == [str(i) for i in chosen]
