"""Cases that a command is given: those that are whole are worked on, and the others are left out by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jaxfuse.case_by_case import CaseByCase
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.settings import Data
from jaxfuse.data.sources.case_folders import files_of
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.io.outputs import Read, folder_read


@dataclass(frozen=True)
class GivenCases:
    """The cases below a folder.

    Attributes:
        files: the cases that have all files.
        batch: of all cases; those that lack a file are left out already.
        reads: what is read, for the check of outputs.
    """

    files: tuple[CaseFiles, ...]
    batch: CaseByCase
    reads: Sequence[Read]


def given_cases(root: Path, data: Data, modalities: Sequence[str], say: Callable[[str], None]) -> GivenCases:
    """Finds the cases below `root` of the kind of a run's data, of which these modalities are read, and no labels.

    Raises:
        UserError: there is no case.
    """
    found = source_of(data.source).look(root, modalities, layout=data.layout)
    batch = CaseByCase([one.id for one in found], say)
    whole = batch.sound({one.id: one for one in found}, partial(files_of, labels_required=False))
    return GivenCases(tuple(whole.values()), batch, reads_of(root, whole.values()))


def reads_of(root: Path, files: Iterable[CaseFiles], option: str = "--input") -> Sequence[Read]:
    """Returns the folder that is read, and those that links to its images lead to."""
    return folder_read(option, root, (image.path for one in files for image in one.images.values()))
