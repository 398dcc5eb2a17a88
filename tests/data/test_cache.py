"""The cache of prepared cases, and the facts of a split of them."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cache import prepare, prepare_with
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.dataset import dataset_facts
from jaxfuse.data.entries import read_prepared
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.memory import Forecast
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.data.shelf import Shelf
from jaxfuse.errors import UserError
from jaxfuse.labels import label_scheme
from tests.data.tiny_case import SCHEME, SHAPE, case_in_memory, files_on_disk
from tests.made_cases import save_volume
from tests.refusals import refused


def run(folder: Path, *files: CaseFiles, modalities=("t1", "flair"), scheme=SCHEME, **options):
    fresh: list[bool] = []
    options |= {"cache": folder / "cache", "on_case": lambda _, new: fresh.append(new)}
    return prepare(files, modalities, scheme, **options), fresh


def test_cached_arrays_are_those_in_memory_and_small_when_pickled(tmp_path):
    ((case,), _) = run(tmp_path, files_on_disk(tmp_path))
    expected = prepare_case(case_in_memory(), group="HGG", classes=4)
    assert case.facts == expected.facts
    for name in ("image", "label", "tumor", "brain"):
        stored, wanted = getattr(case, name), getattr(expected, name)
        assert isinstance(stored.base, np.memmap)
        assert stored.dtype == wanted.dtype
        np.testing.assert_array_equal(stored, wanted)
    assert read_prepared(case.folder) == case
    ((bare,), _) = run(tmp_path, replace(files_on_disk(tmp_path), label=None))
    assert (bare.labeled, bare.label, bare.tumor.size) == (False, None, 0)
    # The arrays that were read are left out of the pickle, and read again after it.
    pickled = pickle.dumps(case)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).image, case.image)


def test_second_run_makes_nothing_and_reads_no_image(tmp_path, monkeypatch):
    files = files_on_disk(tmp_path)
    first, fresh = run(tmp_path, files)
    assert fresh == [True]
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("an unchanged file was read again"))
    assert run(tmp_path, files) == (first, [False])


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize": NORMALIZATIONS["volume"]},
        {"modalities": ("flair", "t1")},
        {"scheme": label_scheme("brats2024")},
        {"scheme": None},
    ],
)
def test_other_settings_make_another_entry(tmp_path, changes):
    files = files_on_disk(tmp_path)
    ((first,), _) = run(tmp_path, files)
    ((second,), fresh) = run(tmp_path, files, **changes)
    assert fresh == [True]
    assert second.key != first.key


@pytest.mark.parametrize("changed", ["t1", "seg"])
def test_changed_content_makes_another_entry_and_a_copy_elsewhere_does_not(tmp_path, changed):
    ((first,), _) = run(tmp_path, files_on_disk(tmp_path / "a"))
    copied = files_on_disk(tmp_path / "b")
    assert run(tmp_path, copied)[1] == [False]
    path = tmp_path / "b" / f"c_{changed}.nii.gz"
    array = np.asarray(nib.load(path).dataobj).copy()
    array[3, 3, 3] = 2
    save_volume(path, array, spacing_mm=(1, 1, 2))
    os.utime(path, ns=(1, 1))  # a clock too coarse to tell two writes apart must not decide this test
    ((second,), fresh) = run(tmp_path, copied)
    assert fresh == [True]
    assert second.key != first.key


def test_a_failed_case_leaves_the_finished_ones_and_nothing_half_made(tmp_path):
    good, bad = files_on_disk(tmp_path, "a"), files_on_disk(tmp_path, "b")
    save_volume(bad.images["t1"].path, np.zeros(SHAPE, np.int16), spacing_mm=(1, 1, 2))
    refused("case b: modality t1 is 0 everywhere", run, tmp_path, good, bad)
    left = sorted(p.name.split("-")[0] for p in (tmp_path / "cache").iterdir())
    assert left == ["a", "digests.json"]
    assert run(tmp_path, good)[1] == [False]


def test_what_a_killed_process_had_begun_goes_after_a_day(tmp_path):
    cache, day = tmp_path / "cache", 86_400
    _, _ = run(tmp_path, files_on_disk(tmp_path))
    kept = {path.name for path in cache.iterdir()}
    names = {f".case-{'0a' * 10}.17.0123abcd": True, f".case-{'0b' * 10}.damaged-17": True}
    names |= {".digests.json.17.0123abcd": True, f".case-{'0c' * 10}.17.0123abcd": False, ".snapshot": False}
    for name in names:
        if name.startswith(".digests"):
            (cache / name).write_bytes(b"half")
        else:
            (cache / name).mkdir()
            (cache / name / "image.npy").write_bytes(b"half")
    now = time.time()
    for name, old in names.items():
        os.utime(cache / name, (now - day - 60,) * 2 if old or name == ".snapshot" else None)
    _, fresh = run(tmp_path, files_on_disk(tmp_path))
    assert fresh == [False]
    assert {path.name for path in cache.iterdir()} == kept | {name for name, old in names.items() if not old}


@pytest.mark.parametrize(
    ("starts", "workers"),
    [(3, 1), pytest.param(10, 1, marks=pytest.mark.slow), pytest.param(10, 2, marks=pytest.mark.slow)],
)
def test_calls_at_once_leave_one_set_of_whole_files_and_make_each_once(tmp_path, starts, workers):
    names = [f"c{i}" for i in range(2 * starts)]
    files = [files_on_disk(tmp_path, name, seed) for seed, name in enumerate(names)]
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps(files))
    code = f"""
