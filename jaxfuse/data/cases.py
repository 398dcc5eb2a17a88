"""Cases: their files on disk, and their arrays once read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8

from jaxfuse.data.memory_order import in_memory_order, memory_order
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Grid, Volume, geometry_mismatch, read_channels, read_volume
from jaxfuse.labels import SCHEMES, LabelScheme, schemes_of_task

# A mask stored with intensity scaling reads as 0.99999997.
_WHOLE = 1e-3


@dataclass(frozen=True)
class Image:
    """The place of the image of one modality: a file of its own, or one channel of a four-dimensional file.

    Attributes:
        path: the file; of an Analyze pair its header.
        channel: index along the fourth axis of the stored array; None where the file holds this image alone.
        twins: files beside it that bear its name with another ending, and so claim to be the same image.
    """

    path: Path
    channel: int | None = None
    twins: tuple[Path, ...] = ()

    def read(self, *, as_it_lies: bool = False) -> Volume:
        """Reads the image onto its canonical axes; `as_it_lies` as of `read_volume`.

        Raises:
            UserError: that of `read_volume`, and for a twin of other content.
        """
        volume = read_volume(self.path, channel=self.channel, as_it_lies=as_it_lies)
        for twin in self.twins:
            if problem := twin_problem(volume, twin):
                raise UserError(problem)
        return volume

    @property
    def grid(self) -> Grid:
        """The place of the grid that it lies on, for what is written there; of its `channel`."""
        return self.path


@dataclass(frozen=True)
class HeldImage(Image):
    """An image that lies in memory; `path` is a name for sentences, and no file.

    Attributes:
        volume: the image on its canonical axes.
    """

    volume: Volume = field(kw_only=True, compare=False)

    def read(self, *, as_it_lies: bool = False) -> Volume:
        """Returns the image as `Image.read` does."""
        return self.volume if as_it_lies else replace(self.volume, array=np.array(self.volume.array, order="C"))

    @property
    def grid(self) -> Grid:
        return self.volume


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        images: by canonical modality name.
        group: for stratified splits.
        label_twins: files beside the label that bear its name with another ending.
        side: the side of a split on which the data set itself puts the case; empty where it tells none.
        told: what else the data set tells of the case: its `subject`, its `fold` (from 0), columns of a table.
    """

    id: str
    images: Mapping[str, Image]
    label: Path | None = None
    group: str = ""
    label_twins: tuple[Path, ...] = ()
    side: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One case in memory, reoriented to the canonical axes (RAS+).

    Attributes:
        channels: intensities as stored, in the order of `modalities`: float32, or integers of at most 16 bits. Their
            memory lies as that of their files, and may be read-only.
        label: class indices of the label scheme, or None for an unlabeled case.
        affine: 4 x 4, voxel to world in mm, of the canonical array.
        spacing_mm: voxel sides per array axis.
    """

    id: str
    modalities: tuple[str, ...]
    channels: Sequence[Shaped[np.ndarray, "d h w"]]
    label: UInt8[np.ndarray, "d h w"] | None
    affine: Float[np.ndarray, "4 4"]
    spacing_mm: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the volumes."""
        return self.channels[0].shape

    @property
    def image(self) -> Float[np.ndarray, "d h w m"]:
        """All channels in one array, float32, made anew."""
        return np.stack([channel.astype(np.float32, copy=False) for channel in self.channels], axis=-1)


def load_case(files: CaseFiles, modalities: Sequence[str], scheme: LabelScheme | None) -> Case:
    """Reads one case; all its volumes must lie on one grid.

    With `scheme` None the label file is left unread and the case is unlabeled.

    Raises:
        UserError: names the case, for a missing modality, a damaged file, volumes that lie on different grids,
            intensities that are not finite, and label values that are not whole numbers of the scheme.
    """
    check_images(files, modalities)
    volumes = read_images([files.images[m] for m in modalities], as_it_lies=True)
    first = volumes[0]
    for volume in volumes:
        _refuse(files.id, geometry_mismatch(volume, first) or intensity_problem(volume))
    channels = tuple(_as_measured(volume.array) for volume in volumes)
    label = None
    if scheme is not None and files.label is not None:
        volume = Image(files.label, twins=files.label_twins).read(as_it_lies=True)
        _refuse(files.id, geometry_mismatch(volume, first))
        values = whole_values(volume)
        _refuse(files.id, label_problem(volume.path, held_values(values), scheme))
        label = encode_label(values, scheme)
    return Case(files.id, tuple(modalities), channels, label, first.affine, first.spacing_mm)


def check_images(files: CaseFiles, modalities: Sequence[str]) -> None:
    """Refuses a case that lacks the image of a modality."""
    if absent := [m for m in modalities if m not in files.images]:
        raise UserError(f"case {files.id} has no {', '.join(absent)} image; it has {', '.join(files.images)}")


def without_blank(files: CaseFiles) -> CaseFiles:
    """Returns the files of a case without the images that have one value everywhere; reads them all.

    Raises:
        UserError: an image cannot be read, or all are blank.
    """
    names = tuple(files.images)
    volumes = read_images(list(files.images.values()), as_it_lies=True)
    shown = [name for name, one in zip(names, volumes, strict=True) if one.array.min() != one.array.max()]
    if names and not shown:
        raise UserError(_all_blank(files))
    return replace(files, images={name: files.images[name] for name in shown})


