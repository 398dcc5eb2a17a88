"""Claims hold in one process or several, end with theirs, and leave no file."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from jaxfuse.io import claims
from jaxfuse.io.claims import alone, claim, give_up
from tests.commands import ROOT
from tests.refusals import refused

HOLD = """
import sys, time
from pathlib import Path
from jaxfuse.io.claims import claim
held = claim(Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that claims, says whether it could, and stays."""
    command, environment = [sys.executable, "-c", HOLD, str(path)], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_claim_keeps_others_out_and_its_file_goes_with_it(tmp_path):
    path = tmp_path / "folder" / "a.lock"
    held = claim(path)
    assert held is not None
    assert claim(path) is None
    give_up(held, path)
    assert list(path.parent.iterdir()) == []
    again = claim(path)
    assert again is not None
    give_up(again, path)


def test_the_claim_of_a_process_that_is_killed_is_free(tmp_path):
    path = tmp_path / "a.lock"
    with holder(path) as process:
        assert process.stdout is not None
        could, before = process.stdout.readline(), claim(path)
        process.send_signal(signal.SIGKILL)
    assert (could, before) == ("True\n", None)
    assert path.is_file()
    assert claim(path) is not None


def test_a_lock_whose_file_was_removed_meanwhile_is_no_claim(tmp_path, monkeypatch):
    """The file is opened, its holder removes it and ends, and only then it is locked: another may lock a new one."""
    path, check, removed = tmp_path / "a.lock", claims._there, list[None]()

    def late(path: Path):
        def checked(descriptor: int) -> None:
            if not removed:
                removed.append(path.unlink())
            check(path)(descriptor)

        return checked

    monkeypatch.setattr(claims, "_there", late)
    held = claim(path)
    assert removed
    assert held is not None
    assert claim(path) is None


def test_one_at_a_time_is_inside(tmp_path):
    inside, most = [], []

    def enter() -> None:
        for _ in range(20):
            with alone(tmp_path / "house.lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert (len(most), max(most)) == (60, 1)


def test_a_folder_without_locks_is_refused(tmp_path, monkeypatch):
    def none(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock._native._unix.lock_fd_nonblocking", none)
    told = r"a.lock cannot be had \(Function not implemented\), without which calls cannot share"
    refused(told, claim, tmp_path / "a.lock")