import pickle, sys, time
from pathlib import Path
from jaxfuse.data.cache import prepare, prepare_with
from jaxfuse.data.shelf import Shelf
from jaxfuse.labels import label_scheme
d = Path({str(tmp_path)!r})
files = pickle.loads((d / "cases.pickle").read_bytes())
Path(d / f"ready{{sys.argv[1]}}").touch()
while len(list(d.glob("ready*"))) < {starts}:
    time.sleep(0.01)
made = []
shelf = Shelf(d / "cache", workers={workers})
scheme = label_scheme("brats")
for case in prepare(files, ("t1", "flair"), scheme, cache=shelf, on_case=lambda _, new: made.append(new)):
    case.image.sum()
assert "jax" not in sys.modules
print(sum(made))
"""
    calls = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(starts)
    ]
    ended = [(*call.communicate(), call.returncode) for call in calls]
    assert {(said, code) for _, said, code in ended} == {(b"", 0)}
    assert sum(int(made) for made, _, _ in ended) == len(names)
    assert contents(tmp_path / "cache").keys() == {
        "digests.json",
        *(f"{name}/{file}" for name in names for file in FILES),
    }
    _, fresh = run(tmp_path / "alone", *files)
    assert all(fresh)
    undisturbed = contents(tmp_path / "alone" / "cache")
    assert contents(tmp_path / "cache") == undisturbed


FILES = ("beyond.npy", "brain.npy", "case.json", "image.npy", "label.npy", "tumor.npy")


def contents(cache: Path) -> dict[str, object]:
    """All files of a cache by the names of their cases; of the digests, whose order does not count, what they say."""
    found: dict[str, object] = {}
    for path in cache.rglob("*"):
        if path.name == "digests.json":
            found[path.name] = json.loads(path.read_text())
        elif path.is_file():
            found[f"{path.parent.name.rpartition('-')[0]}/{path.name}"] = path.read_bytes()
    return found


@dataclass(frozen=True)
class Tried:
    """A preparation for processes to find by its name: of some cases it fails, and of some its process dies."""

    def __call__(self, one: CaseFiles) -> Prepared:
        if "jax" in sys.modules and "pytest" not in sys.modules:
            raise UserError("a process that prepares cases has loaded JAX")
        if one.id == "bad":
            raise UserError("case bad: no")
        if one.id == "odd":
            return 1 // 0  # pyright: ignore[reportReturnType]
        if one.id == "dies":
            (Path(one.group) / f".dies-{'0a' * 10}.{os.getpid()}.0123abcd").mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare_case(case_in_memory(id=one.id), classes=4)

    def forecast(self, one: CaseFiles, precision: str) -> Forecast:
        del one, precision
        return Forecast(1, 1, 1)


def tried(folder: Path, *names: str, workers: int = 2, on_case=None):
    """Prepares cases of these names by `Tried`; returns the names of the entries and what else lies in the cache."""
    made = files_on_disk(folder)
    files = [replace(made, id=name, group=str(folder / "cache")) for name in names]
    options = {"images": ("t1", "flair"), "label": True, "cache": Shelf(folder / "cache", workers=workers)}
    return prepare_with(Tried(), files, {}, on_case=on_case, **options)


def entries(folder: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] or path.name for path in (folder / "cache").iterdir())


def test_a_case_that_fails_in_a_process_takes_no_other_with_it(tmp_path):
    refused("case bad: no", tried, tmp_path, "a", "bad", "b")
    begun = entries(tmp_path)
    assert (begun[0], begun[-1]) == ("a", "digests.json")
    assert [case.id for case in tried(tmp_path, *"cba", workers=1)] == list("cba")
    assert entries(tmp_path) == [*"abc", "digests.json"]


@pytest.mark.slow
def test_a_case_that_kills_its_process_takes_no_other_with_it(tmp_path):
    assert [case.id for case in tried(tmp_path, *"dcba")] == list("dcba")  # in the order asked for
    told = "case dies: the process that prepared it was killed by signal 9, twice; memory may be too small: give"
    refused(told, tried, tmp_path, "dies", "e")
    assert entries(tmp_path) == [*"abcd", "digests.json", "e"]
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.slow
def test_a_call_that_is_stopped_ends_its_processes_and_leaves_nothing_half_made(tmp_path):
    def stop(case: object, fresh: bool) -> None:
        del case, fresh
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried(tmp_path, *"abcdef", on_case=stop)
    assert not list((tmp_path / "cache").glob(".*"))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        tried(tmp_path, "g", "odd")
    code = f"""
