"""Prepared cases kept on disk, each made once.

Entries are named by what made them (content of the files, settings, version of this code): a changed one makes a new
entry, an unchanged one is never made twice. A BraTS case of four modalities takes some 60 MB.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jaxfuse.data.brain import TOLD, BackgroundRule
from jaxfuse.data.cases import CaseFiles, Image, load_case
from jaxfuse.data.digests import Digests
from jaxfuse.data.entries import Making, read_prepared, remove_abandoned, remove_begun_by, removed_if_damaged
from jaxfuse.data.intensities import BRAIN, Landmarks, Normalization, landmarks_of
from jaxfuse.data.memory import Forecast, fitting, volume_forecast
from jaxfuse.data.prepared import CachedCase, Prepared, PreparedCase, with_absent
from jaxfuse.data.resample import crop_resampled
from jaxfuse.data.shelf import FLOAT32, Shelf, shelf_of
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme
from jaxfuse.workers import Work, as_finished

# Raise when the arrays or the JSON of an entry change for a recipe that earlier versions knew.
_VERSION = 7
# Seconds between two looks at an entry that another process is making.
_LOOK_AGAIN_S = 0.2


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
    cache: str | Path | Shelf,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares each case once below the folder `cache`; `resample_mm` as of `crop_resampled`.

    `on_case(case, fresh)` is called after each, for progress; `fresh` says that the entry was not there yet.
    Cases that may be `incomplete` are prepared from the modalities that they have; the image of the others is 0.
    Several processes may share a cache.

    Raises:
        UserError: that of `load_case` and `prepare_case`; entries that were finished before it stay.
    """
    modalities = tuple(modalities)
    make = VolumePreparation(modalities, scheme, normalize, landmarks, background, resample_mm, incomplete)
    recipe = volume_recipe(modalities, scheme, normalize, landmarks, background, resample_mm)
    given: dict[str, Any] = {"label": scheme is not None, "cache": cache, "on_case": on_case}
    return prepare_with(make, files, recipe, images=modalities, incomplete=incomplete, **given)


@dataclass(frozen=True)
class VolumePreparation:
    """The preparation of one case of volumes, with the settings of `prepare`."""

    modalities: tuple[str, ...]
    scheme: LabelScheme | None
    normalize: Normalization
    landmarks: Landmarks | None
    background: BackgroundRule
    resample_mm: tuple[float, ...]
    incomplete: bool = False

    def __call__(self, one: CaseFiles) -> Prepared:
        there = [name for name in self.modalities if name in one.images] if self.incomplete else self.modalities
        # The arrays of the files are given back before voxels are listed.
        cropped = crop_resampled(
            load_case(one, there, self.scheme),
            self.resample_mm,
            normalize=self.normalize,
            landmarks=self.landmarks,
            group=one.group,
            classes=len(self.scheme.classes) if self.scheme else 0,
            background=self.background,
        )
        return with_absent(cropped.listed(), self.modalities)

    def forecast(self, one: CaseFiles, precision: str) -> Forecast:
        """Predicts what the preparation of a case takes."""
        return volume_forecast(one, self.modalities, self.scheme is not None, precision, self.resample_mm)


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
    cache: str | Path | Shelf,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares cases of any kind: `make` prepares one, `recipe` (JSON) names the settings by which it does.

    `images` names the entries of `CaseFiles.images` that count, all of which a case has that may not be `incomplete`;
    `label` tells whether the label file does. Several processes prepare them only where `make` has a `forecast`, as
    `VolumePreparation` has.
    """
    shelf, files = shelf_of(cache), tuple(files)
    make_cache(shelf.folder)
    remove_abandoned(shelf.folder)
    recipe = with_precision(recipe, shelf.precision)
    digests = Digests(shelf.folder / "digests.json")
    prepared: dict[int, CachedCase] = {}

    def note(place: int, folder: Path, fresh: bool) -> None:
        prepared[place] = read_prepared(folder)
        if on_case:
            on_case(prepared[place], fresh)

    def missing() -> Iterator[tuple[int, Making]]:
        for place, one in enumerate(files):
            key = case_key(one, recipe, images, label, digests, incomplete=incomplete)
            folder = shelf.folder / f"{one.id}-{key[:20]}"
            if not folder.exists() or removed_if_damaged(folder):
                yield place, Making(make, one, folder, key, shelf.precision)
            else:
                note(place, folder, False)

    try:
        with closing(_made(missing(), files, shelf)) as made:
            for place, entry, fresh in made:
                note(place, entry.folder, fresh)
    finally:
        digests.save()
    return tuple(prepared[place] for place in range(len(files)))


def with_precision(recipe: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Returns a recipe for images of a precision, which is named where it is not float32."""
    return {**recipe} | ({} if precision == FLOAT32 else {"precision": precision})


T = TypeVar("T")
Missing = tuple[int, Making]
Made = Generator[T, None, None]


def _made(missing: Iterator[Missing], files: Sequence[CaseFiles], shelf: Shelf) -> Made[tuple[int, Making, bool]]:
    """Makes entries, and yields each with whether this call has made it, in the order in which they are there.

    An entry that another call is making is looked at again when the others are done.
    """
    first = next(missing, None)
    if first is None:
        return
    missing = itertools.chain([first], missing)
    workers = _workers(first[1], files[first[0] :], shelf)
    busy: list[Missing] = []
    with closing(_apart(missing, shelf, workers) if workers > 1 else _here(missing)) as tried:
        for (place, entry), fresh in tried:
            if fresh is None:
                busy.append((place, entry))
            else:
                yield place, entry, fresh
    for place, entry in busy:
        while (fresh := entry()) is None:
            time.sleep(_LOOK_AGAIN_S)
        yield place, entry, fresh


def _workers(first: Making, files: Sequence[CaseFiles], shelf: Shelf) -> int:
    """Returns how many processes prepare the cases from the first missing one on."""
    forecast = getattr(first.make, "forecast", None)
    if forecast is None:
        return 1
    return fitting([forecast(one, shelf.precision) for one in files], shelf.workers)


def _here(missing: Iterator[Missing]) -> Made[tuple[Missing, bool | None]]:
    for place, entry in missing:
        yield (place, entry), entry()


def _apart(missing: Iterator[Missing], shelf: Shelf, workers: int) -> Made[tuple[Missing, bool | None]]:
    """Makes entries in several processes.

    After a case that cannot be prepared no other is begun; those that were are finished before it is refused.
    """
    begun: dict[str, Missing] = {}
    refused: dict[int, Callable[[], Any]] = {}

    def jobs() -> Iterator[tuple[str, Making]]:
        while not refused and (one := next(missing, None)) is not None:
            begun[one[1].one.id] = one
            yield one[1].one.id, one[1]

    clear = partial(remove_begun_by, shelf.folder)
    work = Work("prepared", "give data.prepare_workers a smaller number", clear)
    finished = as_finished(jobs(), workers, work)
    try:
        for case, outcome in finished:
            try:
                fresh = outcome()
            except Exception:
                refused[begun[case][0]] = outcome
            else:
                yield begun[case], fresh
    finally:
        finished.close()
    if refused:
        refused[min(refused)]()


def make_cache(folder: Path) -> None:
    """Makes the folder of a cache; one that is there may be read-only, as long as it holds all that is asked for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be made ({error.strerror}); name another with JAXFUSE_CACHE or data.cache"
        ) from error


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
