"""Modalities that cases lack, synthesized by trained networks for those that label."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.engine.trained.phases import TrainedPhase
from jaxfuse.engine.trained.synthesizer import Skill, check_skills, skill_of, volume_maker
from jaxfuse.errors import UserError
from jaxfuse.prediction.maker import DESCRIPTION, Task, Volume, VolumeMaker


def check_runs(maker: TrainedPhase, segmenter: TrainedPhase) -> None:
    """Refuses runs on two kinds of data, and a segmentation that has no use for what is synthesized.

    Raises:
        UserError: as said, or the runs take other voxels for the background.
    """
    made_of, labeled = source_of(maker.data.source), source_of(segmenter.data.source)
    skill, read = skill_of(maker), segmenter.preparation.modalities
    if made_of.name != labeled.name:
        raise UserError(
            f"{maker.name} was trained on cases of the kind {made_of.name!r} and {segmenter.name} on {labeled.name!r}; "
            "name two runs on one kind"
        )
    if not set(skill.targets) & set(read):
        raise UserError(
            f"{maker.name} makes {' and '.join(skill.targets)}, which {segmenter.name} does not read (it reads "
            f"{', '.join(read)}); name a run that makes one of these, or segment without"
        )
    if (its := maker.preparation.background) != segmenter.preparation.background:
        raise UserError(
            f"{maker.name} was trained with data.background {its!r} and {segmenter.name} with "
            f"{segmenter.preparation.background!r}, so that they take other voxels for the background; name two runs "
            "that were trained with the same"
        )


@dataclass(frozen=True)
class Lacking:
    """A case that lacks modalities, read.

    Attributes:
        case: those that it has, as stored.
        sources: the same prepared for the networks that make the others.
        tasks: how each of these is made.
        wanted: the modalities that it shall have.
    """

    case: Case
    sources: Prepared
    tasks: tuple[Task, ...]
    maker: VolumeMaker[TrainedPhase]
    wanted: tuple[str, ...]

    def volumes(self, device: Any) -> dict[str, Volume]:
        """Makes what the case lacks, on its whole grid and in the units of its files."""
        return {task.target: self.maker.make(self.sources, device, task.target) for task in self.tasks}

    def completed(self, device: Any) -> Case:
        """Returns the case with all modalities that are wanted, in their order."""
        made, case = self.volumes(device), self.case
        channels = [*case.channels, *made.values()]
        return _part(replace(case, modalities=(*case.modalities, *made), channels=channels), self.wanted)


@dataclass(frozen=True)
class Completer:
    """The modalities that cases lack of those that a segmentation reads, by the mean of trained networks.

    Attributes:
        wanted: the modalities that every case shall have.
    """

    maker: VolumeMaker[TrainedPhase]
    skill: Skill
    wanted: tuple[str, ...]

    @property
    def name(self) -> str:
        """The names of the networks."""
        return ", ".join(one.name for one in self.maker.phases)

    @property
    def reads(self) -> tuple[str, ...]:
        """The modalities that are looked for: those that are wanted, and those that others are made of."""
        return tuple(dict.fromkeys((*self.wanted, *self.skill.sources)))

    @property
    def makes(self) -> tuple[str, ...]:
        """The modalities that are wanted and can be made."""
        return tuple(name for name in self.wanted if name in self.skill.targets)

    def tasks(self, case: str, there: Collection[str]) -> tuple[Task, ...]:
        """Returns how each modality that a case lacks is made of those that are there; none where it lacks nothing.

        Raises:
            UserError: one of them cannot be made.
        """
        lacking = [name for name in self.wanted if name not in there]
        found = {name: self.skill.task(name, there) for name in lacking}
        tasks = tuple(task for task in found.values() if task)
        if len(tasks) == len(lacking):
            return tasks
        sources = () if self.skill.any_of else self.skill.sources
        others = [name for name in dict.fromkeys((*lacking, *sources)) if name not in (*there, *self.skill.targets)]
        if not others:
            raise UserError(
                f"case {case} has no image of those that {self.name} makes others of ({', '.join(self.skill.sources)});"
                " add one or leave the case out"
            )
        raise UserError(
            f"case {case} has no {' and no '.join(others)} image, and {self.name} makes {', '.join(self.skill.targets)}"
            " alone; add the file or leave the case out"
        )

    def never_shown(self, case: str, tasks: Sequence[Task]) -> Iterator[str]:
        """Warns of what a network has never learned to make of what a case has, since no training case had both."""
        for phase in self.maker.phases:
            own = [set(name.split("+")) for name in phase.facts.subsets]
            for task in tasks:
                if own and not any({*task.sources, task.target} <= having for having in own):
                    yield (
                        f"Warning: case {case} lacks {task.target}, and no training case of {phase.name} had it "
                        f"together with {', '.join(task.sources)}"
                    )

    def read(self, files: CaseFiles) -> Lacking:
        """Reads and prepares a case that lacks modalities; its label file is not opened."""
        there = [name for name in self.reads if name in files.images]
        case = load_case(files, there, None)
        sources = [name for name in self.skill.sources if name in there]
        prepared = self.maker.prepare(_part(case, sources))
        return Lacking(case, prepared, self.tasks(files.id, there), self.maker, self.wanted)


def completer_for(makers: Sequence[TrainedPhase], segmenter: TrainedPhase, devices: Sequence[Any] = ()) -> Completer:
    """Returns the completion of cases for a segmentation, on these devices; by default on the first one.

    Raises:
        UserError: the runs do not go together, among themselves or with the segmentation.
    """
    skill = check_skills(makers)
    check_runs(makers[0], segmenter)
    return Completer(volume_maker(makers, devices=devices), skill, segmenter.preparation.modalities)


def synthesized_note(tasks: Sequence[Task]) -> str:
    """Says in a header which modalities were synthesized; empty where none was."""
    return f"{', '.join(task.target for task in tasks)} {DESCRIPTION}" if tasks else ""


def _part(case: Case, modalities: Sequence[str]) -> Case:
    """Returns a case with these of its modalities, in this order."""
    channels = [case.channels[case.modalities.index(name)] for name in modalities]
    return replace(case, modalities=tuple(modalities), channels=channels)
