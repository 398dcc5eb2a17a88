"""Cases that a command is given: those that are whole are worked on, and the others are left out by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxfuse.case_by_case import CaseByCase
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources.case_folders import Finding, files_of
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import Read, folder_read


@runtime_checkable
class Kept(Protocol):
    """How the cases of a training lie on disk; the options of `jaxfuse.data.settings.Data` by these names."""

    @property
    def source(self) -> str: ...

    @property
    def layout(self) -> str: ...

    @property
    def entities(self) -> str: ...

    def there(self, files: CaseFiles) -> CaseFiles:
        """Returns a case without the images that count as absent."""
        ...


@dataclass(frozen=True)
class GivenCases:
    """The cases below a folder.

    Attributes:
        files: the cases that have all files.
        batch: of all cases; those that lack a file are left out already.
        reads: what is read, for the check of outputs.
        layout: the name of that in which they lie.
    """

    files: tuple[CaseFiles, ...]
    batch: CaseByCase
    reads: Sequence[Read]
    layout: str


def given_cases(
    root: Path,
    data: Kept,
    modalities: Sequence[str],
    say: Callable[[str], None],
    only: Collection[str] | None = None,
    *,
    incomplete: bool = False,
) -> GivenCases:
    """Finds the cases below `root` of the kind of a training's data, of which these modalities are read, and no labels.

    Args:
        only: the cases that are wanted; None: all.
        incomplete: whether a case may lack modalities, of which it has one at least.

    Raises:
        UserError: there is no case, or one that is wanted is not there.
    """
    there = volume_root(root, source=data.source, layout=data.layout, entities=data.entities)
    found = there.look(modalities)
    if only is not None:
        if absent := sorted(set(only) - {one.id for one in found}):
            raise UserError(f"case {absent[0]} is not below --input {root} ({len(absent)} of {len(only)} are not)")
        found = tuple(one for one in found if one.id in only)
    batch = CaseByCase([one.id for one in found], say)
    taken = partial(_files, incomplete=incomplete, data=data)
    whole = batch.sound({one.id: one for one in found}, taken)
    return GivenCases(tuple(whole.values()), batch, reads_of(root, whole.values()), there.layout)


def _files(found: Finding, *, incomplete: bool, data: Kept) -> CaseFiles:
    return images_taken(files_of(found, labels_required=False, incomplete=incomplete), data, incomplete=incomplete)


def images_taken(files: CaseFiles, data: Kept, *, incomplete: bool) -> CaseFiles:
    """Returns a case without images of one value everywhere, where they count as absent; refuses it if none may be."""
    shown = data.there(files)
    if not incomplete and (blank := [name for name in files.images if name not in shown.images]):
        raise UserError(
            f"case {files.id} has a {' and a '.join(blank)} image of one value everywhere, which counts as absent; "
            "leave the case out, or give a policy with --missing where runs label"
        )
    return shown


def reads_of(root: Path, files: Iterable[CaseFiles], option: str = "--input") -> Sequence[Read]:
    """Returns the folder that is read, and those that links to its images lead to."""
    return folder_read(option, root, (image.path for one in files for image in one.images.values()))
