"""Cases are scored in several processes as in one; a process that is lost takes at most its own case with it."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from jaxfuse import workers
from jaxfuse.errors import UserError
from jaxfuse.workers import outcomes, scored_apart

# Jobs, which the processes find by their names.


def squared(number: int) -> int:
    if number == 3:
        raise UserError("3 has no square")
    return number**2


def where() -> tuple[int, bool]:
    return os.getpid(), any(name in sys.modules for name in ("jax", "jaxlib"))


def dies_before(marker: Path, times: int) -> str:
    """Ends its process as often as is asked for; says the last time that it lived."""
    marker.mkdir(exist_ok=True)
    if len(list(marker.iterdir())) < times:
        (marker / f"{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


def told(found) -> list:
    """The result of each case in turn, or its sentence."""
    texts = []
    for case, result in found:
        try:
            texts.append((case, result()))
        except UserError as error:
            texts.append((case, str(error)))
    return texts


def test_processes_give_what_one_gives_in_the_same_order():
    jobs = {f"case {number}": partial(squared, number) for number in range(6)}
    alone = told(outcomes(jobs, 1))
    assert told(outcomes(jobs, 2)) == alone
    assert alone[3:5] == [("case 3", "3 has no square"), ("case 4", 16)]


def test_the_case_of_a_lost_process_is_done_again_once(tmp_path):
    """Another process does it; the second that is lost takes the case with it, and no other case."""
    jobs = {"once": partial(dies_before, tmp_path / "once", 1), "twice": partial(dies_before, tmp_path / "twice", 2)}
    jobs |= {str(number): partial(where) for number in range(4)}
    (once, _), (_, sentence), *others = found = told(scored_apart(jobs, 2))
    assert (once, found[0][1]) == ("once", "lived")
    assert "case twice: the process that scored it was killed by signal 9, twice; memory may be too" in sentence
    processes = {process for _, (process, _) in others}
    assert os.getpid() not in processes
    assert not any(with_jax for _, (_, with_jax) in others)
    assert [case for case, _ in others] == ["0", "1", "2", "3"]


def test_a_fault_of_the_program_keeps_its_traceback():
    ((_, result),) = scored_apart({"a": partial(squared, "a")}, 1)
    with pytest.raises(RuntimeError, match=r"in squared[\s\S]*TypeError: unsupported operand"):
        result()


def test_processes_are_started_where_they_pay(monkeypatch):
    seen = []

    def apart(jobs, count):
        seen.append((list(jobs), count))
        return iter([(case, lambda: "apart") for case in jobs])

    monkeypatch.setattr(workers, "scored_apart", apart)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    jobs = {name: lambda: "here" for name in "abcdefgh"}
    assert {text for _, text in told(outcomes(jobs, None))} == {"here"}
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now.append(now[-1] + 2.0) or now[-1])
    assert [text for _, text in told(outcomes(jobs, None))] == ["here"] + 7 * ["apart"]
    assert seen == [(list("bcdefgh"), 4)]
    assert {text for _, text in told(outcomes(jobs, 1))} == {"here"}


def test_a_caller_that_ends_early_leaves_no_process(tmp_path):
    found = scored_apart({str(number): where for number in range(3)}, 2)
    _, result = next(found)
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(result()[0], 0)
