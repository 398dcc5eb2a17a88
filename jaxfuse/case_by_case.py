"""Cases one after the other: one that cannot be done is named and left out, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from jaxfuse.errors import CasesLeftOut, OutputError, UserError

_NAMED = 20

Item = TypeVar("Item")
Made = TypeVar("Made")


class CaseByCase:
    """A batch of cases, by their names, of which those that are refused are collected.

    Only a `UserError` leaves a case out: anything else is a fault of the program, and ends the batch. A single case is
    no batch, and its sentence is raised as it is.

    Args:
        say: takes a sentence as soon as a case is left out.
    """

    def __init__(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._names, self._say, self._done = tuple(names), say, set[str]()
        self._refused: dict[str, str] = {}

    @property
    def refused(self) -> Mapping[str, str]:
        """The sentence of each case that was left out, in the order in which they were met."""
        return self._refused

    @property
    def names(self) -> tuple[str, ...]:
        """The cases."""
        return self._names

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Does a case: one that is refused inside is left out.

        Raises:
            CasesLeftOut: an output cannot be written; says which cases remain to be done.
        """
        try:
            yield
        except OutputError as error:
            if len(self._names) == 1:
                raise
            raise CasesLeftOut(self._broken_off(error), 1 if self._done else 2) from error
        except UserError as error:
            self._refuse(name, error)
        else:
            self._done.add(name)

    def elsewhere(self, name: str, refused: str = "") -> None:
        """Takes over what another process made of a case: it is done, or was refused with this sentence."""
        if name in self._done or name in self._refused:
            return
        if refused:
            self._refuse(name, UserError(refused))
        else:
            self._done.add(name)

    def sound(self, items: Mapping[str, Item], check: Callable[[Item], Made]) -> dict[str, Made]:
        """Returns what `check` makes of the item of each case; one that it refuses is left out before work begins."""
        made = dict[str, Made]()
        for name, item in items.items():
            try:
                made[name] = check(item)
            except UserError as error:
                self._refuse(name, error)
        return made

    def end(self) -> None:
        """Ends the batch.

        Raises:
            CasesLeftOut: lists the cases that were left out, if any were.
        """
        raise_left_out(self._refused, len(self._names))

    def _refuse(self, name: str, error: UserError) -> None:
        if len(self._names) == 1:
            raise error
        self._refused[name] = str(error)
        self._say(f"left out: {_told(name, str(error))}")

    def _broken_off(self, error: OutputError) -> str:
        """Says what remains to be done, in one sentence; cases that were left out before follow it."""
        rest = [name for name in self._names if name not in self._done and name not in self._refused]
        named = ", ".join(rest[:_NAMED]) + (f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else "")
        sentence = f"{error}; {len(self._done)} of {len(self._names)} cases are done and stay, these are not: {named}"
        return "\n  ".join([sentence, *(_told(*one) for one in self._refused.items())])


def raise_left_out(refused: Mapping[str, str], total: int) -> None:
    """Raises `CasesLeftOut` where any of `total` cases was left out; `refused` holds the sentence of each."""
    if not refused:
        return
    none_done = len(refused) == total
    head = f"none of {total} cases could be done" if none_done else f"left out {len(refused)} of {total} cases"
    lines = [f"{head}:", *(_told(*one) for one in refused.items())]
    raise CasesLeftOut("\n  ".join(lines), 2 if none_done else 1)


def _told(name: str, sentence: str) -> str:
    """The sentence, which begins with the case unless it names it."""
    return sentence if f"case {name}" in sentence else f"{name}: {sentence}"
