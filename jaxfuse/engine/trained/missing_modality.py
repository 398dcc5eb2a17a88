"""Which cases lack the one modality that a run synthesizes, and whether it is the one that a segmentation needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources.volumes import VolumeSource, source_of
from jaxfuse.engine.trained.phases import Member
from jaxfuse.engine.trained.synthesizer import Synthesizer
from jaxfuse.errors import UserError


@dataclass(frozen=True)
class Completion:
    """One case that is to be segmented.

    Attributes:
        files: its images as they are.
        lacks: where the missing one would lie in the case's folder; None for a case that has it.
    """

    files: CaseFiles
    lacks: Path | None

    def completed(self, modality: str, path: Path) -> CaseFiles:
        """The files with the image that was missing."""
        return replace(self.files, images={**self.files.images, modality: path})


def check_runs(maker: Synthesizer, member: Member) -> VolumeSource:
    """The kind of data set that both were trained on; refuses a segmentation that has no use for what is made."""
    made_of, labeled = source_of(maker.data.source), source_of(member.data.source)
    if made_of.name != labeled.name:
        raise UserError(
            f"{maker.name} was trained on cases of the kind {made_of.name!r} and {member.name} on {labeled.name!r}; "
            "name two runs on one kind"
        )
    if maker.target not in member.data.modalities:
        raise UserError(
            f"{maker.name} makes {maker.target}, which {member.name} does not read (it reads "
            f"{', '.join(member.data.modalities)}); name a run that makes one of these, or segment without"
        )
    return labeled


def cases_to_complete(root: Path, maker: Synthesizer, member: Member) -> tuple[Completion, ...]:
    """The cases under `root` in a settled order.

    Raises:
        UserError: the runs do not go together, there is no case, or one lacks more than the modality that is made.
    """
    source = check_runs(maker, member)
    layout = member.data.layout or source.detect(root)
    read = member.data.modalities
    found = []
    for one in source.survey(root, tuple(dict.fromkeys((*read, *maker.sources))), layout):
        lacking = maker.target in one.missing
        needed = {*read, *maker.sources} if lacking else set(read)
        if others := [name for name in one.missing if name in needed and name != maker.target]:
            raise UserError(
                f"case {one.id} has no {' and no '.join(others)} image, and {maker.name} makes {maker.target} alone; "
                "add the file or leave the case out"
            )
        files = CaseFiles(one.id, one.images, group=one.group)
        found.append(Completion(files, source.place(one.id, maker.target, layout) if lacking else None))
    return tuple(found)


def check_output(root: Path, output: Path) -> None:
    """Refuses to write among the cases: what was made would later pass for an image that was taken."""
    if output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--output {output} lies within --input {root}, among real images; name a folder elsewhere")


def summary(cases: Sequence[Completion], target: str) -> str:
    """How many cases there are, and how many of them lack the modality."""
    lacking = sum(case.lacks is not None for case in cases)
    return f"{len(cases)} cases, {lacking} without {target}, {len(cases) - lacking} segmented as they are"
