"""Volumes in a folder per case: how folders are found, told apart, and searched for the files of a case.

The layouts themselves stand in the modules of their sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.errors import UserError

# Where several exist the first stands for all, which must hold the same volume (`Image.twins`).
EXTENSIONS = (".nii.gz", ".nii")
# Outer folder / training folder / grade / case.
_DEPTH = 4
HELD_OUT = "test"


@runtime_checkable
class WritePhantoms(Protocol):
    """Writes a phantom data set under `root`, or finds it there; `on_case(done, total)` is called after each case."""

    def __call__(
        self,
        root: Path,
        *,
        cases: int,
        seed: int,
        shape: tuple[int, int, int],
        spacing_mm: float,
        on_case: Callable[[int, int], None] | None = None,
    ) -> object: ...


@runtime_checkable
class Survey(Protocol):
    """Lists what is there of each case under `root`, and what is missing; a layout of None is told from the names."""

    def __call__(
        self, root: str | Path, modalities: Sequence[str], layout: str | None = None
    ) -> tuple[Finding, ...]: ...


@dataclass(frozen=True)
class Cut:
    """Slices of a source's volumes as 2D cases.

    Attributes:
        one_per_case: one slice of each volume, that of the largest tumor.
        labeled: training volumes give the slices that hold a labeled voxel; else those that show enough brain.
    """

    one_per_case: bool = False
    labeled: bool = False


@dataclass(frozen=True)
class Described:
    """The description of a data set by itself, in a file beside its cases.

    Attributes:
        modalities: canonical names, in the order in which the data set numbers its images.
        scheme: the label scheme, by its name; empty where the data set tells none.
        endings: modality -> the rest of its file's name behind the case's; empty where no image has a file of its own.
        remarks: what is odd, a clause each, for a person.
    """

    modalities: tuple[str, ...]
    scheme: str
    endings: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VolumeSource:
    """One kind of data set of volumes: everything in which it differs from another.

    Attributes:
        name: by which a config asks for it.
        modalities: all that its cases may have, by canonical names.
        layouts: name of each layout -> name of the label scheme that it uses unless another is named.
        example: names of files that a user is told to expect.
        layout_of: the layout of the case in a folder, or of the cases of which files lie in it; empty for any other.
        survey: lists the cases under a folder.
        place: (case id, modality, layout) -> where that image is to lie in a case's folder, as compressed NIfTI; None
            where the data set describes that.
        write_phantoms: makes a data set of this kind; None where there are no phantoms, so that a config can name its
            layouts only.
        describe: reads what the data set of a root says of itself, where neither source nor layout tell modalities and
            labels.
        label_suffixes: endings of the names of label files, after the case's id.
        modalities_by_layout: layout -> the modalities that its cases have; all of `modalities` where it is not named.
        cuts: `data.source` by which a config asks for slices of these volumes -> which slices.
    """

    name: str
    modalities: tuple[str, ...]
    layouts: Mapping[str, str]
    example: str
    layout_of: Callable[[Path], str]
    survey: Survey
    place: Callable[[str, str, str], Path] | None = None
    write_phantoms: WritePhantoms | None = None
    describe: Callable[[Path], Described] | None = None
    label_suffixes: tuple[str, ...] = ()
    modalities_by_layout: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cuts: Mapping[str, Cut] = field(default_factory=dict)

    def find(
        self,
        root: str | Path,
        modalities: Sequence[str],
        *,
        labels_required: bool,
        layout: str = "",
        incomplete: bool = False,
    ) -> tuple[CaseFiles, ...]:
        """The cases under `root`, each with all of `modalities`, in a settled order; an empty layout is recognized.

        `root` may be any level from the download's folder to a case. Cases that may be `incomplete` have one at least.

        Raises:
            UserError: for a root without cases, an unknown name, and the first case that lacks a required file; with
                `labels_required` a label file is one.
        """
        found = self.look(root, modalities, layout=layout)
        return case_files(found, labels_required=labels_required, incomplete=incomplete)

    def look(self, root: str | Path, modalities: Sequence[str], *, layout: str = "") -> tuple[Finding, ...]:
        """The cases under `root` as they are, in a settled order; an empty layout is recognized.

        Raises:
            UserError: for a root without cases, no modality, and an unknown name.
        """
        if not modalities:
            raise UserError(f"no modality was asked for; name at least one of {', '.join(self.modalities)}")
        if layout:
            self.scheme_of(layout)
        return self.survey(root, modalities, layout or None)

    def modalities_of(self, layout: str) -> tuple[str, ...]:
        """The modalities that cases of a layout have."""
        return self.modalities_by_layout.get(layout, self.modalities)

    def scheme_of(self, layout: str = "") -> str:
        """The label scheme that a layout uses; empty stands for the first layout. Refuses an unknown one."""
        layout = layout or next(iter(self.layouts))
        if layout not in self.layouts:
            raise UserError(f"layout {layout!r} is not known; choose one of {', '.join(self.layouts)}")
        return self.layouts[layout]

    def detect(self, root: str | Path) -> str:
        """The one layout whose cases lie under `root`; where there is only one, names on disk tell nothing."""
        if len(self.layouts) == 1:
            return next(iter(self.layouts))
        return detect(Path(os.path.abspath(root)), self.layout_of, example=self.example)


def described_source(
    layout: str,
    *,
    example: str,
    layout_of: Callable[[Path], str],
    survey: Survey,
    describe: Callable[[Path], Described],
) -> VolumeSource:
    """A way to keep any kind of data in one layout, whose data sets tell their modalities and labels themselves."""
    return VolumeSource(
        name=layout,
        modalities=(),
        layouts={layout: ""},
        example=example,
        layout_of=layout_of,
        survey=survey,
        describe=describe,
    )


@dataclass(frozen=True)
class Layout:
    """One naming of folders and files.

    Attributes:
        scheme: name of the label scheme that this layout uses unless the user names another.
        folder: pattern of the names of cases' folders.
        told_by: pattern of those of them that tell this layout where none is named; None: all do.
        suffixes: canonical modality name -> ending of its file's name, separator included.
        label: the same for the label file.
        marks: suffixes of which one is enough to make a folder a case; without any, the folder's name is.
        stray_labels: names under which a label file was once published instead.
        grade_column: column of `name_mapping.csv` that holds this layout's case names, or empty.
    """

    name: str
    scheme: str
    folder: re.Pattern[str]
    suffixes: Mapping[str, str]
    label: str = "_seg"
    marks: tuple[str, ...] = ()
    stray_labels: tuple[str, ...] = ()
    grade_column: str = ""
    told_by: re.Pattern[str] | None = None

    def place(self, case: str, modality: str) -> Path:
        """Path of an image within the folder of its case; `UserError` for a modality that no case has."""
        check_modalities((modality,), tuple(self.suffixes), layout=self.name)
        return Path(f"{case}{self.suffixes[modality]}.nii.gz")


@dataclass(frozen=True)
class Finding:
    """One case as found: files by modality, the names looked for in vain, and files that claim to be the label too.

    `side` is that on which the data set itself puts the case, such as "test"; empty where it tells none. `told` is what
    else it tells, such as the subject.
    """

    id: str
    folder: Path
    group: str
    images: Mapping[str, Image]
    missing: Mapping[str, str]
    label: Path | None
    label_twins: tuple[Path, ...] = ()
    side: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


def case_files(
    findings: Iterable[Finding], *, labels_required: bool, incomplete: bool = False
) -> tuple[CaseFiles, ...]:
    """The files of every case; `UserError` for the first that `files_of` refuses."""
    return tuple(files_of(found, labels_required=labels_required, incomplete=incomplete) for found in findings)


def files_of(found: Finding, *, labels_required: bool, incomplete: bool = False) -> CaseFiles:
    """The files of one case; `UserError` where it lacks an image, or a label where labels are required.

    A case that the data set holds out for testing needs no label; one that may be `incomplete` needs one image.
    """
    for modality, name in () if incomplete and found.images else found.missing.items():
        raise UserError(
            f"case {found.id} has no {modality} image: {name} is not in {found.folder}"
            f"{_but(_volumes_in(found.folder), found.folder)}; add the file, leave the case out, or ask for other "
            "modalities"
        )
    if labels_required and found.label is None and found.side != HELD_OUT:
        raise UserError(
            f"case {found.id} has no label file in {found.folder}; "
            "point at the folder of the training cases only, or add the file"
        )
    return CaseFiles(found.id, found.images, found.label, found.group, found.label_twins, found.side, found.told)


def check_modalities(asked: Sequence[str], known: Sequence[str], *, layout: str = "") -> None:
    """Refuses a modality that a source, or one `layout` of it, does not have."""
    if any(modality not in known for modality in asked):
        whose = f", which is all that cases of layout {layout} have" if layout else ""
        raise UserError(f"modalities {list(asked)} were asked for; choose from {', '.join(known)}{whose}")


def detect(root: Path, layout_of: Callable[[Path], str], *, example: str) -> str:
    """The name of the one layout whose cases lie under `root`; `UserError` where there is none, or several.

    `layout_of` names the layout of a folder that holds a case, and is empty for any other; `example` is what the
    user is told to expect.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the cases")
    names = {layout_of(folder) for folder in folders_below(root)} - {""}
    if not names:
        raise UserError(f"no case lies under {root}{_but(_volumes_below(root), root)}; {example}")
    if len(names) > 1:
        raise UserError(
            f"{root} holds cases of the layouts {', '.join(sorted(names))}; give one of the folders below it, or "
            "name the layout that is meant"
        )
    return names.pop()


