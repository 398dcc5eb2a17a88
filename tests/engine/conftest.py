"""Cases on disk and runs that tests of the engine share."""

from pathlib import Path

import numpy as np
import pytest

from tests.engine.valid_phases import on_disk


@pytest.fixture
def labeled(tmp_path):
    """Two cases with a labeled voxel."""
    label = np.zeros((2, 12, 10, 9), np.uint8)
    label[0, 3, 7, 2] = label[1, 11, 0, 4] = 1
    return [on_disk(tmp_path, f"case{i}", one) for i, one in enumerate(label)]


@pytest.fixture
def healthy(tmp_path):
    return on_disk(tmp_path, "healthy", np.zeros((12, 10, 9), np.uint8))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where runs of `view_runs.py` lie, with the cases that all of them prepare alike."""
    return tmp_path_factory.mktemp("views")
