"""A machine that fails, not a user: one sentence, what was saved stays, and the report is written where it can be."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxfuse import cli
from jaxfuse.data.cache import prepare
from jaxfuse.data.pipeline import PatchSampler, Workers
from jaxfuse.data.sampling import brain
from jaxfuse.data.settings import read_data
from jaxfuse.engine import run
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.feed.resident import resident
from jaxfuse.engine.run_folder import compiled, stored, workdir
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.workdir import compilation_cache
from jaxfuse.errors import OutputError, Stopped, machine_sentence
from tests.commands import ROOT
from tests.data.tiny_case import SCHEME, files_on_disk
from tests.engine.toy_loop import Bench
from tests.engine.valid_phases import on_disk
from tests.faults.catalogue import given, table
from tests.recipe_phases import RECIPES
from tests.refusals import refused


def disk_error(number: int, where: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), where)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit to the size of every file that is written, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@table(
    "number",
    ("the disk fills while a checkpoint is written", "one sentence; that of the step before is kept", errno.ENOSPC),
    ("a quota is used up in that place", "the same", errno.EDQUOT),
    ("the disk turns read-only in that place", "the same", errno.EROFS),
    ("the disk fails in that place", "the same", errno.EIO),
)
def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch, number):
    write = stored._write_tree

    def fails(path: Path, tree: object) -> None:
        if "-4-" in path.parent.name:
            raise disk_error(number, str(path))
        write(path, tree)

    with monkeypatch.context() as patch:
        patch.setattr(stored, "_write_tree", fails)
        with pytest.raises(OutputError) as error:
            Bench(tmp_path, 8, checkpoint_every=2).run()
    told = f"({os.strerror(number)}), and that of step 2 is kept; free space and call again"
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "checkpoints" / "last").iterdir()] == ["2"]
    later = Bench(tmp_path, 8, checkpoint_every=2)
    assert later.run().params["net"]["w"].tolist() == [8, 8, 8]


@given(
    "a limit to the size of files, met by the rows of metrics", "one sentence; the run goes on from its last checkpoint"
)
def test_metrics_that_cannot_be_written(tmp_path):
    told = r"the metrics of step \d+ cannot be written .*File too large"
    settings = {"checkpoint_every": 50, "log_every": 1}
    with largest_file(24_000), pytest.raises(OutputError, match=told):
        Bench(tmp_path, 400, **settings).run()
    step = Checkpoints(tmp_path / "checkpoints").latest_step()
    assert step is not None
    assert step >= 50
    later = Bench(tmp_path, 400, **settings)
    assert later.run().params["net"]["w"].tolist() == [400] * 3
    assert [number for number, _ in later.rows("train")] == list(range(1, 401))


@given("less room on the disk than a checkpoint takes", "refused before it is begun; that of the step before is kept")
def test_too_little_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage

    def nearly_full(folder: Path) -> object:
        return usage(folder)._replace(free=10 if "-4-" in Path(folder).name else 10**9)

    monkeypatch.setattr(stored.shutil, "disk_usage", nearly_full)
    with pytest.raises(OutputError, match="No space left on device., and that of step 2 is kept; free space"):
        Bench(tmp_path, 8, checkpoint_every=2).run()


@given("a limit to the size of files, met by a checkpoint", "one sentence; the lines of what was written are not shown")
def test_a_checkpoint_too_large(tmp_path, capfd):
    with largest_file(500), pytest.raises(OutputError) as error:
        Bench(tmp_path, 4, checkpoint_every=2, log_every=100).run()
    assert "the checkpoint cannot be written to" in str(error.value)
    assert "no other is there yet" in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in capfd.readouterr().err


@given(
    "a compiled program that a kill or a full disk cut short in the cache",
    "removed at the next start, compiled again, and kept from then on",
)
def test_a_compiled_program_that_was_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(compiled, "_decompressor", lambda: zlib.decompress)
    folder = tmp_path / f"compiled-{workdir.processor()}"
    folder.mkdir()
    content = zlib.compress(os.urandom(300))
    (folder / "whole-cache").write_bytes(content)
    (folder / "cut-cache").write_bytes(content[:200])
    compilation_cache(tmp_path)
    assert [path.name for path in folder.glob("*-cache")] == ["whole-cache"]


@given("a training that ended, and no room for its report", "said, with where all else is kept; exit code 1")
def test_a_report_that_cannot_be_written(ended_training, monkeypatch, tmp_path):
    def fails(workdir: Path, *, related: object) -> Path:
        raise disk_error(errno.ENOSPC, str(workdir / "report.html"))

    monkeypatch.setattr(run, "write_report", fails)
    with pytest.raises(Stopped) as stopped:
        ended_training(tmp_path / "run")
    assert stopped.value.exit_code == 1
    assert str(stopped.value).startswith(f"every phase is trained and judged, and kept in {tmp_path / 'run'}, but its")
    assert "No space left on device" in str(stopped.value)
    assert "\n" not in str(stopped.value)


@given(
    "the disk fills in the middle of a training", "a report of what is there is tried; the error is that of the disk"
)
def test_a_report_as_far_as_it_went(tmp_path, ended_training, monkeypatch):
    def fails(self: object) -> bool:
        raise OutputError("the checkpoint cannot be written")

    written = []
    monkeypatch.setattr(run.Run, "execute", fails)
    for outcome in (None, disk_error(errno.ENOSPC)):

        def report(workdir: Path, *, related: object, outcome: OSError | None = outcome) -> Path:
            written.append(workdir)
            if outcome:
                raise outcome
            return workdir

        monkeypatch.setattr(run, "write_report", report)
        with pytest.raises(OutputError, match="the checkpoint cannot be written"):
            ended_training(tmp_path / "run")
    assert len(written) == 2


def ended(monkeypatch, capfd, error: BaseException) -> tuple[int, str]:
    """Runs a command that fails so; returns its code of exit and what it said."""

    def main(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(cli, "_parse", lambda argv: argv)
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return int(end.value.code or 0), capfd.readouterr().err


@table(
    "error,told",
    ("any file that meets a full disk", "one sentence, exit code 2", disk_error(errno.ENOSPC, "x"), "x cannot be"),
    ("a file that may not be read", "the same", disk_error(errno.EACCES, "x/y"), "Permission denied"),
    ("a name that the file system finds too long", "the same", disk_error(errno.ENAMETOOLONG, "x"), "name too long"),
    ("too little memory", "a smaller patch or batch is advised", MemoryError("Unable to allocate 1 TiB"), "1 TiB"),
    (
        "too little memory on the device", "the same",
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."), "Out of memory while",
    ),
)  # fmt: skip
def test_what_no_command_foresees(monkeypatch, capfd, error, told):
    code, said = ended(monkeypatch, capfd, error)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert told in said


def test_an_error_of_the_program_keeps_its_traceback():
    assert machine_sentence(FileNotFoundError(errno.ENOENT, "gone")) == ""
    assert machine_sentence(RuntimeError("odd")) == ""
    assert machine_sentence(AssertionError()) == ""


def process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=full, check=False)


@table(
    "asked",
    ("JAX_PLATFORMS=cuda without a GPU", "one sentence that says how to run on the CPU", "cuda"),
    ("JAX_PLATFORMS=tpu without one", "the same", "tpu"),
    ("a platform that does not exist", "the same", "nonsense"),
)
def test_a_platform_that_is_not_there(asked):
    code = "import jax; from jaxfuse import cli; cli.run(lambda argv: len(jax.devices()) > 99)"
    done = process(code, JAX_PLATFORMS=asked)
    if asked in ("cuda", "tpu") and done.returncode == 0:
        pytest.skip(f"this machine has {asked}")
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"error: JAX_PLATFORMS is {asked!r}, which this machine or installation lacks; unset it")


@table(
    "environment",
    ("a terminal that knows ASCII only", "other letters are escaped", {"PYTHONIOENCODING": "ascii"}),
    (
        "a locale without UTF-8", "the same",
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    ),
    ("a terminal of Western Europe", "the same", {"PYTHONIOENCODING": "latin-1"}),
)  # fmt: skip
def test_letters_that_a_terminal_lacks(tmp_path, environment):
    code = (
        "import sys; from jaxfuse import cli; from jaxfuse.errors import UserError\n"
        "from jaxfuse.io.tables import write_json\n"
        "def main(argv):\n"
        f"    write_json({str(tmp_path / 'x.json')!r}, {{'command': sys.argv[1:], 'text': '3 \\u00d7 5 \\u2265'}})\n"
        "    print('mean \\u2265 1 \\u03bcm')\n"
        "    raise UserError('\\u2265 is meant')\n"
        "cli.run(main)"
    )
    done = process(code, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("mean \\u2265 1")
    assert done.stderr == "error: \\u2265 is meant\n"
    assert "3 × 5 ≥" in (tmp_path / "x.json").read_text(encoding="utf-8")


@given("an account without a home folder, and no other place for the cache", "refused; JAXFUSE_CACHE is advised")
def test_no_place_for_the_cache(monkeypatch):
    def fails(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JAXFUSE_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", fails)
    data = read_data("data", RECIPES["hinet"].get_config("tiny").data)
    refused("the cache ~/.cache/jaxfuse has no place .*; name a folder with JAXFUSE_CACHE", lambda: data.cache_dir)


@table(
    "cache",
    ("a cache within `data.root`", "refused; a folder elsewhere is advised, and nothing is written", "cases/cache"),
    ("the same by a symbolic link", "the same", "link"),
    ("`data.root` itself as the cache", "the same", "cases"),
)
def test_a_cache_among_the_cases(tmp_path, unchanged, cache):
    (tmp_path / "cases" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("cases/a")
    config = RECIPES["hinet"].get_config("tiny")
    config.data.root, config.data.cache = str(tmp_path / "cases"), str(tmp_path / cache)
    with unchanged(tmp_path):
        message = f"the cache {tmp_path / cache} lies within data.root, .*; name a folder elsewhere with data.cache"
        refused(message, run.train, config, tmp_path / "run")


@given("a read-only cache that lacks what is asked for", "refused; another folder is advised")
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, one_case):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "mkdir", raises(disk_error(errno.EROFS)))
    refused(r"cannot be written \(Read-only file system\); free space or choose another", one_case)


@given("a read-only cache that holds all that is asked for", "used")
def test_a_cache_that_need_not_be_written(monkeypatch, one_case):
    before = one_case()
    monkeypatch.setattr(os, "mkdir", raises(disk_error(errno.EROFS)))
    assert one_case() == before


@given("a cache below a file", "refused; another folder is advised")
def test_a_cache_that_cannot_be_made(tmp_path, one_case):
    (tmp_path / "cache").write_text("no folder")
    refused("the cache .* cannot be made .*; name another with JAXFUSE_CACHE or data.cache", one_case)


def raises(error: BaseException) -> Callable[..., None]:
    def call(*args: object, **options: object) -> None:
        raise error

    return call


@pytest.fixture
def one_case(tmp_path) -> Callable[[], object]:
    """Prepares one case below the folder `cache`."""
    files = files_on_disk(tmp_path)
    return lambda: prepare([files], ("t1", "flair"), SCHEME, cache=tmp_path / "cache")


@given("training cases that do not fit into the memory of a GPU", "they stay on the host, and the run says so")
@given("such cases where they are asked to lie there", "refused; batches of the host are advised")
def test_cases_that_do_not_fit_onto_the_device(tmp_path, monkeypatch):
    case, said = on_disk(tmp_path, "one", np.ones((6, 6, 6), np.uint8)), []
    one = [PatchSampler((case,), (6, 6, 6), brain, 0.0, unpaired=False)]
    needed, placement = 6**3 * (2 * 4 + 1), one_device()
    monkeypatch.setattr(Placement, "backend", "gpu")
    for memory, count in ((2 * needed, 0), (3 * needed, 1)):
        monkeypatch.setattr(Placement, "memory_bytes", lambda self, memory=memory: memory)
        assert len(resident(one, "auto", placement, said.append, lambda *_: None)) == count
    assert said[0].startswith("Batches come from the host: the training cases take 0.0 GB, more than 40% of the 0.0 GB")
    monkeypatch.setattr(Placement, "memory_bytes", lambda self: 2 * needed)
    told = "loader.on_device is on, but the training cases take .* of the device; set it to auto or off"
    refused(told, resident, one, "on", placement, said.append, lambda *_: None)


class Dying:
    """Batches of a loader whose process dies as Grain tells it, or as `told`."""

    def __init__(self, told: str) -> None:
        self.told, self.closed = told, False

    def __iter__(self) -> "Dying":
        return self

    def __next__(self) -> object:
        raise RuntimeError(self.told)

    def close(self) -> None:
        self.closed = True


@table(
    "code",
    ("a loader's process that finds /dev/shm full", "one sentence; fewer processes are advised", -7),
    ("one that is killed for its memory, again and again", "the same", -9),
    ("one that crashes", "the same", -11),
)
def test_a_process_of_the_loader_that_dies(code):
    batches = Dying(f"Worker process was terminated unexpectedly with exit code {code}. Search the logs above.")
    workers = Workers(batches)  # pyright: ignore
    told = f"a process of the loader died .Worker process was terminated unexpectedly with exit code {code}.*workers"
    refused(told, next, workers)
    workers.close()
    assert batches.closed
    with pytest.raises(RuntimeError, match="^another$"):
        next(Workers(Dying("another")))  # pyright: ignore
