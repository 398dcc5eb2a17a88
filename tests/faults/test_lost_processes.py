"""A process that is lost takes its cases with it, or processes that share a folder disturb each other."""

import os
import signal
from functools import partial
from pathlib import Path

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.engine.trained.shared_cases import SharedCases, order_of, writing_apart
from jaxfuse.io.outputs import open_outputs
from jaxfuse.scoring.protocol import score_each
from tests.faults.catalogue import given
from tests.refusals import refused


def killed(marker: Path, times: int) -> str:
    """Kills its process as often as is asked for, which is counted in a file."""
    count = int(marker.read_text()) if marker.exists() else 0
    if count < times:
        marker.write_text(str(count + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return "scored"


@given(
    "`evaluate`: a process that is killed while it scores, for want of memory",
    "another process does its case; the second time it is left out and named, the others scored",
)
def test_a_process_that_scores_is_killed(tmp_path, capsys):
    jobs = {str(times): partial(killed, tmp_path / str(times), times) for times in (2, 1, 0)}
    found, left_out = score_each(jobs, 2)
    assert found == {"1": "scored", "0": "scored"}
    assert list(left_out) == ["2"]
    assert "left out: case 2: the process that scored it was killed by signal 9, twice" in capsys.readouterr().err


def shared(folder: Path, overlap: float | None = None, *, overwrite: bool = False) -> SharedCases:
    if not (folder / "a").exists():
        (folder / "a").touch()
    outputs = open_outputs(folder / "out", "--output", reads=(), names=["a.nii.gz"], overwrite=overwrite)
    files = {"a": CaseFiles("a", {"t1": Image(folder / "a")})}
    return SharedCases(files, outputs, order_of([("run", "0123")], folder, ("a",), {"overlap": overlap}))


@given("`predict --shared` where calls with other options are at work", "refused, and what differs is named")
def test_calls_of_another_order(tmp_path):
    with shared(tmp_path, 0.5):
        told = r"unfinished work of calls of another order \(overlap: 0.5 there, None now\); let them end"
        refused(told, shared(tmp_path).__enter__)


@given(
    "`predict --shared`: an output that was changed since another call wrote it",
    "refused as a file of others; with `--overwrite` that case is done again, and no other",
)
def test_an_output_that_is_not_what_was_written(tmp_path):
    with shared(tmp_path) as cases:
        (one,) = next(cases.rounds())
        with writing_apart(cases.outputs).together() as folder:
            (folder / "a.nii.gz").write_bytes(b"whole")
        cases.settle(one.id, ["a.nii.gz"], [])
        cases.end(lambda: None)
    with shared(tmp_path) as cases:
        assert cases.settled.keys() == {"a"}
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"cut")
    refused("was not written by jaxfuse, or was changed since", shared, tmp_path)
    with shared(tmp_path, overwrite=True) as cases:
        assert not cases.settled
