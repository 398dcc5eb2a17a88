"""Cases that lack modalities, given to trained networks: who takes them, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.presence import IMPUTE, MISSING, REFUSE, ZERO, read_subset, subset_name, weighted_subsets
from jaxfuse.engine.devices.placement import Placement
from jaxfuse.engine.trained.completer import Completer, completer_for
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.errors import UserError
from jaxfuse.learning.system import FusingSystem
from jaxfuse.prediction.given_cases import GivenCases, given_cases
from jaxfuse.prediction.shown import told_of

SYNTHESIS = "synthesis"


@dataclass(frozen=True)
class Missing:
    """The choice what is done with cases that lack modalities.

    Attributes:
        policy: "refuse"; "zero" for their images; or "impute", they are made first.
        makers: phases that make them, of which the mean is taken.

    Raises:
        UserError: there is no such policy, or there are makers and nothing to make, or the other way round.
    """

    policy: str = REFUSE
    makers: tuple[TrainedPhase, ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in (REFUSE, ZERO, IMPUTE):
            raise UserError(f"--{MISSING} is {self.policy!r}; choose {REFUSE}, {ZERO} or {IMPUTE}")
        if (self.policy == IMPUTE) != bool(self.makers):
            named = ", ".join(one.name for one in self.makers) or "not given"
            raise UserError(
                f"--{MISSING} is {self.policy} and --{SYNTHESIS} {named}; give --{MISSING} {IMPUTE} together with "
                f"--{SYNTHESIS} RUN, or neither"
            )

    def completer(self, phases: Sequence[TrainedPhase], devices: Sequence[Any]) -> Completer | None:
        """Returns what completes cases for these phases; None where nothing is made.

        Raises:
            UserError: the phases cannot label incomplete cases, or do not go with those that make modalities.
        """
        check_policy(phases, self.policy)
        if not self.makers:
            return None
        if any(isinstance(one, Placement) for one in devices):
            raise UserError(
                f"--space is above 1, and --{MISSING} {IMPUTE} makes modalities on one device each; leave one out"
            )
        return completer_for(self.makers, phases[0], devices)

    def cases(
        self,
        completer: Completer | None,
        phase: TrainedPhase,
        root: Path,
        say: Callable[[str], None],
        only: Collection[str] | None,
    ) -> GivenCases:
        """Finds the cases that can be labeled, as `given_cases` does; of the others each is left out by its name."""
        reads = completer.reads if completer else phase.preparation.modalities
        given = given_cases(root, phase.data, reads, say, only, incomplete=self.policy != REFUSE)
        if completer is None:
            return given
        files = {one.id: one for one in given.files}
        sound = given.batch.sound(files, lambda one: completer.tasks(one.id, one.images))
        return replace(given, files=tuple(files[case] for case in sound))


REFUSED = Missing()


def check_policy(phases: Sequence[TrainedPhase], policy: str) -> None:
    """Refuses to label incomplete cases by a network to which nobody can tell what is absent."""
    for one in phases:
        if policy == ZERO and not (one.system.reads_presence or isinstance(one.system, FusingSystem)):
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


def told(files: Sequence[CaseFiles], phases: Sequence[TrainedPhase], completer: Completer | None = None) -> list[str]:
    """Says which cases lack modalities, and which have a subset that a network has never been shown."""
    if completer:
        return [sentence for one in files for sentence in _made(one, completer)]
    return told_of(files, phases[0].preparation.modalities, [(one.name, seen_subsets(one)) for one in phases])


def _made(files: CaseFiles, completer: Completer) -> list[str]:
    """Says what is made for a case, and of what."""
    tasks = completer.tasks(files.id, files.images)
    if not tasks:
        return []
    made, sources = ", ".join(task.target for task in tasks), ", ".join(tasks[0].sources)
    said = f"case {files.id} lacks {made}, made from {sources} by {completer.name}"
    return [said, *completer.never_shown(files.id, tasks)]
