"""Memory that the preparation of cases takes, predicted from the headers of their files, and how much there is.

Arrays of a case are counted at the moment when most of them are there: while its files are read, its brain found, its
image filled, or its voxels listed. Every voxel is counted as brain, since headers do not tell how many are: with its
process, a case of BraTS takes two thirds of that. Noise that falls into hundreds of thousands of parts may take more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.preprocess import SLAB
from jaxfuse.data.shelf import PRECISIONS
from jaxfuse.io.forms import Form, form_of
from jaxfuse.workers import cores

# A Python process that has loaded NumPy, SciPy and nibabel.
PROCESS_BYTES = 90_000_000
# What cases must hold to be worth other processes, which take a second each to start: a dozen cases of BraTS.
_WORTH_BYTES = 1_000_000_000
# Of the memory that is free, what preparation may take.
_MOST_SHARE = 0.8
# What finding the brain, or measuring the intensities of one modality, holds at once, in bytes for each voxel.
_MEASURED = 15
# SciPy's splines continue an image by so many voxels on each side, and hold it twice in double precision.
_SPLINE_BORDER, _SPLINE_BYTES = 12, 16


@dataclass(frozen=True)
class Forecast:
    """Needs of the preparation of one case.

    Attributes:
        read_bytes: of the voxels as stored, unpacked.
        peak_bytes: at most, in memory, besides the process itself.
        disk_bytes: at most, in the cache.
    """

    read_bytes: int
    peak_bytes: int
    disk_bytes: int


def volume_forecast(
    one: CaseFiles,
    modalities: Sequence[str],
    labeled: bool,
    precision: str,
    resample_mm: tuple[float, ...] = (),
) -> Forecast:
    """Predicts what the preparation of a case of volumes takes; all 0 where no header can be read."""
    paths = {one.images[m].path for m in modalities if m in one.images}
    forms = [form for path in sorted(paths) if (form := form_of(path))]
    if not forms:
        return Forecast(0, 0, 0)
    label = form_of(one.label) if labeled and one.label is not None else None
    stored = [*forms, *([label] if label else [])]
    before, channels, labels = math.prod(forms[0].shape[:3]), len(modalities), int(label is not None)
    voxels, absent = before, len(modalities) > sum(name in one.images for name in modalities)
    kept = sum(map(_kept_bytes, forms)) + labels * before
    reading = kept + max(math.prod(form.shape) * form.dtype.itemsize for form in stored)
    splines = 0
    if resample_mm:
        voxels = math.prod(_resampled(forms[0], resample_mm))
        splines = 6 * before + _SPLINE_BYTES * math.prod(side + 2 * _SPLINE_BORDER for side in forms[0].shape[:3])
        kept += before + (4 * channels + labels) * voxels
    measuring = kept + _MEASURED * voxels
    # The image, the label, two masks of the brain, and a few planes that are filled.
    filling = kept + (4 * channels + labels + 2) * voxels + 8 * (channels + 4) * min(voxels, SLAB)
    # The image, once more with modalities that are absent; label and mask, of slices twice; places of both.
    listing = (4 * channels * (1 + absent) + 6 * labels + 6) * voxels + 8 * min(voxels, SLAB)
    disk = voxels * (PRECISIONS[precision].itemsize * channels + 4 + 5 * labels)
    read = sum(math.prod(form.shape) * form.dtype.itemsize for form in stored)
    return Forecast(read, max(reading, kept + splines, measuring, filling, listing), disk)


def _kept_bytes(form: Form) -> int:
    """Returns what an image takes once it is read: small integers stay as they are."""
    small = form.dtype.kind in "iu" and form.dtype.itemsize <= 2 and not form.scaled
    return math.prod(form.shape) * (form.dtype.itemsize if small else 4)


def _resampled(form: Form, wanted_mm: tuple[float, ...]) -> tuple[int, ...]:
    """The sides of a grid of the wanted voxels, whichever way a file's axes lie: the most that they may come to."""
    least = min(wanted_mm)
    return tuple(max(1, round(n * side / least)) for n, side in zip(form.shape[:3], form.sides_mm, strict=True))


def fitting(forecasts: Sequence[Forecast], asked: int) -> int:
    """Returns how many processes prepare cases: as many as are asked for, or, for 0, as there are cores and work for.

    They are no more than memory holds, all at their peaks; fewer than were asked for are told, and one that may be too
    many.
    """
    room = available_bytes()
    count, wanted = processes_for(forecasts, asked, room), processes_for(forecasts, asked, None)
    most = max(one.peak_bytes for one in forecasts)
    if room is not None and most > room:
        warnings.warn(
            f"preparing a case may take {size_told(most)} of memory, and {size_told(room)} are free: one process "
            "tries it; free memory, or raise the limit of the job, if it is killed",
            stacklevel=2,
        )
    elif room is not None and asked and count < wanted:
        warnings.warn(
            f"{wanted} processes that prepare cases would take {size_told(wanted * (PROCESS_BYTES + most))}, and "
            f"{size_told(room)} are free: {count} do it",
            stacklevel=2,
        )
    return count


def processes_for(forecasts: Sequence[Forecast], asked: int, room: int | None) -> int:
    """Returns how many processes `fitting` takes where so much memory is free; None: as many as memory may hold."""
    if not asked and sum(one.read_bytes for one in forecasts) < _WORTH_BYTES:
        return 1
    wanted = min(asked or cores(), len(forecasts))
    if room is None:
        return wanted
    each = PROCESS_BYTES + max(one.peak_bytes for one in forecasts)
    return min(wanted, max(1, int(_MOST_SHARE * room / each)))


def size_told(count: int) -> str:
    """Says how many bytes there are: 2.4 GB, 350 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count, 5e5) / 1e6:.0f} MB"


def available_bytes() -> int | None:
    """Returns the memory that processes may still take, within the limits of their control group; None: unknown."""
    found = [*_of_machine(), *_of_groups()]
    return min(found) if found else None


def _of_machine() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])


def _of_groups(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yields what the limits of this process's groups leave, of either version, also of those above them."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return
    for number, controllers, place in lines:
        if number == "0":
            root, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        below = root / place.lstrip("/")
        for folder in (below, *below.parents):
            if folder == mount.parent:
                break
            yield from _left(folder, *names)


def _left(folder: Path, limit: str, used: str, given_back: str) -> Iterator[int]:
    """Yields what a group's limit leaves; files that the system keeps in memory are given back when it is short."""
    with suppress(OSError, ValueError):
        most = int((folder / limit).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield max(0, most - int((folder / used).read_text()) + int(stat.get(given_back, 0)))
