"""Deterministic preparation of cases, and its cache of memory-mapped arrays.

A case is cropped to its brain and each modality brought to zero mean and unit variance (Cross-Modality Deep
Feature Learning for Brain Tumor Segmentation, section 4; over the brain's voxels unless asked otherwise), or to
[0, 1] by a rule of `jaxfuse.data.intensities`.
Entries of the cache are named by what made them (content of the files, settings, version of this code): a changed
one makes a new entry, an unchanged one is never made twice. A BraTS case of four modalities takes some 60 MB.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.digests import Digests
from jaxfuse.data.facts import CaseFacts, DatasetFacts, tuples
from jaxfuse.data.intensities import (
    NORMALIZATIONS,
    Landmarks,
    apply_scaling,
    landmarks_of,
    matched,
    moments,
    percentile_limits,
    scaled_between,
    stored_range,
    whole_range,
)
from jaxfuse.data.mapped import open_mapped
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme

# Raise when the arrays or the JSON that this file writes change for a recipe that earlier versions knew.
_VERSION = 3

# What is kept along each axis: a range of voxels, slice(None) for all, None for those of the brain. Empty: the brain.
Extent = Sequence[slice | None]


@dataclass(frozen=True)
class Prepared:
    """A prepared case in memory; the arrays are those of `PreparedCase`."""

    facts: CaseFacts
    image: Float[np.ndarray, "*space m"]
    label: UInt8[np.ndarray, "*space"] | None
    tumor: Int[np.ndarray, " tumor"]
    brain: Int[np.ndarray, " brain"]


@dataclass(frozen=True)
class PreparedCase:
    """A prepared case on disk: small and picklable, its arrays opened as read-only memory maps when asked for."""

    folder: Path
    key: str
    facts: CaseFacts

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def labeled(self) -> bool:
        return bool(self.facts.voxels_per_class)

    @property
    def image(self) -> Float[np.ndarray, "*space m"]:
        """Normalized intensities, float32."""
        return open_mapped(self.folder / "image.npy")

    @property
    def label(self) -> UInt8[np.ndarray, "*space"] | None:
        """Class indices, or None for an unlabeled case."""
        return open_mapped(self.folder / "label.npy") if self.labeled else None

    @property
    def tumor(self) -> Int[np.ndarray, " n"]:
        """Flat indices into the crop of the voxels whose label is not background; empty without label."""
        return open_mapped(self.folder / "tumor.npy")

    @property
    def brain(self) -> Int[np.ndarray, " n"]:
        """Flat indices into the crop of the voxels that are not zero in every modality."""
        return open_mapped(self.folder / "brain.npy")


def prepare_case(
    case: Case,
    *,
    normalize: str = "brain",
    landmarks: Landmarks | None = None,
    extent: Extent = (),
    group: str = "",
    classes: int = 0,
) -> Prepared:
    """Crops a case to its brain, or to `extent`, and normalizes it; the brain is what is not zero in every modality.

    With `"brain"`, mean and standard deviation are taken over the brain, the rest stays 0, and the brain's bounding
    box is kept. With `"volume"` they are taken over the whole volume, background included, and all of it is kept
    unless `extent` says otherwise, because background is no longer 0. The other rules, of `jaxfuse.data.intensities`,
    scale the brain to [0, 1] by the whole volume, whatever is kept of it; `landmarks` are those of "histmatch", by
    default the known ones. `classes` is the least length of `voxels_per_class`.

    Raises `UserError` for an image without a non-zero voxel, for a modality that is constant or has no landmarks, and
    for an extent that leaves the volume or holds nothing of the brain.
    """
    if normalize not in NORMALIZATIONS:
        raise UserError(
            f"normalize is {normalize!r}; choose brain or volume, or percentiles, minmax or histmatch for [0, 1]"
        )
    mask = np.any(case.image != 0, axis=-1)
    if not mask.any():
        raise UserError(f"case {case.id}: every voxel of {', '.join(case.modalities)} is 0; remove or replace the case")
    box = _box(case.id, mask, extent, rest=slice(None) if normalize == "volume" else None)
    inside = mask[box]
    if normalize == "histmatch" and landmarks is None:
        landmarks = landmarks_of(case.modalities)
    image, measured = _normalized(case, mask, box, normalize, landmarks or {})
    label = None if case.label is None else np.ascontiguousarray(case.label[box])
    facts = CaseFacts(
        id=case.id,
        group=group,
        modalities=case.modalities,
        affine=tuple(tuple(float(v) for v in row) for row in case.affine),
        spacing_mm=tuple(float(v) for v in case.spacing_mm),
        original_shape=mask.shape,
        crop_start=tuple(kept.start for kept in box),
        shape=inside.shape,
        voxels_per_class=() if label is None else count_classes(label, classes),
        **measured,
    )
    tumor = np.zeros(0, np.int32) if label is None else flat_indices(label > 0)
    return Prepared(facts, image, label, tumor, flat_indices(inside))


def _box(case_id: str, mask: Bool[np.ndarray, "d h w"], extent: Extent, *, rest: slice | None) -> tuple[slice, ...]:
    """The voxels that are kept, with both ends of each range; along axes that `extent` says nothing of, `rest`."""
    asked = [rest if one is None else one for one in extent or (None,) * mask.ndim]
    box = []
    for axis, (one, low, high, length) in enumerate(zip(asked, *bounding_box(mask), mask.shape, strict=True)):
        first, last = (low, high) if one is None else (one.start or 0, length if one.stop is None else one.stop)
        if not 0 <= first < last <= length:
            raise UserError(
                f"case {case_id}: a window of voxels {first} to {last} along axis {axis} was asked for, and the volume "
                f"is {mask.shape}; choose one within it"
            )
        box.append(slice(first, last))
    if not mask[tuple(box)].any():
        ranges = ", ".join(f"{one.start} to {one.stop}" for one in box)
        raise UserError(f"case {case_id}: voxels {ranges} hold nothing of the brain; choose another window")
    return tuple(box)


def _normalized(
    case: Case, mask: Bool[np.ndarray, "d h w"], box: tuple[slice, ...], normalize: str, landmarks: Landmarks
) -> tuple[Float[np.ndarray, "*space m"], dict[str, Any]]:
    """The image within the box, and what was measured of each modality, by the names of `CaseFacts`."""
    inside = mask[box]
    image = np.zeros((*inside.shape, len(case.modalities)), np.float32)
    both, limits, scalings = [], [], []
    for channel, modality in enumerate(case.modalities):
        values = case.image[..., channel]
        together = values if normalize == "volume" else values[mask]
        kept = values[box]
        mean, std = moments(case.id, modality, together)
        both.append((mean, std))
        if normalize in ("brain", "volume"):
            normed = (kept - np.float32(mean)) / np.float32(std)
            image[..., channel] = normed if normalize == "volume" else np.where(inside, normed, np.float32(0))
        elif normalize == "percentiles":
            limits.append(percentile_limits(case.id, modality, together))
            image[inside, channel] = scaled_between(kept[inside], limits[-1])
        else:
            by_landmarks = normalize == "histmatch"
            scalings.append(
                matched(case.id, modality, together, landmarks[modality]) if by_landmarks else whole_range(values)
            )
            image[inside, channel] = apply_scaling(kept[inside], scalings[-1])
    means, stds = zip(*both, strict=True)
    return image, {"mean": means, "std": stds, "percentiles": tuple(limits), "scaling": tuple(scalings)}


def prepare(
    files: Iterable[CaseFiles],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    *,
    normalize: str = "brain",
    landmarks: Landmarks | None = None,
    cache: str | Path,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares each case once, in the order given, below the folder `cache`.

    `on_case(case, fresh)` is called after each, for progress; `fresh` says that the entry was not there yet.
    Several processes may share a cache. Raises the `UserError` of `load_case` and `prepare_case`; entries that
    were finished before it stay.
    """
    modalities = tuple(modalities)

    def make(one: CaseFiles) -> Prepared:
        case, classes = load_case(one, modalities, scheme), len(scheme.classes) if scheme else 0
        return prepare_case(case, normalize=normalize, landmarks=landmarks, group=one.group, classes=classes)

    recipe = volume_recipe(modalities, scheme, normalize, landmarks)
    return prepare_with(make, files, recipe, images=modalities, label=scheme is not None, cache=cache, on_case=on_case)