def _all_blank(files: CaseFiles) -> str:
    return f"case {files.id} has images of one value everywhere alone ({', '.join(files.images)}); leave the case out"


def _as_measured(array: Shaped[np.ndarray, "d h w"]) -> Shaped[np.ndarray, "d h w"]:
    """Intensities in float32, or as they are where they are integers of at most 16 bits, all of which float32 holds."""
    exact = array.dtype.kind in "iu" and array.dtype.itemsize <= 2
    return array if exact else array.astype(np.float32, copy=False)


def read_images(images: Sequence[Image], *, as_it_lies: bool = False) -> list[Volume]:
    """Reads images as `Image.read` does; a file of several channels is decoded once."""
    wanted: dict[Path, list[int]] = {}
    for image in images:
        if image.channel is not None and not image.twins:
            wanted.setdefault(image.path, []).append(image.channel)
    read: dict[tuple[Path, int | None], Volume] = {
        (path, channel): volume
        for path, channels in wanted.items()
        for channel, volume in zip(channels, read_channels(path, channels, as_it_lies=as_it_lies), strict=True)
    }
    return [read.get((image.path, image.channel)) or image.read(as_it_lies=as_it_lies) for image in images]


def twin_problem(volume: Volume, twin: Path) -> str:
    """Returns a sentence where a file beside a volume holds another volume than it, else the empty string."""
    other = read_volume(twin, channel=volume.channel)
    differs = geometry_mismatch(volume, other)
    if not differs and not np.array_equal(volume.array, other.array):
        count = int(np.count_nonzero(volume.array != other.array))
        differs = f"{count} voxels of {volume.path.name} and {twin.name} differ"
    return f"{volume.path} has a twin, {twin.name}: {differs}; keep the one that is meant" if differs else ""


def intensity_problem(volume: Volume) -> str:
    """One clause where a volume holds NaN or infinity, else the empty string."""
    if volume.array.dtype.kind in "iu":
        return ""
    bad = int(np.size(volume.array) - np.count_nonzero(np.isfinite(volume.array)))
    return f"{volume.name} has {bad} voxels that are NaN or infinite; repair the file" if bad else ""


def whole_values(volume: Volume) -> Integer[np.ndarray, "d h w"]:
    """The values of a label volume as integers; `UserError` where they are not whole numbers.

    Interpolating a label map makes such values, and rounding them would invent classes.
    """
    array = volume.array
    if array.dtype.kind in "iu":
        return array
    if not np.all(np.isfinite(array)):
        raise UserError(f"label file {volume.path} has voxels that are NaN or infinite; repair the file")
    whole = np.rint(array)
    off = np.abs(array - whole) > _WHOLE
    if off.any():
        raise UserError(
            f"label file {volume.path} has {int(off.sum())} voxels that are not whole numbers (the first is "
            f"{array[off][0]:g}); class numbers are expected: resample label maps with nearest neighbors"
        )
    return whole.astype(np.int32)


def label_problem(path: Path, values: Iterable[int] | Integer[np.ndarray, " n"], scheme: LabelScheme) -> str:
    """One clause where `values` go beyond the scheme, with the schemes that would fit, else the empty string.

    Of a case that is named after a task of BraTS those of the task alone fit.
    """
    values = sorted({int(v) for v in values})
    if not scheme.unknown(values):
        return ""
    return (
        f"{path.name} holds the label values {_listed(values)}, scheme {scheme.name} knows "
        f"{_listed(sorted(scheme.encode))}; {_advice(path, values)}"
    )


def _advice(path: Path, values: Sequence[int]) -> str:
    """Names the schemes that know all values, and the options that choose one."""
    task, of_task = schemes_of_task(path.name)
    fitting = [s.name for s in SCHEMES.values() if not s.unknown(values) and (s.name in of_task or not task)]
    coded = f"cases of {task} are coded by {' or '.join(of_task)}; " if task else ""
    if not fitting:
        return f"{coded}no known scheme fits: correct the file"
    would = f"the schemes {', '.join(fitting)} would fit" if len(fitting) > 1 else f"the scheme {fitting[0]} would fit"
    return f"{coded}{would}: name the one that is meant, by data.labels or --labels"


def held_values(values: Integer[np.ndarray, "d h w"]) -> Integer[np.ndarray, " n"]:
    """The different values of a label volume, ascending. Most voxels are 0, and are not sorted."""
    values = in_memory_order(values)
    marked = values[values != 0]
    held = np.unique(marked)
    return held if marked.size == values.size else np.union1d(held, np.zeros(1, held.dtype))


def encode_label(values: Integer[np.ndarray, "d h w"], scheme: LabelScheme) -> UInt8[np.ndarray, "d h w"]:
    """File values -> class indices. The values must all be known to the scheme."""
    table = np.zeros(max(scheme.encode) + 1, np.uint8)
    for value, index in scheme.encode.items():
        table[value] = index
    order = memory_order(values)
    laid = order.laid(values)
    marked = laid != 0
    # Memory that is 0 is given out without being written.
    label = np.full(laid.shape, table[0], np.uint8) if table[0] else np.zeros(laid.shape, np.uint8)
    label[marked] = table[laid[marked]]
    return order.back(label)


def _refuse(case_id: str, problem: str) -> None:
    if problem:
        raise UserError(f"case {case_id}: {problem}")


def _listed(values: Sequence[int]) -> str:
    head = ", ".join(str(v) for v in values[:12])
    return head if len(values) <= 12 else f"{head}, ... ({len(values)} values)"