def is_case(folder: Path, layout: Layout) -> bool:
    """Whether a folder holds a case; one that is named like a case is one even where all its files are missing."""
    if not layout.folder.fullmatch(folder.name):
        return False
    return not layout.marks or any(volume_files(folder, folder.name + suffix) for suffix in layout.marks)


def find_folders(root: Path, layout: Layout) -> tuple[Path, ...]:
    """The folders of the cases under `root`, sorted by name; `UserError` for none, and for a name that lies twice."""
    folders: dict[str, Path] = {}
    for folder in folders_below(root):
        if not is_case(folder, layout):
            continue
        if folder.name in folders:
            raise UserError(f"case {folder.name} lies twice under {root}: in {folders[folder.name]} and in {folder}")
        folders[folder.name] = folder
    if not folders:
        raise UserError(f"no case of layout {layout.name} lies under {root}; check the path or name another layout")
    return tuple(folders[name] for name in sorted(folders))


def find_case(folder: Path, modalities: Sequence[str], layout: Layout, *, group: str = "") -> Finding:
    """The files of the case in `folder`."""
    images, missing = {}, {}
    for modality in modalities:
        stem = folder.name + layout.suffixes[modality]
        if paths := volume_files(folder, stem):
            images[modality] = Image(paths[0], twins=paths[1:])
        else:
            missing[modality] = f"{stem}.nii.gz"
    stems = (folder.name + layout.label, *layout.stray_labels)
    labels = [path for stem in stems for path in volume_files(folder, stem)]
    return Finding(folder.name, folder, group, images, missing, next(iter(labels), None), tuple(labels[1:]))


