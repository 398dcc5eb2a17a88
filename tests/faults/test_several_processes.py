"""Processes of one run that do not fit together."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxfuse.engine.devices import meeting
from jaxfuse.engine.devices.joining import seat_of
from jaxfuse.engine.devices.meeting import Seat, meet
from jaxfuse.errors import UserError
from tests.engine.devices.ports import free_port
from tests.faults.catalogue import given, table
from tests.refusals import refused

OURS = {"jax": "0.10.2", "config.segmentation.batch": 4, "workdir": "/shared/run"}


def told(*came: tuple[int, int, dict[str, Any]], wait_s: float = 5.0) -> set[str]:
    """Returns what processes hear that meet, threads here: (number, how many it believes there are, what it says)."""
    address = f"localhost:{free_port()}"

    def one(process: tuple[int, int, dict[str, Any]]) -> str:
        number, count, said = process
        try:
            meet(Seat(address, count, number), said, wait_s=wait_s)
        except UserError as error:
            return str(error).replace(address, "HOST:PORT")
        return ""

    with ThreadPoolExecutor(len(came)) as pool:
        return set(pool.map(one, came))


@table(
    "said, differs",
    (
        "a process of a run with another option",
        "refused by all processes, with the number of the one, the option and both values",
        OURS | {"config.segmentation.batch": 8},
        "config.segmentation.batch is 4 in process 0 and 8 there",
    ),
    (
        "a process of a run with another version of JAX",
        "refused in the same way",
        OURS | {"jax": "0.10.1"},
        "jax is '0.10.2' in process 0 and '0.10.1' there",
    ),
    (
        "a process of a run started in another folder, so that a relative `--workdir` is another",
        "refused in the same way",
        OURS | {"workdir": "/home/run"},
        "workdir is '/shared/run' in process 0 and '/home/run' there",
    ),
)
def test_a_process_that_differs(said, differs):
    (sentence,) = told((0, 2, OURS), (1, 2, said))
    assert sentence.startswith(f"process 1 differs from process 0: {differs}; start all processes by the same command")


@given("a process of a run that does not come", "refused by the others in time, with its number")
def test_a_process_that_is_missing():
    (sentence,) = told((0, 3, OURS), (2, 3, OURS), wait_s=3.0)
    assert sentence.startswith("process 1 has not come to HOST:PORT within 3 s, where 3 processes are to meet; see why")


@given("two processes of a run with one number", "refused by all")
def test_a_number_that_is_taken(monkeypatch):
    monkeypatch.setattr(meeting, "_LINGER_S", 0.2)
    assert told((0, 3, OURS), (1, 3, OURS), (1, 3, OURS)) == {
        "two processes call themselves number 1; give each its own number, from 0 to 2"
    }


@given("processes of a run that believe in other numbers of processes", "refused by all")
def test_other_numbers_of_processes(monkeypatch):
    monkeypatch.setattr(meeting, "_LINGER_S", 0.2)
    (sentence,) = told((0, 2, OURS), (1, 4, OURS))
    assert sentence.startswith("process 1 differs from process 0: processes is 2 in process 0 and 4 there")


@given("`--distributed auto` on a machine without SLURM, Open MPI and Kubernetes", "refused: how to name the others")
def test_no_cluster(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    refused(
        "nor Kubernetes is found to tell of other processes; start this by srun or mpirun", seat_of, "auto", wait_s=1
    )
