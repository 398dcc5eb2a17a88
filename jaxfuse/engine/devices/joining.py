"""Joining the processes of a run by JAX's distributed engine, and leaving them."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import jax

# Not public: the client of the coordination service, and what `jax.distributed.initialize()` asks where it is told
# nothing.
from jax._src import distributed
from jax._src.clusters import ClusterEnv

from jaxfuse.engine.devices.meeting import Seat, Statement, meet
from jaxfuse.engine.devices.processes import Processes, exit_code
from jaxfuse.engine.devices.watch import GONE, GRACE_S, LONGEST_S, Watch
from jaxfuse.engine.run_folder.workdir import processor
from jaxfuse.errors import PROCESS_LOST, Stopped, Unfinished, UserError, machine_sentence

AUTO = "auto"
# JAX ends processes that have slept for so long; `watch` notices one that is gone long before.
_HEARTBEAT_S = 600
# For those that have met to connect; for the others to leave before process 0; and to hang up then.
_CONNECT_S, _LEAVE_S, _HANG_UP_S = 60, 60.0, 0.5
_NO_PROXY = "no_grpc_proxy"
# Told by computations whose partner is gone.
_PARTED = ("Gloo", "NCCL", "nccl", "UNAVAILABLE", "coordination service", "Connection")


def seat_of(asked: str, *, wait_s: float) -> Seat:
    """Reads `auto`, which asks SLURM, Open MPI or Kubernetes, or HOST:PORT,N,I.

    Raises:
        UserError: it is neither, or nothing is found.
    """
    if asked == AUTO:
        return _detected(wait_s)
    address, *numbers = asked.split(",")
    host, colon, port = address.rpartition(":")
    plain = len(numbers) == 2 and all(number.isdigit() for number in (port, *numbers))
    if not (host and colon and plain and int(numbers[1]) < int(numbers[0]) and 0 < int(port) < 65536):
        raise UserError(
            f"--distributed is {asked!r}; give auto, or HOST:PORT,N,I: where process 0 can be reached, the number of "
            "processes, and the number of this one, from 0 to N - 1"
        )
    return Seat(address, int(numbers[0]), int(numbers[1]))


def _detected(wait_s: float) -> Seat:
    try:
        address, count, number, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(wait_s)
        )
    except Exception as error:
        raise UserError(
            f"--distributed is auto, and the cluster does not tell what is needed ({' '.join(str(error).split())}); "
            "give HOST:PORT,N,I"
        ) from error
    if address is None or count is None or number is None:
        raise UserError(
            "--distributed is auto, and neither SLURM, Open MPI nor Kubernetes is found to tell of other processes; "
            "start this by srun or mpirun, or give HOST:PORT,N,I"
        )
    return Seat(address, count, number)


@contextmanager
def joined(asked: str, statement: Statement, *, wait_s: float) -> Iterator[Processes]:
    """Joins the processes of a run, before any of them uses a device, and leaves them at the end.

    Args:
        asked: as `seat_of` reads it; "" for a run of one process.
        statement: what has to be the same in all processes, JSON.
        wait_s: seconds to wait for the others.

    Raises:
        UserError: a process is missing, or they differ.
        Unfinished: another process has ended too early.
    """
    seat = seat_of(asked, wait_s=wait_s) if asked else None
    if seat is None or seat.count == 1:
        yield Processes()
        return
    here = {"_host": platform.node(), "_visible": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    said, code = meet(seat, {**statement, **here}, wait_s=wait_s), 0
    with _Guard(seat) as guard:
        guard.processes = processes = _connected(seat, said)
        watch = Watch(processes)
        try:
            _check_devices(processes)
            yield processes
        except BaseException as error:
            ended = _explained(error, processes, watch)
            code = exit_code(ended)
            if not processes.agreed:
                watch.tell_end(_sentence(ended), code)
            if ended is not error:
                raise ended from error
            raise
        finally:
            guard.code = code
            watch.close()
            _leave(processes, _LEAVE_S if code == 0 or processes.agreed else GRACE_S + 3.0)


def own_devices(said: Sequence[Statement], number: int) -> list[int] | None:
    """Returns which of the GPUs that a process sees are its own; None: all.

    Processes of one machine that see the same ones share them: evenly where it is told how many there are, else one
    each. Where fewer are told than there are processes, a scheduler has shown each its own, by the same number.
    """
    beside = [i for i, one in enumerate(said) if one["_host"] == said[number]["_host"]]
    seen = {said[i]["_visible"] for i in beside}
    place, there = beside.index(number), len([name for name in said[number]["_visible"].split(",") if name])
    if len(beside) == 1 or len(seen) == len(beside) or 0 < there < len(beside):
        return None
    each = max(1, there // len(beside))
    return list(range(place * each, (place + 1) * each))


def _connected(seat: Seat, said: Sequence[Statement]) -> Processes:
    """Connects the processes, which have met."""
    # Without it a process would be ended by any other's end, before it can say why.
    jax.config.update("jax_enable_recoverability", True)
    # A proxy leads out of a cluster, not to its machines. gRPC reads the name in small letters only.
    others = os.environ.get(_NO_PROXY, "")
    os.environ[_NO_PROXY] = f"{others},{seat.host}" if others else seat.host
    jax.config.update("jax_check_proxy_envs", False)
    try:
        jax.distributed.initialize(
            seat.address,
            seat.count,
            seat.number,
            local_device_ids=own_devices(said, seat.number),
            cluster_detection_method="deactivate",
            initialization_timeout=_CONNECT_S,
            heartbeat_timeout_seconds=_HEARTBEAT_S,
        )
    except RuntimeError as error:
        raise UserError(
            f"the processes have met at {seat.address}, but cannot be connected there ({_one_line(error)}); name "
            "another port"
        ) from error
    return Processes(seat.number, seat.count, _Service())


def _check_devices(processes: Processes) -> None:
    """Refuses processes that have other devices."""
    here = jax.local_devices()
    # CPUs of other kinds round differently.
    kind = processor() if here[0].platform == "cpu" else here[0].device_kind
    processes.refuse_differences({"devices": len(here), "their kind": kind})


class _Service:
    """The board of JAX's coordination service."""

    def __init__(self) -> None:
        self._client: Any = distributed.global_state.client

    def put(self, name: str, text: str, *, again: bool = False) -> None:
        try:
            self._client.key_value_set(f"jaxfuse/{name}", text, allow_overwrite=again)
        except RuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def wait(self, name: str, seconds: float) -> str | None:
        try:
            if seconds:
                return self._client.blocking_key_value_get(f"jaxfuse/{name}", int(1000 * seconds))
            return self._client.key_value_try_get(f"jaxfuse/{name}")
        except RuntimeError as error:
            if not any(sign in str(error) for sign in ("DEADLINE_EXCEEDED", "NOT_FOUND")):
                time.sleep(seconds)  # the service is gone: JAX ends this process
            return None