def folders_below(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """`folder` and those below it, in sorted order, not deeper than a case can lie; links back up are not followed.

    Raises:
        UserError: one of them cannot be read.
    """
    yield folder
    if depth == 0 or not folder.is_dir():
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted(e.name for e in entries if not e.name.startswith((".", "__")) and _leads_down(e))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error
    for name in below:
        yield from folders_below(folder / name, depth - 1)


def _leads_down(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, and no link to one that holds it, nor to itself."""
    if not entry.is_symlink():
        return entry.is_dir()
    target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    return os.path.isdir(target) and os.path.commonpath([target, here]) != target


def _but(files: Sequence[Path], folder: Path) -> str:
    """A clause on files that lie in a folder under names that were not understood; empty for none."""
    if not files:
        return ""
    names = ", ".join(str(path.relative_to(folder)) for path in files[:3])
    return f", where {names}{' and others' if len(files) > 3 else ''} {'lies' if len(files) == 1 else 'lie'}"


def _volumes_in(folder: Path) -> list[Path]:
    """The volumes in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith((*EXTENSIONS, ".hdr")))


def _volumes_below(root: Path) -> list[Path]:
    """The volumes in the first folder below `root` that holds any."""
    return next((found for folder in folders_below(root) if (found := _volumes_in(folder))), [])


def volume_files(folder: Path, stem: str, extensions: Sequence[str] = EXTENSIONS) -> tuple[Path, ...]:
    """The files called `stem` with one of these extensions, in their order: the first, and those that are its twins."""
    return tuple(path for extension in extensions if (path := folder / (stem + extension)).is_file())
