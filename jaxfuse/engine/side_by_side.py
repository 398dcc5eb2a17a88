"""The phases of one training, as one to the loop: one step, one stream, one judge, one writer of rows.

A phase alone (`Alone`) is all of these by itself. Phases side by side (`Together`) share them; to whoever reads the run
later they are phases like others: rows, best weights and last weights are each phase's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol, SupportsFloat, runtime_checkable

from jaxfuse.augment.batch import augmented
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.engine.loop import Rows, TrainStep, close_stream
from jaxfuse.engine.programs import Programs, donating
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.run_folder.metric_writer import MetricWriter
from jaxfuse.engine.validation import Judge, PhaseJudge
from jaxfuse.errors import UserError
from jaxfuse.learning.averaging import averaging
from jaxfuse.learning.side_by_side import SideBySide
from jaxfuse.learning.state import State
from jaxfuse.learning.system import System

# Everything besides the config that determines a phase's System: (dataset facts, weighs_classes, total steps).
Built = tuple[DatasetFacts, bool, int]
Stream = Callable[[int], Iterator[Mapping[str, Any]]]  # next step -> the batches from there on


@runtime_checkable
class Group(Protocol):
    """The phases of one training; mappings are by phase."""

    def step(self, programs: Programs) -> TrainStep:
        """Compiles the step of the training; `programs` are those of the phases' System."""
        ...

    def stack(self, states: Mapping[str, State]) -> State:
        """Joins the states of the phases into that of the training."""
        ...

    def member(self, state: State, name: str) -> State:
        """Returns the state of one phase."""
        ...

    def stream(self, streams: Mapping[str, Stream]) -> Stream:
        """Joins the streams of the phases."""
        ...

    def judge(self, judges: Mapping[str, PhaseJudge]) -> Judge:
        """Joins the judges of the phases."""
        ...

    def rows(self, writer: MetricWriter) -> Rows:
        """Returns the place for the training's rows, which become the phases' rows."""
        ...

    def keep(self, step: int, states: Mapping[str, State], judge: Judge, opened: Mapping[str, Checkpoints]) -> None:
        """Writes the last checkpoint of every phase, where the training's own is another."""
        ...


def group_of(system: System, names: Sequence[str]) -> Group:
    """Returns the group of these phases, which share one System."""
    return Together(SideBySide(system, tuple(names))) if len(names) > 1 else Alone()


@dataclass(frozen=True)
class Alone:
    """A training of one phase."""

    def step(self, programs: Programs) -> TrainStep:
        return programs.step

    def stack(self, states: Mapping[str, State]) -> State:
        (state,) = states.values()
        return state

    def member(self, state: State, name: str) -> State:
        del name
        return state

    def stream(self, streams: Mapping[str, Stream]) -> Stream:
        (stream,) = streams.values()
        return stream

    def judge(self, judges: Mapping[str, PhaseJudge]) -> Judge:
        (judge,) = judges.values()
        return judge

    def rows(self, writer: MetricWriter) -> Rows:
        return writer

    def keep(self, step: int, states: Mapping[str, State], judge: Judge, opened: Mapping[str, Checkpoints]) -> None:
        del step, states, judge, opened  # the training's checkpoints are the phase's


@dataclass(frozen=True)
class Together:
    """A training of several phases side by side."""

    side: SideBySide

    def step(self, programs: Programs) -> TrainStep:
        step = self.side.over_members(augmented(self.side.system.train_step, programs.augment))
        return donating(averaging(step, programs.ema_decay), programs.placement)

    def stack(self, states: Mapping[str, State]) -> State:
        return self.side.stack(states)

    def member(self, state: State, name: str) -> State:
        return self.side.member(state, name)

    def stream(self, streams: Mapping[str, Stream]) -> Stream:
        return in_step(streams)

    def judge(self, judges: Mapping[str, PhaseJudge]) -> Judge:
        return MemberJudges(judges, self.side.member)

    def rows(self, writer: MetricWriter) -> Rows:
        return MemberRows(writer, self.side.members)

    def keep(self, step: int, states: Mapping[str, State], judge: Judge, opened: Mapping[str, Checkpoints]) -> None:
        progress = judge.document()
        for name, state in states.items():
            opened[name].save(step, state, progress[name])


@dataclass(frozen=True)
class MemberRows:
    """A writer that turns one row of several phases into a row of each: `coronal/net/loss` is `net/loss` of `coronal`.

    Numbers that bear no phase's name, such as the speed of all together, go into every row.
    """

    writer: MetricWriter
    members: tuple[str, ...]

    def write(self, step: int, phase: str, split: Literal["train", "val"], values: Mapping[str, SupportsFloat]) -> None:
        del phase  # the name of all together
        owners = {name: name.partition("/")[0] for name in values}
        for member in self.members:
            row = {
                name.removeprefix(f"{member}/"): value
                for name, value in values.items()
                if owners[name] == member or owners[name] not in self.members
            }
            self.writer.write(step, member, split, row)


@dataclass(frozen=True)
class MemberJudges:
    """The judges of several phases, each on its own part of the state.

    Attributes:
        judges: the judge of each phase.
        member: (state of all, phase) -> the phase's own state.
    """

    judges: Mapping[str, PhaseJudge]
    member: Callable[[State, str], State]

    def __call__(self, step: int, state: State) -> None:
        for name, judge in self.judges.items():
            judge(step, self.member(state, name))

    def document(self) -> dict[str, Any]:
        # The checkpoint of all waits for none of these: a run killed in between must not resume with a best that was
        # never whole.
        for judge in self.judges.values():
            judge.checkpoints.wait_for_best()
        return {name: judge.document() for name, judge in self.judges.items()}

    @property
    def ended(self) -> bool:
        return all(judge.ended for judge in self.judges.values())

    def recall(self, document: dict[str, Any]) -> None:
        for name, judge in self.judges.items():
            judge.recall(document[name])


@dataclass(frozen=True)
class MemberBatches:
    """The batches {phase: its batch} of several streams in step. Closing it closes them all."""

    streams: Mapping[str, Iterator[Mapping[str, Any]]]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self

    def __next__(self) -> Mapping[str, Any]:
        return {name: next(stream) for name, stream in self.streams.items()}

    def close(self) -> None:
        with ExitStack() as closing:  # the others are closed where closing one fails
            for stream in self.streams.values():
                closing.callback(close_stream, stream)


def in_step(streams: Mapping[str, Stream]) -> Stream:
    """Returns the streams as one."""
    return lambda start: MemberBatches({name: stream(start) for name, stream in streams.items()})


def check_alike(phases: Mapping[str, Built]) -> None:
    """Refuses phases whose data would build other Systems, or make trainings of other lengths.

    Options that would do so are refused where the config is read.
    """
    first, *others = phases
    for other in others:
        for (what, here, advice), (_, there, _) in zip(_needs(*phases[first]), _needs(*phases[other]), strict=True):
            if here != there:
                raise UserError(
                    f"{first} and {other} cannot train side by side: {what} are {here} and {there}; "
                    f"{advice}, or leave side_by_side False"
                )


def _needs(facts: DatasetFacts, weighs_classes: bool, steps: int) -> Sequence[tuple[str, object, str]]:
    counted = facts.voxels_per_class if weighs_classes else ()
    return (
        ("their modalities", facts.modalities, "give both the same"),
        ("their classes", facts.classes, "give both the same"),
        ("their steps", steps, "give both the same number of steps in place of epochs"),
        ("the voxels per class that weigh their losses", counted, 'set count_classes="crop" for both'),
    )
