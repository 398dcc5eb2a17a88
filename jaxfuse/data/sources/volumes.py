"""The sources of volumes by name, by layout and by what lies on disk.

A new kind of data is a module beside this one that exports `SOURCE`, and its name here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jaxfuse.data.sources import brats, iseg, isles, stroke
from jaxfuse.data.sources.case_folders import Cut, VolumeSource, detect
from jaxfuse.errors import UserError

SOURCES: tuple[VolumeSource, ...] = (brats.SOURCE, iseg.SOURCE, stroke.SOURCE, isles.SOURCE)

VOLUMES: Mapping[str, VolumeSource] = {source.name: source for source in SOURCES}
CUTS: Mapping[str, Cut] = {name: cut for source in SOURCES for name, cut in source.cuts.items()}
LAYOUTS: Mapping[str, VolumeSource] = {layout: source for source in SOURCES for layout in source.layouts}
LABEL_SUFFIXES: tuple[str, ...] = tuple(suffix for source in SOURCES for suffix in source.label_suffixes)


def source_of(name: str) -> VolumeSource:
    """The source of the volumes behind a `data.source`: itself, or what its slices are cut from."""
    for source in VOLUMES.values():
        if name == source.name or name in source.cuts:
            return source
    raise UserError(f"data.source is {name!r}, which has no volumes; choose one of {', '.join([*VOLUMES, *CUTS])}")


def source_of_layout(layout: str) -> VolumeSource:
    """The source that has this layout; refuses an unknown name."""
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def detect_layout(root: str | Path) -> str:
    """The one layout, of any source, whose cases lie under `root`; `UserError` where there is none, or several."""
    expected = ", or ".join(source.example for source in SOURCES)
    return detect(Path(os.path.abspath(root)), _layout_of, example=expected)


def _layout_of(folder: Path) -> str:
    """The layout of the case in a folder, or of the subjects in it; empty for any other folder."""
    # The last first: cases of others would pass for the generic form of BraTS, as all may have a T2.
    return next(filter(None, (source.layout_of(folder) for source in reversed(SOURCES))), "")
