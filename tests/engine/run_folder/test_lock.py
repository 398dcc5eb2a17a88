"""One run at a time in a workdir, whatever becomes of it. Holders are processes: a lock binds processes, not calls."""

import errno
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from jaxfuse.engine.run_folder import lock as module
from jaxfuse.engine.run_folder.lock import HOLDER, LOCK, locked
from jaxfuse.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
# Waits for its start, takes the lock, says so, and holds it until its input is closed.
HOLD = """
import sys
from pathlib import Path
from jaxfuse.engine.run_folder.lock import locked
from jaxfuse.errors import UserError
workdir = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with locked(workdir):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


class Holder:
    """A process that is about to take the lock on a workdir."""

    def __init__(self, workdir: Path) -> None:
        command = [sys.executable, "-c", HOLD, str(workdir)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, cwd=ROOT, bufsize=1, **pipes)
        assert self.said() == "ready"

    def go(self) -> None:
        self.process.stdin.write("\n")  # pyright: ignore

    def said(self) -> str:
        return self.process.stdout.readline().rstrip("\n")  # pyright: ignore

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()  # pyright: ignore


def test_a_lock_is_held_and_left_with_the_folder_that_it_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = tmp_path / "runs" / "x"
    with locked(Path("runs", "x")) as given:
        assert given == workdir
        assert {path.name for path in workdir.iterdir()} == {LOCK, HOLDER}
    assert {path.name for path in workdir.iterdir()} == {LOCK}
    with locked(workdir):
        with pytest.raises(UserError, match="another run is going on in"), locked(workdir):
            pass
        (workdir / HOLDER).write_text("{")  # a holder that has not said so yet is not named
        with pytest.raises(UserError, match=f"going on in {workdir}; name another"), locked(workdir):
            pass


def test_another_process_is_refused_until_the_holder_is_gone(tmp_path):
    with Holder(tmp_path) as first:
        first.go()
        assert first.said() == "held"
        told = f"another run is going on in {tmp_path} (process {first.process.pid} on {platform.node()}); name another"
        before = (tmp_path / HOLDER).read_bytes()
        with pytest.raises(UserError) as error, locked(tmp_path):
            pass
        assert str(error.value) == f"{told} --workdir, or wait until it has ended"
        assert (tmp_path / HOLDER).read_bytes() == before
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        with locked(tmp_path):  # a killed holder leaves its word, but no lock
            pass


def test_of_processes_that_start_together_one_goes_on(tmp_path):
    with ExitStack() as stack:
        for number in range(10):
            both = [stack.enter_context(Holder(tmp_path / str(number))) for _ in range(2)]
            for one in both:
                one.go()
            said = sorted(one.said() for one in both)
            assert said[1] == "held"
            assert said[0].startswith(f"another run is going on in {tmp_path / str(number)}")


def test_a_folder_that_cannot_be_written_and_a_file_system_without_locks_are_called_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match=f"{workdir} cannot be written .*; name another with --workdir"):
            locked(workdir).__enter__()
    assert not (tmp_path / "file").read_bytes()

    def refuse(self: object, **options: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.FileLock, "acquire", refuse)
    with pytest.raises(UserError) as error, locked(tmp_path):
        pass
    assert str(error.value) == (
        f"the lock {tmp_path / LOCK} cannot be had ({os.strerror(errno.ENOLCK)}), without which two runs could write "
        "into one folder; name another --workdir"
    )


@pytest.mark.slow
def test_of_runs_that_start_together_one_goes_on(tmp_path):
    environment = {**os.environ, "JAXFUSE_CACHE": str(tmp_path / "cache"), "COLUMNS": "400"}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}
    for folder in (tmp_path / str(number) for number in range(10)):
        command = [sys.executable, "-m", "jaxfuse.train", "--config=configs/cmff.py:tiny", f"--workdir={folder}"]
        with ExitStack() as stack:
            both = [stack.enter_context(subprocess.Popen(command, **options)) for _ in range(2)]
            for one in both:
                stack.callback(one.kill)
            end = time.monotonic() + 300
            while not (ended := [one for one in both if one.poll() is not None]) and time.monotonic() < end:
                time.sleep(0.1)
            (refused,) = ended
            assert refused.returncode == 2
            assert f"another run is going on in {folder}" in refused.stderr.read()
