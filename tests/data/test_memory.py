"""Memory that preparation takes: at most what is predicted, and no more processes than there is memory for."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data import memory
from jaxfuse.data.brain import TOLD
from jaxfuse.data.cache import VolumePreparation
from jaxfuse.data.entries import write_entry
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.memory import PROCESS_BYTES, Forecast, available_bytes, fitting, volume_forecast
from jaxfuse.data.slices import WHOLE_BRAIN, StackPreparation
from jaxfuse.labels import label_scheme
from tests.made_cases import MODALITIES, case_files

SHAPE = (60, 48, 40)
SCHEME = label_scheme("brats")


def files_of(folder: Path, dtype: type):
    """A case that is brain all over, but for one plane."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(100, 2000, SHAPE).astype(dtype) for name in MODALITIES}
    for image in arrays.values():
        image[0] = 0
    return case_files(folder, "c", arrays | {"seg": (arrays["t1"] > 1900).astype(np.uint8)})


@pytest.mark.parametrize(
    ("dtype", "rule", "resample_mm", "precision"),
    [
        (np.int16, "brain", (), "float32"),
        (np.int16, "volume", (), "bfloat16"),
        (np.int16, "histmatch", (), "float32"),
        (np.float32, "brain", (), "float16"),
        (np.int32, "minmax", (), "float32"),
        (np.float64, "brain", (), "float32"),
        (np.int16, "brain", (0.9, 0.9, 0.9), "float32"),
        (np.int16, "brain", (2.0, 2.0, 2.0), "float32"),
        (np.int16, "slices", (), "float16"),
    ],
)
def test_the_peak_is_at_most_what_is_predicted_and_not_far_below(tmp_path, dtype, rule, resample_mm, precision):
    one = files_of(tmp_path, dtype)
    if rule == "slices":
        make = StackPreparation(MODALITIES, SCHEME, WHOLE_BRAIN, NORMALIZATIONS["percentiles"], None, TOLD)
    else:
        make = VolumePreparation(MODALITIES, SCHEME, NORMALIZATIONS[rule], None, TOLD, resample_mm)
    forecast = make.forecast(one, precision)
    tracemalloc.start()
    try:
        write_entry(tmp_path / "entry", "key", make(one), precision)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= forecast.peak_bytes <= 1.5 * peak + 1e6
    disk = sum(path.stat().st_size for path in (tmp_path / "entry").iterdir())
    assert disk <= forecast.disk_bytes + 10_000


def test_what_cannot_be_read_is_not_predicted(tmp_path):
    one = files_of(tmp_path, np.int16)
    for image in one.images.values():
        image.path.write_bytes(b"no volume")
    assert volume_forecast(one, MODALITIES, True, "float32") == Forecast(0, 0, 0)


def test_processes_are_as_many_as_there_are_cores_work_and_memory_for(monkeypatch):
    case = Forecast(80_000_000, 500_000_000, 60_000_000)
    each = PROCESS_BYTES + case.peak_bytes
    monkeypatch.setattr(memory, "cores", lambda: 8)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * each)
    assert [fitting([case] * many, 0) for many in (2, 12, 13, 40)] == [1, 1, 8, 8]
    assert [fitting([case] * 40, asked) for asked in (1, 3, 60)] == [1, 3, 40]
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * each)
    assert fitting([case] * 40, 0) == 3
    with pytest.warns(
        UserWarning, match="5 processes that prepare cases would take 3.1 GB, and 2.5 GB are free: 3 do it"
    ):
        assert fitting([case] * 40, 5) == 3
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert fitting([case] * 40, 0) == 1
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert fitting([case] * 40, 0) == 8


def test_limits_of_control_groups_count(tmp_path):
    assert available_bytes() is None or available_bytes() > 0
    new, old = tmp_path / "job", tmp_path / "memory" / "job"
    for folder, limit, used in (
        (new, "memory.max", "memory.current"),
        (old, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        folder.mkdir(parents=True)
        (folder / limit).write_text("1000\n")
        (folder / used).write_text("700\n")
    (new / "memory.stat").write_text("anon 400\ninactive_file 250\n")
    (old / "memory.stat").write_text("cache 1\ntotal_inactive_file 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "groups").write_text("4:cpu,memory:/job\n2:pids:/job\n0::/job\n")
    assert list(memory._of_groups(tmp_path / "groups", tmp_path)) == [350, 550]
    assert list(memory._of_groups(tmp_path / "none", tmp_path)) == []
