"""The cases of trained phases on one side of their split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from jaxfuse.data.sources.volumes import CUTS
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError


def cases_of_side(phases: Sequence[TrainedPhase], side: str) -> frozenset[str] | None:
    """Returns the cases on one side of the split that all of these phases were trained by; None without a side.

    Raises:
        UserError: there is no such side, or no case on it, or the phases have been split differently.
    """
    if not side:
        return None
    if side not in ("val", "test"):
        raise UserError(f"--side is {side!r}; choose val or test")
    sides = [frozenset(cases_on(one, side)) for one in phases]
    for one, cases in zip(phases, sides, strict=True):
        if not cases:
            raise UserError(f"{one.name} has no case on the side {side} of its split; leave --side out")
        if cases != sides[0]:
            raise UserError(
                f"{phases[0].name} and {one.name} have other cases on the side {side}; predict with each alone"
            )
    return sides[0]


def cases_on(phase: TrainedPhase, side: str) -> Iterable[str]:
    """Lists the cases of a side; slices are traced back to their cases, and those held out were never cut."""
    ids = {"val": phase.facts.val, "test": phase.facts.test}[side]
    return (re.sub(r"_[xyz]\d{3,}$", "", one) for one in ids) if phase.data.source in CUTS and side == "val" else ids
