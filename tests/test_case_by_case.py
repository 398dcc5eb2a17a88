"""Batches: bad cases are named at once and at the end, the others are done."""

import pytest

from jaxfuse.case_by_case import CaseByCase
from jaxfuse.errors import CasesLeftOut, OutputError, UserError


def work(batch: CaseByCase, faults: dict[str, Exception]) -> list[str]:
    """Does the cases a to d, of which some raise; returns those that were begun."""
    begun = []
    for name in "abcd":
        with batch.case(name):
            begun.append(name)
            if name in faults:
                raise faults[name]
    return begun


def test_a_bad_case_is_named_at_once_and_the_others_are_done():
    said = []
    batch = CaseByCase("abcd", said.append)
    assert work(batch, {"b": UserError("case b: cut short"), "c": UserError("1 of 2")}) == list("abcd")
    assert said == ["left out: case b: cut short", "left out: c: 1 of 2"]
    assert batch.refused == {"b": "case b: cut short", "c": "1 of 2"}
    with pytest.raises(CasesLeftOut) as end:
        batch.end()
    assert (str(end.value), end.value.exit_code) == ("left out 2 of 4 cases:\n  case b: cut short\n  c: 1 of 2", 1)


def test_a_batch_of_which_nothing_could_be_done_is_a_mistake():
    batch = CaseByCase("abcd", lambda _: None)
    work(batch, {name: UserError(f"{name} is bad") for name in "abcd"})
    with pytest.raises(CasesLeftOut, match="none of 4 cases could be done:\n  a: a is bad") as end:
        batch.end()
    assert end.value.exit_code == 2


def test_a_sound_batch_ends_in_silence():
    said = []
    batch = CaseByCase("abcd", said.append)
    work(batch, {})
    batch.end()
    assert (said, batch.refused) == ([], {})


def test_a_fault_of_the_program_is_not_swallowed():
    batch = CaseByCase("abcd", lambda _: None)
    for fault in (RuntimeError("b"), ValueError("b"), KeyError("b"), KeyboardInterrupt()):
        with pytest.raises(type(fault)):
            work(batch, {"b": fault})


def test_a_single_case_raises_its_own_sentence():
    said = []
    batch = CaseByCase("a", said.append)
    with pytest.raises(UserError, match="^a is bad$"), batch.case("a"):
        raise UserError("a is bad")
    assert said == []


def test_a_full_disk_ends_the_batch_and_names_what_remains():
    batch = CaseByCase("abcd", lambda _: None)
    with pytest.raises(CasesLeftOut) as end:
        work(batch, {"b": UserError("b is bad"), "c": OutputError("out cannot be written (full)")})
    sentence = "out cannot be written (full); 1 of 4 cases are done and stay, these are not: c, d"
    assert (str(end.value), end.value.exit_code) == (f"{sentence}\n  b: b is bad", 1)
    with pytest.raises(CasesLeftOut) as end:
        work(CaseByCase("abcd", lambda _: None), {"a": OutputError("full")})
    assert end.value.exit_code == 2


def test_cases_are_looked_at_before_the_work():
    batch = CaseByCase(["1", "x", "3"], lambda _: None)

    def number(text: str) -> int:
        if not text.isdigit():
            raise UserError(f"{text} is no number")
        return int(text)

    assert batch.sound({text: text for text in ("1", "x", "3")}, number) == {"1": 1, "3": 3}
    assert batch.refused == {"x": "x is no number"}
