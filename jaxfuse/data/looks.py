"""Looks at the files of cases, one by one: what each tells without the others, read ahead by threads.

A file is decoded once. Its fingerprint stands for it from then on, so that copies are found among any number of files
without keeping them.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxfuse.data.brain import NONE, Background, BackgroundRule, find_background
from jaxfuse.data.cases import Image, intensity_problem, twin_problem
from jaxfuse.data.problems import Severity
from jaxfuse.data.sources.case_folders import Finding
from jaxfuse.errors import UserError
from jaxfuse.io.doubts import geometry_warnings
from jaxfuse.io.nifti import Volume, read_volume
from jaxfuse.io.tables import read_json

# Every author of files in this program signs with its name.
_OWN_NAME = "jaxfuse"
_MOST_THREADS = 4
# Cases whose volumes lie in memory beside the one that is looked at.
_AHEAD = 1
_EVERY_PLANE = 8


@dataclass(frozen=True)
class Look:
    """One file as read.

    Attributes:
        volume: None for a file that cannot be read.
        fingerprint: equal for volumes that are equal in every voxel, and for hardly any others; empty where all voxels
            are alike.
        problems: what is wrong with the file, whatever the others hold.
        background: of an image; None where it is not told.
    """

    volume: Volume | None
    fingerprint: str
    problems: tuple[tuple[Severity, str], ...]
    background: Background | None = None


@dataclass(frozen=True)
class CaseLook:
    """The files of one case as read; `label` is None where there is none."""

    found: Finding
    images: Mapping[str, Look]
    label: Look | None


def look_ahead(findings: Iterable[Finding], rule: BackgroundRule) -> Iterator[CaseLook]:
    """Yields the cases in their order, their files read by several threads; `rule` states backgrounds of images."""
    waiting: deque[tuple[Finding, dict[str, Future[Look]], Future[Look] | None]] = deque()
    with ThreadPoolExecutor(_threads()) as pool:
        for found in findings:
            images = {
                modality: pool.submit(look_at_image, one, modality, rule) for modality, one in found.images.items()
            }
            label = pool.submit(look, Image(found.label, twins=found.label_twins)) if found.label else None
            waiting.append((found, images, label))
            if len(waiting) > _AHEAD:
                yield _read(*waiting.popleft())
        while waiting:
            yield _read(*waiting.popleft())


def look(image: Image) -> Look:
    """Reads one file and its twins."""
    try:
        volume = read_volume(image.path, channel=image.channel)
    except UserError as error:
        return Look(None, "", (("fatal", str(error)),))
    problems: list[tuple[Severity, str]] = [("warning", text) for text in geometry_warnings(volume)]
    if by := made_by(volume):
        problems.append(("warning", f"{volume.name} was made by {_OWN_NAME} ({by}): it was not acquired, nor drawn"))
    problems += [_twin(volume, twin) for twin in image.twins]
    return Look(volume, fingerprint(volume), tuple(problems))


def look_at_image(image: Image, modality: str, rule: BackgroundRule) -> Look:
    """Reads one image and finds its background, unless the rule says that there is none."""
    seen = look(image)
    if seen.volume is None or not seen.fingerprint or rule.text == NONE or intensity_problem(seen.volume):
        return seen
    return replace(seen, background=find_background(seen.volume.array, rule.of(modality)))


def fingerprint(volume: Volume) -> str:
    """Returns a text that volumes of equal values share, whatever type these are stored in.

    It looks at every eighth plane closely, at the others by their least and greatest values and their zeros.
    """
    array = volume.array
    # The sums make 0 of -0, which is written otherwise.
    low, high = float(array.min()) + 0.0, float(array.max()) + 0.0
    if low == high:
        return ""
    plain = np.add(array[::_EVERY_PLANE], 0, dtype=np.float32, casting="unsafe")
    return f"{array.shape} {low} {high} {np.count_nonzero(array)} {zlib.crc32(plain.data):08x}"


def made_by(volume: Volume) -> str:
    """Returns the place that says that this program made a volume, its header or a file beside it; empty for others."""
    description = bytes(volume.header["descrip"]).rstrip(b"\0").decode("ascii", "replace").strip()
    if _OWN_NAME in description:
        return f"its header says {description!r}"
    beside = volume.path.with_name(volume.path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    return f"{beside.name} beside it says so" if _tells_synthesis(beside) else ""


def _tells_synthesis(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content = read_json(path)
    except (UserError, UnicodeDecodeError):
        return False  # a file of another program
    return isinstance(content, dict) and content.get("synthesized") is True


def _twin(volume: Volume, twin: Path) -> tuple[Severity, str]:
    try:
        problem = twin_problem(volume, twin)
    except UserError as error:
        return "fatal", str(error)
    return ("fatal", problem) if problem else ("warning", f"{volume.name} and {twin.name} hold the same volume twice")


def _read(found: Finding, images: Mapping[str, Future[Look]], label: Future[Look] | None) -> CaseLook:
    return CaseLook(found, {m: one.result() for m, one in images.items()}, label.result() if label else None)


def _threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST_THREADS)
