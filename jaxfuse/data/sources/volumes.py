"""The sources of volumes by name, by layout and by what lies on disk.

A new kind of data is a module beside this one that exports `SOURCE`, and its name here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources import bids, brats, datalist, decathlon, iseg, isles, isles2022, nnunet, stroke
from jaxfuse.data.sources.case_folders import Cut, Described, Finding, VolumeSource, detect, folders_below
from jaxfuse.errors import UserError

# Kinds of data, of each of which there are phantoms, and ways to keep any kind, which describe what they hold.
KINDS: tuple[VolumeSource, ...] = (brats.SOURCE, iseg.SOURCE, stroke.SOURCE, isles.SOURCE)
KEPT: tuple[VolumeSource, ...] = (nnunet.SOURCE, decathlon.SOURCE, isles2022.SOURCE, bids.SOURCE, datalist.SOURCE)
SOURCES: tuple[VolumeSource, ...] = (*KINDS, *KEPT)

VOLUMES: Mapping[str, VolumeSource] = {source.name: source for source in KINDS}
CUTS: Mapping[str, Cut] = {name: cut for source in KINDS for name, cut in source.cuts.items()}
LAYOUTS: Mapping[str, VolumeSource] = {layout: source for source in SOURCES for layout in source.layouts}
LABEL_SUFFIXES: tuple[str, ...] = tuple(suffix for source in SOURCES for suffix in source.label_suffixes)


@dataclass(frozen=True)
class VolumeRoot:
    """A folder of cases, and the layout in which they lie there.

    Attributes:
        described: what the data set says of itself; of a layout that settles it, what that says.
    """

    path: Path
    source: VolumeSource
    layout: str
    described: Described

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities that its cases may have."""
        return self.described.modalities

    @property
    def scheme(self) -> str:
        """Name of the label scheme that its files have unless the user names another; refuses data that tell none."""
        if not self.described.scheme:
            raise UserError(f"{self.path} does not tell what its label values mean; name it by data.labels or --labels")
        return self.described.scheme

    def find(
        self, modalities: Sequence[str], *, labels_required: bool, incomplete: bool = False
    ) -> tuple[CaseFiles, ...]:
        """The cases, as `VolumeSource.find` has them."""
        asked = {"labels_required": labels_required, "layout": self.layout, "incomplete": incomplete}
        return self.source.find(self.path, modalities, **asked)

    def look(self, modalities: Sequence[str]) -> tuple[Finding, ...]:
        """The cases as they are, as `VolumeSource.look` has them."""
        return self.source.look(self.path, modalities, layout=self.layout)

    def survey(self, modalities: Sequence[str]) -> tuple[Finding, ...]:
        """The cases as they are; without modalities labels alone are sought."""
        return self.source.survey(self.path, modalities, self.layout)

    def place(self, case: str, modality: str) -> Path:
        """Where an image that is missing is to lie within the folder of its case."""
        if self.source.place is not None:
            return self.source.place(case, modality, self.layout)
        if modality not in self.described.endings:
            raise UserError(
                f"an image of one modality has no file of its own in the layout {self.layout}; keep these cases in "
                "another, such as a folder for each"
            )
        return Path(f"{case}{self.described.endings[modality]}")


def volume_root(path: str | Path, *, source: str = "", layout: str = "", entities: str = "") -> VolumeRoot:
    """Opens a folder of cases in the layout of this name, else in the one that is recognized.

    Args:
        path: any level from the download's folder to a case.
        source: the `data.source` whose layouts may be recognized beside those of `KEPT`; empty: any.
        layout: its name; empty: recognized.
        entities: those by which one of several files of BIDS is chosen, as of `data.entities`; other names have none.

    Raises:
        UserError: for an unknown name, and where no layout or several are recognized.
    """
    native = source_of(source) if source else None
    if layout and native and layout not in (known := [name for one in (native, *KEPT) for name in one.layouts]):
        raise UserError(f"layout {layout!r} is not known to data.source {source!r}; choose one of {', '.join(known)}")
    chosen = layout or (_recognized(path, native) if native else detect_layout(path))
    found = source_of_layout(chosen)
    if found.describe is not None:
        described = found.describe(Path(path))
    else:
        described = Described(found.modalities_of(chosen), found.layouts[chosen])
    if entities and found is bids.SOURCE:
        found = replace(found, survey=partial(bids.survey, chosen=bids.chosen_entities(entities)))
    return VolumeRoot(Path(path), found, chosen, described)


def check_entities(root: VolumeRoot, entities: str) -> None:
    """Refuses entities that were chosen for data of other names than those of BIDS."""
    if entities and root.layout != bids.LAYOUT:
        raise UserError(
            f"the entities {entities} were chosen, and {root.path} has the layout {root.layout}; only names of BIDS "
            "have entities: leave them out"
        )


def kept_root(path: Path, layout: str = "") -> VolumeRoot | None:
    """Opens a root in a layout of `KEPT`, as named or recognized; None for another."""
    if layout:
        return volume_root(path, layout=layout) if source_of_layout(layout) in KEPT else None
    return volume_root(path) if _lies_kept(path) else None


def source_of(name: str) -> VolumeSource:
    """The source of the volumes behind a `data.source`: itself, or what its slices are cut from."""
    for source in VOLUMES.values():
        if name == source.name or name in source.cuts:
            return source
    layout = f"; {name} is a layout, which data.layout names" if name in LAYOUTS else ""
    raise UserError(
        f"data.source is {name!r}, which has no volumes; choose one of {', '.join([*VOLUMES, *CUTS])}{layout}"
    )


def source_of_layout(layout: str) -> VolumeSource:
    """The source that has this layout; refuses an unknown name."""
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def detect_layout(root: str | Path) -> str:
    """The one layout, of any source, whose cases lie under `root`; `UserError` where there is none, or several."""
    expected = ", or ".join(source.example for source in SOURCES)
    path = Path(os.path.abspath(root))
    return _of_file(path) or detect(path, _layout_of, example=expected)


def _recognized(root: str | Path, native: VolumeSource) -> str:
    """The one layout of `KEPT` or of this source whose cases lie under `root`.

    Where none of the former does, the source tells: names on disk need not, if it has one layout only.
    """
    path = Path(os.path.abspath(root))
    if path.is_file():
        return _of_file(path)
    if not _lies_kept(path):
        return native.detect(path)
    return detect(path, lambda folder: _kept_layout_of(folder) or native.layout_of(folder), example=native.example)


def _of_file(path: Path) -> str:
    """The layout of a file that lists cases; empty for a folder. Refuses any other file."""
    if not path.is_file():
        return ""
    if told := _kept_layout_of(path):
        return told
    raise UserError(f"{path} is a file; give the folder that holds the cases, or {datalist.EXAMPLE}")


def _layout_of(folder: Path) -> str:
    """The layout of the case in a folder, or of the subjects in it; empty for any other folder."""
    # The last first: cases of others would pass for the generic form of BraTS, as all may have a T2.
    return next(filter(None, (source.layout_of(folder) for source in reversed(SOURCES))), "")


def _lies_kept(path: Path) -> bool:
    return any(_kept_layout_of(folder) for folder in folders_below(path))


def _kept_layout_of(folder: Path) -> str:
    return next(filter(None, (source.layout_of(folder) for source in KEPT)), "")
