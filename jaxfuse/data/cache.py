"""Prepared cases kept on disk, each made once.

Entries are named by what made them (content of the files, settings, version of this code): a changed one makes a new
entry, an unchanged one is never made twice. A BraTS case of four modalities takes some 60 MB.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.brain import TOLD, BackgroundRule
from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.digests import Digests
from jaxfuse.data.facts import CaseFacts, tuples
from jaxfuse.data.intensities import BRAIN, Landmarks, Normalization, landmarks_of
from jaxfuse.data.prepared import CachedCase, Prepared, PreparedCase, with_absent
from jaxfuse.data.resample import prepare_resampled
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme

# Raise when the arrays or the JSON that this file writes change for a recipe that earlier versions knew.
_VERSION = 7
_CASE = "case.json"
_BLOCK = 4096
# No case takes so long to be prepared and written.
_ABANDONED_S = 86_400
_IN_THE_MAKING = re.compile(r"\.(.+-[0-9a-f]{20}\.(\d+\.[0-9a-f]{8}|damaged-\d+)|digests\.json\.\d+\.[0-9a-f]{8})")


def prepare(
    files: Iterable[CaseFiles],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    *,
    normalize: Normalization = BRAIN,
    landmarks: Landmarks | None = None,
    background: BackgroundRule = TOLD,
    resample_mm: tuple[float, ...] = (),
    incomplete: bool = False,
    cache: str | Path,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares each case once, in the order given, below the folder `cache`; `resample_mm` as of `prepare_resampled`.

    `on_case(case, fresh)` is called after each, for progress; `fresh` says that the entry was not there yet.
    Cases that may be `incomplete` are prepared from the modalities that they have; the image of the others is 0.
    Several processes may share a cache.

    Raises:
        UserError: that of `load_case` and `prepare_case`; entries that were finished before it stay.
    """
    modalities = tuple(modalities)

    def make(one: CaseFiles) -> Prepared:
        there = [name for name in modalities if name in one.images] if incomplete else modalities
        prepared = prepare_resampled(
            load_case(one, there, scheme),
            resample_mm,
            normalize=normalize,
            landmarks=landmarks,
            group=one.group,
            classes=len(scheme.classes) if scheme else 0,
            background=background,
        )
        return with_absent(prepared, modalities)

    recipe = volume_recipe(modalities, scheme, normalize, landmarks, background, resample_mm)
    given: dict[str, Any] = {"label": scheme is not None, "cache": cache, "on_case": on_case}
    return prepare_with(make, files, recipe, images=modalities, incomplete=incomplete, **given)


def volume_recipe(
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    normalize: Normalization,
    landmarks: Landmarks | None = None,
    background: BackgroundRule = TOLD,
    resample_mm: tuple[float, ...] = (),
) -> dict[str, Any]:
    """Returns the settings of `prepare` as JSON; part of the cache key."""
    # The encoding, not only the name: a scheme that is corrected later must not find old arrays.
    coding = {"name": scheme.name, "encode": sorted(scheme.encode.items())} if scheme else None
    recipe: dict[str, Any] = {"modalities": tuple(modalities), "scheme": coding, "normalize": normalize.name}
    if normalize.needs_landmarks:
        known = landmarks_of(modalities) if landmarks is None else landmarks
        recipe["landmarks"] = [known[modality] for modality in modalities]
    recipe |= {"resample_mm": list(resample_mm)} if resample_mm else {}
    return recipe | ({} if background == TOLD else {"background": background.text})


def prepare_with(
    make: Callable[[CaseFiles], Prepared],
    files: Iterable[CaseFiles],
    recipe: Mapping[str, Any],
    *,
    images: Sequence[str],
    label: bool,
    incomplete: bool = False,
    cache: str | Path,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares cases of any kind: `make` prepares one, `recipe` (JSON) names the settings by which it does.

    `images` names the entries of `CaseFiles.images` that count, all of which a case has that may not be `incomplete`;
    `label` tells whether the label file does.
    """
    cache = Path(cache)
    make_cache(cache)
    remove_abandoned(cache)
    digests = Digests(cache / "digests.json")
    prepared = []
    try:
        for one in files:
            key = case_key(one, recipe, images, label, digests, incomplete=incomplete)
            folder = cache / f"{one.id}-{key[:20]}"
            fresh = not folder.exists() or _removed_if_damaged(folder)
            if fresh:
                _write(folder, key, make(one))
            prepared.append(read_prepared(folder))
            if on_case:
                on_case(prepared[-1], fresh)
    finally:
        digests.save()
    return tuple(prepared)


def make_cache(folder: Path) -> None:
    """Makes the folder of a cache; one that is there may be read-only, as long as it holds all that is asked for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be made ({error.strerror}); name another with JAXFUSE_CACHE or data.cache"
        ) from error


