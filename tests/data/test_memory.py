"""Memory that preparation takes: at most what is predicted, and no more processes than there is memory for."""

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data import memory, preprocess
from jaxfuse.data.brain import TOLD
from jaxfuse.data.cache import VolumePreparation
from jaxfuse.data.entries import write_entry
from jaxfuse.data.intensities import LANDMARKS, NORMALIZATIONS
from jaxfuse.data.memory import PROCESS_BYTES, Forecast, available_bytes, fitting, volume_forecast
from jaxfuse.data.slices import WHOLE_BRAIN, StackPreparation
from jaxfuse.labels import label_scheme
from tests.made_cases import MODALITIES, case_files

SHAPE = (60, 48, 40)
SCHEME = label_scheme("brats")


def ball(shape: tuple[int, ...]) -> np.ndarray:
    """Marks a brain of a sixth of the voxels, as skull-stripped volumes have it."""
    distances = [((np.arange(n, dtype=np.float32) - n / 2) / (0.34 * n)) ** 2 for n in shape]
    return sum(np.ix_(*distances)) < 1


def files_of(folder: Path, dtype: type, head: str = "whole", shape: tuple[int, ...] = SHAPE, names=MODALITIES):
    """A case that is brain all over but for one plane, or whose brain alone is left, in nothing or in noise."""
    rng, arrays = np.random.default_rng(0), {}
    first = rng.integers(100, 2000, shape, np.int16)
    for number, name in enumerate(names):
        image = np.roll(first, number, 0)
        image[0] = 0
        if head != "whole":
            image[~ball(shape)] = 0
        if head == "noise":
            image += rng.integers(0, 20, shape, np.int16)
        arrays[name] = image.astype(dtype)
    return case_files(folder, "c", arrays | {"seg": (arrays[names[0]] > 1900).astype(np.uint8)})


@pytest.fixture
def few_planes_at_once(monkeypatch):
    """Small volumes are filled in as many pieces as large ones."""
    for module in (memory, preprocess):
        monkeypatch.setattr(module, "SLAB", 1 << 12)


def traced(make, one, folder: Path, precision: str) -> int:
    """Returns the peak of memory while a case is prepared and written."""
    tracemalloc.start()
    try:
        write_entry(folder, "key", make(one), precision)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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
@pytest.mark.usefixtures("few_planes_at_once")
def test_the_peak_is_at_most_what_is_predicted_and_not_far_below(tmp_path, dtype, rule, resample_mm, precision):
    one = files_of(tmp_path, dtype)
    if rule == "slices":
        make = StackPreparation(MODALITIES, SCHEME, WHOLE_BRAIN, NORMALIZATIONS["percentiles"], None, TOLD)
    else:
        make = VolumePreparation(MODALITIES, SCHEME, NORMALIZATIONS[rule], None, TOLD, resample_mm)
    forecast = make.forecast(one, precision)
    peak = traced(make, one, tmp_path / "entry", precision)
    assert peak <= forecast.peak_bytes <= 1.5 * peak + 1e6
    disk = sum(path.stat().st_size for path in (tmp_path / "entry").iterdir())
    assert disk <= forecast.disk_bytes + 10_000


@pytest.mark.parametrize("head", ["whole", "stripped", "noise"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(("names", "rule"), [(("t1",), "minmax"), (("t1", "t2"), "histmatch")])
@pytest.mark.usefixtures("few_planes_at_once")
def test_the_peak_is_at_most_what_is_predicted_whatever_the_images_show(tmp_path, head, dtype, names, rule):
    one = files_of(tmp_path, dtype, head, names=names)
    marks = dict.fromkeys(names, LANDMARKS["t1"])
    make = VolumePreparation(names, SCHEME, NORMALIZATIONS[rule], marks, TOLD, ())
    assert traced(make, one, tmp_path / "entry", "float32") <= make.forecast(one, "float32").peak_bytes


@pytest.mark.usefixtures("few_planes_at_once")
def test_a_case_that_lacks_modalities_takes_at_most_what_is_predicted(tmp_path):
    one = files_of(tmp_path, np.int16, names=("t1", "t1ce", "t2"))
    make = VolumePreparation(MODALITIES, SCHEME, NORMALIZATIONS["brain"], None, TOLD, (), incomplete=True)
    peak = traced(make, one, tmp_path / "entry", "float32")
    assert peak <= make.forecast(one, "float32").peak_bytes <= 1.5 * peak + 1e6


_PREPARED = r"""
import pickle, re, sys
from pathlib import Path
from jaxfuse.data.entries import write_entry
make, one = pickle.loads(Path(sys.argv[1]).read_bytes())
write_entry(Path(sys.argv[2]), "key", make(one), "float32")
print(1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("head", ["whole", "stripped"])
def test_a_process_holds_at_most_what_is_predicted_for_a_case_of_brats(tmp_path, head):
    one = files_of(tmp_path, np.int16, head, (240, 240, 155))
    make = VolumePreparation(MODALITIES, SCHEME, NORMALIZATIONS["brain"], None, TOLD, ())
    predicted = PROCESS_BYTES + make.forecast(one, "float32").peak_bytes
    (tmp_path / "job").write_bytes(pickle.dumps((make, one)))
    command = [sys.executable, "-c", _PREPARED, str(tmp_path / "job"), str(tmp_path / "entry")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak <= predicted <= 1.6 * peak


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
        UserWarning, match="5 processes that prepare cases would take 3.0 GB, and 2.4 GB are free: 3 do it"
    ):
        assert fitting([case] * 40, 5) == 3
    monkeypatch.setattr(memory, "available_bytes", lambda: 400_000_000)
    for asked in (0, 1, 5):
        with pytest.warns(UserWarning, match="may take 500 MB of memory, and 400 MB are free: one process tries it"):
            assert fitting([case] * 40, asked) == 1
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
