"""How processes of a run are found, and which GPUs are whose; `tests/test_distributed.py` joins some."""

import pytest

from jaxfuse.engine.devices import joining
from jaxfuse.engine.devices.joining import joined, own_devices, seat_of
from jaxfuse.engine.devices.meeting import Seat
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.errors import UserError
from tests.refusals import refused


def test_seats_are_read():
    assert seat_of("node7:1234,8,3", wait_s=1) == Seat("node7:1234", 8, 3)
    seat = seat_of("[::1]:80,2,0", wait_s=1)
    assert (seat.host, seat.port) == ("::1", 80)
    for odd in ("node7,8,3", "node7:x,8,3", ":1,2,1", "node7:1,2,2", "node7:1,2", "node7:70000,2,1", "on", "a:1,2,-1"):
        with pytest.raises(UserError, match="give auto, or HOST:PORT,N,I: where process 0 can be reached"):
            seat_of(odd, wait_s=1)


def test_a_job_of_slurm_is_found_and_where_there_is_none_that_is_told(monkeypatch):
    refused("--distributed is auto, and neither SLURM, Open MPI nor Kubernetes is found", seat_of, "auto", wait_s=1)
    job = {"JOB_ID": "4097", "STEP_NODELIST": "gpu[03-04]", "NTASKS": "4", "PROCID": "2", "LOCALID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert seat_of("auto", wait_s=1) == Seat("gpu03:61441", 4, 2)
    monkeypatch.setenv("SLURM_PROCID", "?")
    refused("the cluster does not tell what is needed .invalid literal", seat_of, "auto", wait_s=1)


def test_a_run_of_one_process_joins_nobody(monkeypatch):
    monkeypatch.setattr(joining, "meet", None)
    for asked in ("", "localhost:1,1,0"):
        with joined(asked, {}, wait_s=1) as processes:
            assert processes == Processes()


@pytest.mark.parametrize(
    ("said", "owned"),
    [
        ([("a", ""), ("b", "")], [None, None]),
        ([("a", "0,1,2,3"), ("a", "0,1,2,3")], [[0, 1], [2, 3]]),
        ([("a", ""), ("b", ""), ("a", "")], [[0], None, [1]]),
        ([("a", "0"), ("a", "1")], [None, None]),
    ],
)
def test_processes_of_one_machine_share_the_gpus_that_they_see(said, owned):
    statements = [{"_host": host, "_visible": visible} for host, visible in said]
    assert [own_devices(statements, number) for number in range(len(said))] == owned