def remove_abandoned(cache: Path) -> None:
    """Removes what processes that were killed have left in a cache: entries in the making for more than a day.

    Their process may have been one of another machine, so that its number does not tell whether it lives.
    """
    for path in filter(lambda path: _IN_THE_MAKING.fullmatch(path.name), cache.glob(".*")):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _ABANDONED_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def fault_of(folder: Path) -> str:
    """Returns what is wrong with an entry; "" where nothing is.

    Every file has the size and the bytes at its beginning, middle and end that were written. All bytes are not read: a
    digest of 285 cases of BraTS, 19 GB, would take half a minute of each start, and longer from a cold disk.
    """
    try:
        marks = json.loads((folder / _CASE).read_bytes())["marks"]
        damaged = [name for name, mark in marks.items() if _mark(folder / name) != mark]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_CASE} or a file that it names cannot be read"
    return f"{damaged[0]} is not what was written" if damaged else ""


def _removed_if_damaged(folder: Path) -> bool:
    """Tells whether an entry was damaged; then it is removed, and that is said."""
    fault = fault_of(folder)
    if fault:
        warnings.warn(f"the cache entry {folder} is damaged ({fault}); it is made anew", stacklevel=3)
        aside = folder.with_name(f".{folder.name}.damaged-{os.getpid()}")
        try:
            os.rename(folder, aside)  # at once, for other processes
        except OSError as error:
            raise UserError(
                f"{folder} is damaged ({fault}) and cannot be removed ({error.strerror}); remove it"
            ) from error
        shutil.rmtree(aside, ignore_errors=True)
    return bool(fault)


def _mark(path: Path) -> str:
    """Returns the size of a file and a digest of its beginning, middle and end."""
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for start in (0, size // 2, size - _BLOCK):
            file.seek(max(0, start))
            digest.update(file.read(_BLOCK))
    return f"{size} bytes {digest.hexdigest()}"


def read_prepared(folder: str | Path) -> CachedCase:
    """The prepared case in one folder of a cache."""
    folder = Path(folder)
    facts = json.loads((folder / _CASE).read_text())
    key, _ = facts.pop("key"), facts.pop("marks")
    return CachedCase(folder, key, CaseFacts(**{k: tuples(v) for k, v in facts.items()}))


def case_key(
    one: CaseFiles,
    recipe: Mapping[str, Any],
    images: Sequence[str],
    label: bool,
    digests: Digests,
    *,
    incomplete: bool = False,
) -> str:
    """Returns the name of a case's entry in the cache: a digest of its id, group, files' content and recipe."""
    absent = [m for m in images if m not in one.images]
    if absent and not incomplete:
        raise UserError(f"case {one.id} has no {', '.join(absent)} image; it has {', '.join(one.images)}")
    parts = {
        "version": _VERSION,
        "id": one.id,
        "group": one.group,
        "images": [digests.of_image(one.images[m]) if m in one.images else None for m in images],
        "label": digests.of_image(Image(one.label, twins=one.label_twins)) if label and one.label else None,
        "recipe": recipe,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=20).hexdigest()


def _write(folder: Path, key: str, prepared: Prepared) -> None:
    """Writes an entry in one piece; where another process was first, its entry stays (the content is the same)."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        partial.mkdir()
        np.save(partial / "image.npy", prepared.image)
        if prepared.label is not None:
            np.save(partial / "label.npy", prepared.label)
        np.save(partial / "tumor.npy", prepared.tumor)
        np.save(partial / "brain.npy", prepared.brain)
        np.save(partial / "beyond.npy", prepared.beyond)
        marks = {path.name: _mark(path) for path in sorted(partial.iterdir())}
        (partial / _CASE).write_text(json.dumps({"key": key, "marks": marks, **asdict(prepared.facts)}, indent=1))
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / _CASE).is_file():
                raise
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); free space or choose another cache") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
