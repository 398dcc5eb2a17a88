"""Cases that lack modalities, given to trained networks: who takes them, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.presence import MISSING, REFUSE, present, read_subset, subset_name, weighted_subsets
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError
from jaxfuse.learning.system import FusingSystem

# Of a header's description.
_MOST_LETTERS = 80


def check_policy(phases: Sequence[TrainedPhase], policy: str) -> None:
    """Refuses to label incomplete cases by a network to which nobody can tell what is absent."""
    for one in phases:
        if policy != REFUSE and not (one.system.reads_presence or isinstance(one.system, FusingSystem)):
            raise UserError(
                f"--{MISSING} is {policy}, and {one.name} labels cases that have all modalities; leave it out, or name "
                "another run"
            )


def seen_subsets(phase: TrainedPhase) -> set[str]:
    """Returns the subsets of modalities that a phase has been shown in training, by name."""
    modalities = phase.facts.modalities
    own = set(phase.facts.subsets) or {subset_name((True,) * len(modalities), modalities)}
    if phase.phase.modality_dropout is None:
        return own
    table, _ = weighted_subsets(phase.phase.modality_dropout.subsets, modalities)
    having = [read_subset(name, modalities) for name in own]
    return own | {subset_name(one, modalities) for one in table if any(_within(one, all_of) for all_of in having)}


def _within(subset: Sequence[bool], other: Sequence[bool]) -> bool:
    return all(there or not asked for asked, there in zip(subset, other, strict=True))


def told(files: Sequence[CaseFiles], phases: Sequence[TrainedPhase]) -> list[str]:
    """Says which cases lack modalities, and which have a subset that a network has never been shown."""
    modalities = phases[0].preparation.modalities
    subsets = {one.id: subset_name(present(modalities, one.images), modalities) for one in files}
    whole = subset_name((True,) * len(modalities), modalities)
    lacking = {case: subset for case, subset in subsets.items() if subset != whole}
    said = [f"case {case} has {subset} alone; its other modalities are 0" for case, subset in lacking.items()]
    for phase in phases:
        # Of the modalities that the network reads: those that training showed beside others count, too.
        seen = {frozenset(name.split("+")) & frozenset(modalities) for name in seen_subsets(phase)}
        said += [
            f"Warning: case {case} has {subset} alone, which {phase.name} was never shown in training"
            for case, subset in subsets.items()
            if frozenset(subset.split("+")) not in seen
        ]
    return said


def description(lacks: Sequence[str], note: str | None = None) -> str | None:
    """Returns what the header of a label map says of its case; None where there is nothing to say."""
    parts = [f"without {', '.join(lacks)}" if lacks else "", note or ""]
    return "; ".join(filter(None, parts))[:_MOST_LETTERS] or None
