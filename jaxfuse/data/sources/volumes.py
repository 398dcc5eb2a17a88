"""The sources of volumes in one form: everything in which one kind of data set differs from another.

Whoever opens a data set asks here, by the name of a source or by what lies on disk, and treats all alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.phantom.brats import write_brats_phantoms
from jaxfuse.data.phantom.infant import write_infant_phantoms
from jaxfuse.data.phantom.isles import write_isles_phantoms
from jaxfuse.data.phantom.stroke import write_stroke_phantoms
from jaxfuse.data.slices import AXES
from jaxfuse.data.sources import brats, iseg, isles, stroke
from jaxfuse.data.sources.case_folders import Finding, case_files, detect
from jaxfuse.errors import UserError


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


@dataclass(frozen=True)
class VolumeSource:
    """One kind of data set of volumes.

    Attributes:
        name: by which a config asks for it.
        modalities: all that its cases may have, by canonical names.
        layouts: name of each layout -> name of the label scheme that it uses unless another is named.
        detect: folder -> the one of `layouts` whose cases lie under it.
        survey: (folder, modalities, layout) -> what is there of each case, and what is missing.
        place: (case id, modality, layout) -> where that image is to lie in a case's folder, as compressed NIfTI.
        write_phantoms: makes a data set of this kind.
    """

    name: str
    modalities: tuple[str, ...]
    layouts: Mapping[str, str]
    detect: Callable[[str | Path], str]
    survey: Callable[[str | Path, Sequence[str], str | None], tuple[Finding, ...]]
    place: Callable[[str, str, str], Path]
    write_phantoms: WritePhantoms

    def find(
        self, root: str | Path, modalities: Sequence[str], *, labels_required: bool, layout: str = ""
    ) -> tuple[CaseFiles, ...]:
        """The cases under `root`, each with all of `modalities`, in a settled order; an empty layout is recognized.

        Raises `UserError` for a root without cases, an unknown name, and the first case that lacks a required file.
        """
        if not modalities:
            raise UserError(f"no modality was asked for; name at least one of {', '.join(self.modalities)}")
        if layout:
            scheme_of_layout(self, layout)
        return case_files(self.survey(root, modalities, layout or None), labels_required=labels_required)


@dataclass(frozen=True)
class Cut:
    """Slices of volumes as 2D cases.

    Attributes:
        source: name of the source of the volumes.
        one_per_case: one slice of each volume, that of the largest tumor.
        labeled: of training volumes, the slices that hold a labeled voxel; else those that show enough brain.
    """

    source: str
    one_per_case: bool = False
    labeled: bool = False


def _only(layout: str) -> Callable[[str | Path], str]:
    """A kind of data set that has one layout: nothing is to be told from the names on disk."""

    def detect_layout(root: str | Path) -> str:
        del root
        return layout

    return detect_layout


VOLUMES: Mapping[str, VolumeSource] = {
    source.name: source
    for source in (
        VolumeSource(
            "brats",
            brats.MODALITIES,
            {name: layout.scheme for name, layout in brats.LAYOUTS.items()},
            brats.detect_layout,
            lambda root, modalities, layout: brats.survey(root, modalities, layout=layout),
            lambda case, modality, layout: brats.LAYOUTS[layout].place(case, modality),
            write_brats_phantoms,
        ),
        VolumeSource(
            "iseg",
            iseg.MODALITIES,
            {iseg.LAYOUT: iseg.SCHEME},
            _only(iseg.LAYOUT),
            lambda root, modalities, layout: iseg.survey(root, modalities),
            lambda case, modality, layout: iseg.place(case, modality),
            write_infant_phantoms,
        ),
        VolumeSource(
            "stroke",
            stroke.MODALITIES,
            {stroke.LAYOUT.name: stroke.LAYOUT.scheme},
            _only(stroke.LAYOUT.name),
            lambda root, modalities, layout: stroke.survey(root, modalities),
            lambda case, modality, layout: stroke.LAYOUT.place(case, modality),
            write_stroke_phantoms,
        ),
        VolumeSource(
            "isles",
            isles.MODALITIES,
            {isles.LAYOUT: isles.SCHEME},
            _only(isles.LAYOUT),
            lambda root, modalities, layout: isles.survey(root, modalities),
            lambda case, modality, layout: isles.place(modality),
            write_isles_phantoms,
        ),
    )
}
CUTS: Mapping[str, Cut] = {
    "slices": Cut("brats"),
    "one_slice": Cut("brats", one_per_case=True),
    "iseg_slices": Cut("iseg", labeled=True),
    "stroke_slices": Cut("stroke"),
    "isles_slices": Cut("isles"),
}
LAYOUTS: Mapping[str, VolumeSource] = {layout: source for source in VOLUMES.values() for layout in source.layouts}


def source_of(name: str) -> VolumeSource:
    """The source of the volumes behind a `data.source`: itself, or what its slices are cut from."""
    volumes = CUTS[name].source if name in CUTS else name
    if volumes not in VOLUMES:
        raise UserError(f"data.source is {name!r}, which has no volumes; choose one of {', '.join([*VOLUMES, *CUTS])}")
    return VOLUMES[volumes]


def source_of_layout(layout: str) -> VolumeSource:
    """The source that has this layout; refuses an unknown name."""
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def scheme_of_layout(source: VolumeSource, layout: str = "") -> str:
    """The label scheme that a layout of `source` uses; empty stands for the first. Refuses an unknown layout."""
    layout = layout or next(iter(source.layouts))
    if layout not in source.layouts:
        raise UserError(f"layout {layout!r} is not known; choose one of {', '.join(source.layouts)}")
    return source.layouts[layout]


def check_axis(axis: str, source: str, where: str) -> None:
    """Refuses an unknown axis, and one that a `data.source` which is not cut into slices would ignore.

    `where` names the section of the config in the sentence.
    """
    if axis not in (AXES if source in CUTS else ("axial",)):
        choice = f"choose one of {', '.join(AXES)}" if source in CUTS else "only slices have another than axial"
        raise UserError(f"{where}.axis is {axis!r} and {where}.source {source!r}; {choice}")


def check_slices(window: Any, blank: bool, source: str, where: str) -> None:
    """Refuses a window that is none, and options of slices that a `data.source` would ignore.

    `where` names the section of the config in the sentence.
    """
    if (window or blank) and source not in CUTS:
        option = "window" if window else "blank_slices"
        raise UserError(
            f"{where}.{option} is given and {where}.source is {source!r}; only slices have it: leave it out"
        )
    if blank and CUTS[source].one_per_case:
        raise UserError(f"{where}.blank_slices is True, but {where}.source {source!r} keeps one slice of each case")
    if window and not (len(window) == 2 and all(_is_range(one) for one in window)):
        raise UserError(
            f"{where}.window is {window}; two ranges are expected, of voxels along the axes that are not cut, such as "
            "((40, 200), (20, 200)), or ()"
        )


def _is_range(value: Any) -> bool:
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(end) is int for end in value)
    return whole and 0 <= value[0] < value[1]


def detect_layout(root: str | Path) -> str:
    """The one layout, of any source, whose cases lie under `root`; `UserError` where there is none, or several."""
    expected = f"{brats.EXAMPLE}, or CASE/CASE_dwi_b1000.nii.gz, or subject-1-T1.hdr, or {isles.EXAMPLE}"
    return detect(Path(os.path.abspath(root)), _layout_of, example=expected)


def _layout_of(folder: Path) -> str:
    """The layout of the case in a folder, or of the subjects in it; empty for any other folder."""
    # A stroke case would pass for the generic form of BraTS: both may have a T2.
    return isles.layout_of(folder) or iseg.layout_of(folder) or stroke.layout_of(folder) or brats.layout_of(folder)