class _Guard:
    """A guard that gives a plain end to a process that JAX aborts, since the service in process 0 is gone.

    Attributes:
        processes: once they are connected.
        code: to exit with, once the run has ended.
    """

    _Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.processes: Processes | None = None
        self.code: int | None = None
        # Kept: it is called from C.
        self._handler = self._Handler(self._aborted)
        self._signal: Any = ctypes.CDLL(None).signal
        self._signal.argtypes, self._signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    def __enter__(self) -> _Guard:
        self._before = self._signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))
        return self

    def __exit__(self, *error: object) -> None:
        self._signal(signal.SIGABRT, self._before)

    def _aborted(self, number: int) -> None:
        """Ends this process with a sentence; returns where JAX was not the reason, and the process is aborted."""
        del number
        if self.code is not None:
            os._exit(self.code)
        if self.processes is None:
            sentence, code = "the processes have met, but not all could connect to process 0 within a minute", 2
        elif self.processes.lost is not None:
            sentence, code = self.processes.lost
        elif not self.processes.first and not self._answers():
            sentence, code = GONE.format("process 0 is"), PROCESS_LOST
        else:
            return
        os.write(2, f"{sentence}\n".encode())
        os._exit(code)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self._seat.host, self._seat.port), timeout=2.0):
            return True
        return False


def _explained(error: BaseException, processes: Processes, watch: Watch) -> BaseException:
    """Returns why a run ends: a computation that fails may do so since another process has ended."""
    if not isinstance(error, Exception) or isinstance(error, (UserError, Unfinished)):
        return error
    parted = any(sign in str(error) for sign in _PARTED)
    verdict = watch.verdict(LONGEST_S if parted else 1.0, apart=parted)
    if verdict is None:
        return error
    processes.agreed = True
    return Stopped(*verdict)


def _sentence(error: BaseException) -> str:
    return _one_line(machine_sentence(error) or error) or type(error).__name__


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _leave(processes: Processes, seconds: float) -> None:
    """Leaves the others; process 0, in which the service lives, after them."""
    assert processes.board is not None
    deadline = time.monotonic() + seconds
    if processes.first:
        for number in range(1, processes.count):
            while time.monotonic() < deadline and processes.board.wait(f"bye/{number}", 0.5) is None:
                pass
        time.sleep(_HANG_UP_S)
    else:
        processes.board.put(f"bye/{processes.number}", "")
    with suppress(RuntimeError):
        jax.distributed.shutdown()
