"""Calls that know of each other by a folder share its cases: each is done once, and all find out what came of it."""

from pathlib import Path

import pytest

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.engine.trained import shared_cases
from jaxfuse.engine.trained.shared_cases import FOLDER, RECORD, OwnCases, SharedCases, order_of, writing_apart
from jaxfuse.io.outputs import Outputs, open_outputs
from jaxfuse.io.tables import read_json
from tests.refusals import refused

CASES = ("a", "b", "c", "d")


@pytest.fixture
def files(tmp_path) -> dict[str, CaseFiles]:
    (tmp_path / "in").mkdir()
    for case in CASES:
        (tmp_path / "in" / case).write_text(case)
    return {case: CaseFiles(case, {"t1": Image(tmp_path / "in" / case)}) for case in CASES}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(shared_cases, "_LOOK_AGAIN_S", 0.001)


def outputs_of(folder: Path) -> Outputs:
    return open_outputs(folder / "out", "--output", reads=(), names=[f"{case}.txt" for case in CASES])


def call(folder: Path, files: dict[str, CaseFiles], **options: object) -> SharedCases:
    order = order_of([("run", "0123")], folder / "in", CASES, {"overlap": 0.5, **options})
    return SharedCases(files, outputs_of(folder), order)


def do(cases: SharedCases, case: str, text: str = "") -> None:
    """Writes what is made of a case, and settles it."""
    with writing_apart(cases.outputs).together() as folder:
        (folder / f"{case}.txt").write_text(text or case.upper())
    cases.settle(case, [f"{case}.txt"], [0.0])


def never() -> None:
    raise AssertionError("another call has closed the work")


def test_two_calls_share_the_cases_and_the_first_to_come_closes(tmp_path, files):
    closed, first, second = [], call(tmp_path, files), call(tmp_path, files)
    with first, second:
        ours, theirs = iter(next(first.rounds())), iter(next(second.rounds()))
        assert next(ours).id == "a"
        assert next(theirs).id == "b"
        do(first, "a")
        assert next(ours).id == "c"
        second.refuse("b", "b is bad")
        first.refuse("c", "c is bad")
        assert next(theirs).id == "d"
        assert list(ours) == []  # the other call has it
        do(second, "d")
        assert list(theirs) == []
        assert list(next(first.rounds())) == list(next(second.rounds())) == []
        assert set(first.settled) == set(second.settled) == set(CASES)
        assert (first.settled["b"]["refused"], first.settled["d"]["note"]) == ("b is bad", [0.0])
        first.end(lambda: closed.append("first"))
        second.end(never)
    assert closed == ["first"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [RECORD, ".jaxfuse-written", "a.txt", "d.txt"]


def test_the_cases_of_a_call_that_ended_are_done_by_another(tmp_path, files):
    """It had written one case and not settled it, and claimed another."""
    with call(tmp_path, files) as lost:
        claimed = iter(next(lost.rounds()))
        assert [next(claimed).id, next(claimed).id] == ["a", "b"]
        with writing_apart(lost.outputs).together() as folder:
            (folder / "a.txt").write_text("A")
        with call(tmp_path, files) as other:
            rounds = other.rounds()
            assert [one.id for one in next(rounds)] == ["c", "d"]
            for case in "cd":
                do(other, case)
            lost.__exit__()
            assert [one.id for one in next(rounds)] == ["a", "b"]
            for case in "ab":
                do(other, case)
            assert list(rounds) == []
            other.end(lambda: None)
    assert {path.read_text() for path in (tmp_path / "out").glob("*.txt")} == {"A", "B", "C", "D"}


def test_a_later_call_does_what_is_not_there_or_not_true_any_more(tmp_path, files):
    def begin() -> list[str]:
        with call(tmp_path, files) as cases:
            return [one.id for one in next(cases.rounds())]

    with call(tmp_path, files) as cases:
        for one in next(cases.rounds()):
            do(cases, one.id) if one.id != "d" else cases.refuse("d", "d is bad")
        # Before the work is merged what was refused stays so.
        assert begin() == []
        cases.end(lambda: None)
    # A call that comes after the end tries it again, and has the others.
    assert begin() == ["d"]
    (tmp_path / "in" / "a").write_text("other content")
    (tmp_path / "out" / "b.txt").unlink()
    assert begin() == ["a", "b", "d"]
    assert read_json(tmp_path / "out" / RECORD)["cases"].keys() == {"a", "b", "c"}


def test_a_call_that_comes_when_all_is_merged_ends_at_once(tmp_path, files):
    with call(tmp_path, files) as slow, call(tmp_path, files) as quick:
        for one in next(quick.rounds()):
            do(quick, one.id) if one.id != "b" else quick.refuse("b", "b is bad")
        quick.end(lambda: None)
        assert list(next(slow.rounds())) == []
        assert slow.settled["b"]["refused"] == "b is bad"
        slow.end(never)
    assert not (tmp_path / "out" / FOLDER).exists()


def test_another_order_is_refused_while_work_goes_on_and_replaces_what_is_done(tmp_path, files):
    with call(tmp_path, files) as cases:
        told = r"holds the unfinished work of calls of another order \(overlap: 0.5 there, 0.25 now\); let them end"
        refused(told, call(tmp_path, files, overlap=0.25).__enter__)
        for one in next(cases.rounds()):
            do(cases, one.id)
        cases.end(lambda: None)
    with call(tmp_path, files, overlap=0.25) as other:
        assert [one.id for one in next(other.rounds())] == list(CASES)


def test_a_call_alone_keeps_its_own_account(files):
    closed, cases = [], OwnCases(files.values())
    (given,) = cases.rounds()
    assert [one.id for one in given] == list(CASES)
    cases.settle("a", ["a.txt"], [None])
    cases.refuse("b", "b is bad")
    assert cases.settled == {"a": {"note": [None]}, "b": {"refused": "b is bad"}}
    cases.end(lambda: closed.append(1))
    assert closed == [1]
