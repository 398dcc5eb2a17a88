"""The meeting of the processes of a run, before any of them uses a device: are all there, and are they alike?

Process 0 listens where JAX's coordinator will; each of the others calls, says what it is, and hears whether the run
begins. JAX would end a process that waits in vain with a stack trace, and would name nobody.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from jaxfuse.errors import UserError

# Between two calls: the first come soon after one another, for processes that start together.
_FIRST_RETRY_S, _RETRY_S = 0.02, 0.5
# For a caller to say all, and, once a run is refused, for others to call and hear of it.
_CALL_S, _LINGER_S = 5.0, 10.0
_MOST_BYTES = 1 << 22
# Differences that are told; many would hide the first.
_TOLD = 4

Statement = Mapping[str, Any]


@dataclass(frozen=True)
class Seat:
    """The place of a process in a run of several.

    Attributes:
        address: HOST:PORT of process 0.
        count: how many processes there are.
        number: of this process, from 0.
    """

    address: str
    count: int
    number: int

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def meet(seat: Seat, statement: Statement, *, wait_s: float) -> list[Statement]:
    """Waits until all processes are there, and returns what they say of themselves, in order.

    Args:
        statement: JSON; where it is not equal to that of process 0 the run is refused, but for keys that begin with _.
        wait_s: seconds to wait for the others.

    Raises:
        UserError: a process is missing or its number is taken, or processes differ.
    """
    deadline = time.monotonic() + wait_s
    known = {"processes": seat.count, **statement}
    if seat.number == 0:
        return _receive(seat, known, deadline, wait_s)
    return _call(seat, known, deadline, wait_s)


def differences(said: Sequence[Statement], numbers: Sequence[int] = ()) -> str:
    """Names the first process whose statement is not that of process 0, and what differs; "" where none is.

    Args:
        numbers: of the processes that said so; where not given, 0, 1, ...
    """
    first, *others = said
    for number, other in zip(numbers[1:] or range(1, len(said)), others, strict=True):
        keys = [key for key in sorted(first.keys() | other.keys()) if not key.startswith("_")]
        differ = [key for key in keys if first.get(key) != other.get(key)]
        if differ:
            told = [f"{key} is {_of(first, key)} in process 0 and {_of(other, key)} there" for key in differ[:_TOLD]]
            more = f", and {len(differ) - _TOLD} more" if len(differ) > _TOLD else ""
            return f"process {number} differs from process 0: {'; '.join(told)}{more}"
    return ""


def _of(statement: Statement, key: str) -> str:
    return repr(statement[key]) if key in statement else "absent"


def _receive(seat: Seat, own: Statement, deadline: float, wait_s: float) -> list[Statement]:
    """Takes the calls of all others, and answers them at once when the last is there, or time is up."""
    calls: dict[int, tuple[socket.socket, Statement]] = {}
    refused = ""
    with closing(_listener(seat)) as listener, ExitStack() as opened:
        while len(calls) < seat.count - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            reason = _take_call(listener, calls, seat, own)
            if reason and not refused:
                refused, deadline = reason, min(deadline, time.monotonic() + _LINGER_S)
        for call, _ in calls.values():
            opened.enter_context(call)
        refused = refused or _missing(seat, calls, wait_s)
        said = [own, *(calls[number][1] for number in sorted(calls))]
        for call, _ in calls.values():
            _send(call, {"refused": refused, "said": said})
        for call, _ in calls.values():
            _line(call)  # the caller hangs up first, so that the port is free for JAX
    if refused:
        raise UserError(refused)
    return said


def _take_call(
    listener: socket.socket, calls: dict[int, tuple[socket.socket, Statement]], seat: Seat, own: Statement
) -> str:
    """Takes one call; returns why the run cannot begin, "" where it still may."""
    try:
        call, _ = listener.accept()
    except OSError:
        return ""
    call.settimeout(_CALL_S)
    said = _line(call)
    if not isinstance(said, dict) or not isinstance(said.get("number"), int):
        call.close()  # somebody else's
        return ""
    number, statement = said["number"], said["statement"]
    if number in calls or not 0 < number < seat.count:
        reason = (
            f"two processes call themselves number {number}; give each its own number, from 0 to {seat.count - 1}"
            if number < seat.count
            else f"process {number} takes part, where numbers go from 0 to {seat.count - 1}; correct --distributed"
        )
        _send(call, {"refused": reason, "said": []})
        call.close()
        return reason
    calls[number] = (call, statement)
    if differ := differences([own, statement], numbers=(0, number)):
        return f"{differ}; start all processes by the same command, from the same installation"
    return ""


def _missing(seat: Seat, calls: Mapping[int, Any], wait_s: float) -> str:
    absent = [str(number) for number in range(1, seat.count) if number not in calls]
    if not absent:
        return ""
    which = f"process {absent[0]} has" if len(absent) == 1 else f"processes {', '.join(absent)} have"
    return (
        f"{which} not come to {seat.address} within {wait_s:.0f} s, where {seat.count} processes are to meet; see why "
        "in their output, and start all within that time, or set a longer one with --distributed_wait"
    )


def _listener(seat: Seat) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", seat.port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {seat.port} of this machine ({error.strerror}); name another port in "
            "--distributed"
        ) from error


def _call(seat: Seat, own: Statement, deadline: float, wait_s: float) -> list[Statement]:
    """Calls process 0 until it answers, or time is up."""
    reason, pause_s = "it did not answer", _FIRST_RETRY_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            with closing(socket.create_connection((seat.host, seat.port), timeout=left)) as call:
                _send(call, {"number": seat.number, "statement": own})
                call.settimeout(max(deadline - time.monotonic(), 0) + _CALL_S)  # process 0 tells who is missing
                answer = _line(call)
        except OSError as error:
            answer, reason = None, error.strerror or str(error)
        if isinstance(answer, dict):
            if answer["refused"]:
                raise UserError(answer["refused"])
            return answer["said"]
        time.sleep(min(pause_s, max(deadline - time.monotonic(), 0)))
        pause_s = min(2 * pause_s, _RETRY_S)
    raise UserError(
        f"process {seat.number} has not found process 0 at {seat.address} within {wait_s:.0f} s ({reason}); start all "
        "processes within that time, and let HOST be the machine of process 0, as others reach it"
    )


def _send(call: socket.socket, message: Any) -> None:
    try:
        call.sendall(json.dumps(message).encode() + b"\n")
    except OSError:  # it is gone; that is told where it is missed
        return


def _line(call: socket.socket) -> Any:
    """Receives one message; None where it is none."""
    received = bytearray()
    try:
        while not received.endswith(b"\n") and len(received) < _MOST_BYTES and (part := call.recv(1 << 16)):
            received += part
        return json.loads(received)
    except (OSError, ValueError):
        return None
