"""How processes of a run are found, and which GPUs are whose; `tests/test_distributed.py` joins some."""

import json
import os
import subprocess
import sys

import pytest

from jaxfuse.engine.devices import joining
from jaxfuse.engine.devices.joining import joined, own_devices, seat_of
from jaxfuse.engine.devices.meeting import Seat
from jaxfuse.engine.devices.processes import Processes
from jaxfuse.errors import UserError
from tests.engine.devices.ports import free_port
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
        ([("a", "0"), ("a", "0")], [None, None]),
    ],
)
def test_processes_of_one_machine_share_the_gpus_that_they_see(said, owned):
    statements = [{"_host": host, "_visible": visible} for host, visible in said]
    assert [own_devices(statements, number) for number in range(len(said))] == owned


# Runs in two processes, each with two devices.
_TWO = """
import json, sys
import numpy as np
from jaxfuse.engine.devices.agreement import Late, compute_first
from jaxfuse.engine.devices.joining import joined
from jaxfuse.errors import Unfinished, UserError

number = int(sys.argv[2])
with joined(f"localhost:{sys.argv[1]},2,{number}", {"config.a": 1}, wait_s=60) as processes:
    import jax
    from jaxfuse.engine.devices.placement import on_mesh
    from jaxfuse.engine.programs import all_finite, donating
    from jaxfuse.engine.run_folder.checkpoints import copied
    from jaxfuse.learning.state import State

    placement = on_mesh(jax.devices())
    compute_first(processes, placement)
    rows = placement.put({"image": np.arange(2.0) + 2 * number})["image"]
    state = placement.keep({"w": np.arange(3.0), "rng": jax.random.key(7)})
    agree = Late(processes, placement)
    asked = [agree(15 if number and step > 1 else 0, number == 0 and step == 1) for step in range(6)]
    part = copied({"w": rows, "k": state["rng"]}, here=processes.first)
    splitting = on_mesh(jax.devices(), splits=True)
    kernel = np.arange(4096.0, dtype=np.float32).reshape(64, 64)
    begun = State(step=np.int32(0), rng=jax.random.key(7), params={"net": kernel}, stats={}, opt_state={}, memory={})
    move = lambda state, batch: (state.replace(params={"net": state.params["net"] + batch.sum()}), {"sum": batch.sum()})
    learned, _ = donating(move, splitting)(splitting.keep(begun), splitting.put(np.ones(2, np.float32)))
    saved, here = copied(learned, here=processes.first), splitting.local(learned)
    split = {
        "sides": sorted({shard.data.shape for shard in learned.params["net"].addressable_shards}),
        "saved": processes.first and bool((saved.params["net"] == kernel + 4).all()),
        "again": splitting.keep(learned).params["net"].sharding == learned.params["net"].sharding,
        "here": bool((np.asarray(here.params["net"]) == kernel + 4).all()), "finite": bool(all_finite(learned.params)),
    }
    found = {
        "seen": processes.led(lambda: number), "each": processes.gathered(number), "asked": asked,
        "rows": [np.asarray(shard.data).tolist() for shard in rows.addressable_shards],
        "local": [str(one.devices()) for one in jax.tree.leaves(placement.local(state))],
        "w": np.asarray(state["w"]).tolist(), "name": placement.device_name, "again": placement.keep(state) is not None,
        "kept": jax.tree.map(lambda leaf: leaf.tolist(), part), "split": split,
    }
    print(json.dumps(found), flush=True)
    try:
        processes.refuse_differences({"data": number})
    except (UserError, Unfinished) as error:
        print(json.dumps(str(error)), flush=True)
"""


def test_two_processes_join_agree_and_leave():
    port = str(free_port())
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    environment["http_proxy"] = "http://localhost:9"  # which nobody answers
    command = [sys.executable, "-c", _TWO, port]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen([*command, str(number)], **pipes) for number in range(2)]
    first, second = (process.communicate(timeout=120) for process in started)
    assert (first[1], second[1]) == ("", "")
    (ours, refusal), (theirs, silent) = (list(map(json.loads, out.splitlines())) for out, _ in (first, second))
    assert refusal.startswith("process 1 differs from process 0: data is 0 in process 0 and 1 there")
    assert (silent, [process.returncode for process in started]) == ("", [0, 0])
    for found in (ours, theirs):
        assert (found["seen"], found["each"], found["w"], found["name"]) == (0, [0, 1], [0, 1, 2], "4 x cpu")
        assert found["asked"] == [[0, False]] * 3 + [[0, True]] + [[0, False]] * 2, (
            "all do the same after the same step"
        )
        assert len(set(found["local"])) == 1
    assert (ours["rows"], theirs["rows"]) == ([[0], [1]], [[2], [3]])
    assert ours["kept"] == {"w": [0, 1, 2, 3], "k": [0, 7]}, "parted arrays are gathered where they are written"
    assert theirs["kept"] == {"w": None, "k": None}
    shared = {"sides": [[16, 64]], "again": True, "here": True, "finite": True}
    assert ours["split"] == shared | {"saved": True}, "a state that all share is saved whole by process 0"
    assert theirs["split"] == shared | {"saved": False}