def volume_recipe(
    modalities: Sequence[str], scheme: LabelScheme | None, normalize: str, landmarks: Landmarks | None = None
) -> dict[str, Any]:
    """How `prepare` makes its cases, as JSON."""
    # The encoding, not only the name: a scheme that is corrected later must not find old arrays.
    coding = {"name": scheme.name, "encode": sorted(scheme.encode.items())} if scheme else None
    recipe: dict[str, Any] = {"modalities": tuple(modalities), "scheme": coding, "normalize": normalize}
    if normalize == "histmatch":
        known = landmarks_of(modalities) if landmarks is None else landmarks
        recipe["landmarks"] = [known[modality] for modality in modalities]
    return recipe


def prepare_with(
    make: Callable[[CaseFiles], Prepared],
    files: Iterable[CaseFiles],
    recipe: Mapping[str, Any],
    *,
    images: Sequence[str],
    label: bool,
    cache: str | Path,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """`prepare` for any kind of data: `make` prepares one case, `recipe` (JSON) says how it is made.

    `images` names the entries of `CaseFiles.images` that count, `label` whether the label file does.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    digests = Digests(cache / "digests.json")
    prepared = []
    try:
        for one in files:
            key = case_key(one, recipe, images, label, digests)
            folder = cache / f"{one.id}-{key[:20]}"
            fresh = not (folder / "case.json").is_file()
            if fresh:
                _write(folder, key, make(one))
            prepared.append(read_prepared(folder))
            if on_case:
                on_case(prepared[-1], fresh)
    finally:
        digests.save()
    return tuple(prepared)


def read_prepared(folder: str | Path) -> PreparedCase:
    """The prepared case in one folder of a cache."""
    folder = Path(folder)
    facts = json.loads((folder / "case.json").read_text())
    key = facts.pop("key")
    return PreparedCase(folder, key, CaseFacts(**{k: tuples(v) for k, v in facts.items()}))


def uncrop(array: Shaped[np.ndarray, ...], prepared: Prepared | PreparedCase, fill: float) -> Shaped[np.ndarray, ...]:
    """Puts an array on a case's crop back on its canonical grid, `fill` around it.

    `array` has the crop's shape, with or without channels behind. The type is kept.
    """
    facts = prepared.facts
    ndim = len(facts.shape)
    if array.shape[:ndim] != facts.shape:
        raise UserError(f"case {facts.id}: an array of shape {array.shape} was given for a crop of {facts.shape}")
    whole = np.full((*facts.original_shape, *array.shape[ndim:]), fill, array.dtype)
    whole[tuple(slice(a, a + n) for a, n in zip(facts.crop_start, facts.shape, strict=True))] = array
    return whole


def dataset_facts(
    prepared: Sequence[PreparedCase],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    split: Mapping[str, Sequence[str]],
    *,
    classes: Sequence[str] = (),
    landmarks: Landmarks | None = None,
) -> DatasetFacts:
    """The facts of a split; `prepared` holds at least its training cases, others add only their keys.

    `classes` names the classes where there is no scheme, `landmarks` what intensities were matched to.
    """
    by_id = {case.id: case for case in prepared}
    absent = [i for i in split["train"] if i not in by_id]
    if absent:
        raise UserError(f"training case {absent[0]} has not been prepared; prepare all cases of the split")
    train = [by_id[i].facts for i in split["train"]]
    counts = [facts.voxels_per_class for facts in train if facts.voxels_per_class]
    return DatasetFacts(
        modalities=tuple(modalities),
        scheme=scheme.name if scheme else "",
        classes=scheme.classes if scheme else tuple(classes),
        spacing_mm=tuple(float(v) for v in np.median([facts.spacing_mm for facts in train], axis=0)),
        train=tuple(split["train"]),
        val=tuple(split["val"]),
        keys={case.id: case.key for case in prepared},
        voxels_per_class=tuple(sum(column) for column in zip(*counts, strict=True)),
        ranges=_ranges([by_id[i] for i in split["train"]], modalities),
        landmarks=dict(landmarks or {}),
    )


def _ranges(train: Sequence[PreparedCase], modalities: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Each modality's median stored range over volumes, however many slices each gives; empty without [0, 1]."""
    volumes = list({case.key: case.facts for case in train}.values())
    if not all(facts.percentiles or facts.scaling for facts in volumes):
        return {}
    ranges = {m: np.median([stored_range(facts, m) for facts in volumes], axis=0).tolist() for m in modalities}
    return {modality: (low, high) for modality, (low, high) in ranges.items()}


def bounding_box(mask: Shaped[np.ndarray, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and one past last index of the true voxels per axis; two equal tuples where there is none."""
    start, stop = [], []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        start.append(int(along[0]) if along.size else 0)
        stop.append(int(along[-1]) + 1 if along.size else 0)
    return tuple(start), tuple(stop)


def flat_indices(mask: Shaped[np.ndarray, ...]) -> Int[np.ndarray, " n"]:
    """Flat indices of the true voxels, int32 where they fit."""
    return np.flatnonzero(mask).astype(np.int32 if mask.size < 2**31 else np.int64)


def count_classes(label: UInt8[np.ndarray, "*space"], classes: int) -> tuple[int, ...]:
    """Voxels per class index, at least `classes` long."""
    return tuple(int(n) for n in np.bincount(label.ravel(), minlength=classes))


def case_key(one: CaseFiles, recipe: Mapping[str, Any], images: Sequence[str], label: bool, digests: Digests) -> str:
    """What names a case's entry in the cache: its id, group and files' content, and how it is made (`prepare_with`)."""
    absent = [m for m in images if m not in one.images]
    if absent:
        raise UserError(f"case {one.id} has no {', '.join(absent)} image; it has {', '.join(one.images)}")
    parts = {
        "version": _VERSION,
        "id": one.id,
        "group": one.group,
        "images": [digests.of(one.images[m]) for m in images],
        "label": digests.of(one.label) if label and one.label else None,
        "recipe": recipe,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=20).hexdigest()


def _write(folder: Path, key: str, prepared: Prepared) -> None:
    """Writes an entry in one piece; where another process was first, its entry stays (the content is the same)."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        np.save(partial / "image.npy", prepared.image)
        if prepared.label is not None:
            np.save(partial / "label.npy", prepared.label)
        np.save(partial / "tumor.npy", prepared.tumor)
        np.save(partial / "brain.npy", prepared.brain)
        (partial / "case.json").write_text(json.dumps({"key": key, **asdict(prepared.facts)}, indent=1))
        try:
            os.rename(partial, folder)
        except OSError:
            if not (folder / "case.json").is_file():
                raise
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); free space or choose another cache") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