import sys
from pathlib import Path
from tests.data.test_cache import tried
tried(Path({str(tmp_path / "other")!r}), *map(str, range(400)))
"""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        call = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE)
        while not list((tmp_path / "other").glob("cache/*-*")):
            time.sleep(0.05)
        os.killpg(call.pid, number) if number != signal.SIGKILL else call.kill()
        call.communicate()
        for _ in range(100):  # processes that nobody asks any more end after the case that they are at
            if not alive(call.pid):
                break
            time.sleep(0.1)
        assert not alive(call.pid)
        assert not list((tmp_path / "other" / "cache").glob(".*")), number
        shutil.rmtree(tmp_path / "other")


def alive(session: int) -> list[str]:
    """Processes of a session."""
    told = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False)
    return told.stdout.split()


def test_losing_the_race_keeps_the_winners_entry(tmp_path, monkeypatch):
    files = files_on_disk(tmp_path)
    rename = os.rename

    def win_first(source, target):
        rename(source, target)
        Path(source).mkdir()  # the loser's folder, which now finds the target taken
        (Path(source) / "image.npy").touch()
        rename(source, target)

    monkeypatch.setattr("os.rename", win_first)
    ((case,), _) = run(tmp_path, files)
    assert case.image.shape == (4, 2, 8, 2)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted([case.folder.name, "digests.json"])


def test_missing_modality_is_refused(tmp_path):
    files = files_on_disk(tmp_path)
    refused("case c has no t2 image", run, tmp_path, files, modalities=("t1", "t2"))


def test_dataset_facts_count_the_training_cases_only_and_survive_json(tmp_path):
    cases, _ = run(tmp_path, *(files_on_disk(tmp_path, name, seed) for seed, name in enumerate("abc")))
    split = {"train": ("b", "c"), "val": ("a",)}
    facts = dataset_facts(cases, ("t1", "flair"), SCHEME, split)
    assert (facts.voxels_per_class, facts.spacing_mm) == ((120, 2, 4, 2), (1, 1, 2))
    assert {"train": facts.train, "val": facts.val} == split
    assert (facts.classes, facts.keys) == (SCHEME.classes, {c.id: c.key for c in cases})
    assert DatasetFacts.from_json(facts.to_json()) == facts
    assert json.loads(facts.to_json())["scheme"] == "brats"
    message = "training case b has not been prepared"
    refused(message, dataset_facts, cases[:1], ("t1", "flair"), SCHEME, {"train": ("a", "b"), "val": ("a",)})
