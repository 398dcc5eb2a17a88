"""Commands carried out on all of their cases: over several devices, alone or among calls that share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxfuse.data.brain import untold
from jaxfuse.data.cases import CaseFiles
from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.phases import TrainedPhase, weights_digest
from jaxfuse.engine.trained.shared_cases import Cases, OwnCases, SharedCases, order_of, writing_apart
from jaxfuse.io.outputs import Outputs
from jaxfuse.prediction.conveyor import Work, conveyed
from jaxfuse.prediction.given_cases import GivenCases


@dataclass(frozen=True)
class Call:
    """How a command goes about its cases; nothing of it changes what their files hold.

    Attributes:
        devices: they share the cases; none: the first one does them all.
        side: only the cases on this side of the runs' split; empty: all.
        overwrite: replace files that are not our own.
        shared: whether other calls do some of the cases.
    """

    devices: Sequence[Any] = ()
    side: str = ""
    overwrite: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Written:
    """The files of a case that is done.

    Attributes:
        names: its files, relative to the output folder; the first is the result.
        backgrounds: of its images, as `jaxfuse.data.brain.untold` takes them.
    """

    names: tuple[str, ...]
    backgrounds: Sequence[float | None] | None


@dataclass(frozen=True)
class Assignment:
    """The cases of one call and their files.

    Attributes:
        output: the folder of the outputs, as it is named to the user.
        options: all that decides the files beside the runs and the cases.
    """

    phases: Sequence[TrainedPhase]
    root: Path
    output: Path
    given: GivenCases
    outputs: Outputs
    options: Mapping[str, Any]

    def carry_out(
        self,
        stages: Callable[[Outputs], Work[CaseFiles, Any, Any, Written]],
        call: Call,
        devices: Sequence[Any],
        display: Display,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Does all cases, and says what comes of each.

        Args:
            stages: what is done with each, by the outputs that it is written to.
            close: what is done once, when no case is left.

        Raises:
            CasesLeftOut: some cases cannot be done; the others are.
            UserError: other calls in the output folder do something else.
        """
        batch = self.given.batch
        with self._cases(call) as cases:
            if isinstance(cases, SharedCases):
                display.say(cases.told())
            work = stages(writing_apart(self.outputs) if call.shared else self.outputs)
            tell = display.tally(len(self.given.files), len(cases.settled))
            for some in cases.rounds():
                with closing(conveyed(some, work, devices)) as belt:
                    for one, result in belt:
                        with batch.case(one.id):
                            written = result()
                            cases.settle(one.id, written.names, written.backgrounds)
                            tell(self.output / written.names[0], len(cases.settled))
                        if sentence := batch.refused.get(one.id):
                            cases.refuse(one.id, sentence)
            for one in self.given.files:
                batch.elsewhere(one.id, cases.settled[one.id].get("refused", ""))
            cases.end(close)
        notes = {one.id: cases.settled[one.id].get("note") for one in self.given.files}
        if warning := untold({case: note for case, note in notes.items() if note is not None}):
            display.say(f"Warning: {warning}")
        batch.end()

    @contextmanager
    def _cases(self, call: Call) -> Iterator[Cases]:
        if not call.shared:
            yield OwnCases(self.given.files)
            return
        runs = [(one.name, weights_digest(one.weights())) for one in self.phases]
        order = order_of(runs, self.root, self.given.batch.names, {"side": call.side, **self.options})
        with SharedCases({one.id: one for one in self.given.files}, self.outputs, order) as cases:
            yield cases
