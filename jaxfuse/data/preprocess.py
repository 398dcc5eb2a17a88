"""Deterministic preparation of cases, and its cache of memory-mapped arrays.

A case is cropped to its brain and each modality brought to zero mean and unit variance (Cross-Modality Deep
Feature Learning for Brain Tumor Segmentation, section 4; over the brain's voxels unless asked otherwise), or to
[0, 1] between two percentiles.
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
from jaxtyping import Float, Int, Shaped, UInt8

from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.digests import Digests
from jaxfuse.data.mapped import open_mapped
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme

# Raise when the arrays or the JSON that this file writes change.
_VERSION = 3
# Of the brain's voxels, where intensities are scaled between them.
PERCENTILES = (0.5, 99.5)
# What the least bright voxel of the brain becomes then: level 1 of 255, apart from the background.
DARKEST = 1 / 255


@dataclass(frozen=True)
class CaseFacts:
    """What is known of a prepared case besides its arrays; the content of `case.json`.

    Attributes:
        affine: voxel to world in mm of the canonical grid before cropping, by rows; empty for a 2D image.
        spacing_mm: voxel sides per axis; pixels of a photograph count 1.
        original_shape, crop_start, shape: spatial; the crop is `original[start : start + shape]`.
        voxels_per_class: over the crop, by class index; empty for an unlabelled case.
        mean, std: of each modality as stored, over the voxels that were normalised together.
        percentiles: of each modality as stored, where it was scaled between them; else empty.
        slices: of a stack of slices, per slice: pixels of the brain, then pixels per class if labelled; else empty.
    """

    id: str
    group: str
    modalities: tuple[str, ...]
    affine: tuple[tuple[float, ...], ...]
    spacing_mm: tuple[float, ...]
    original_shape: tuple[int, ...]
    crop_start: tuple[int, ...]
    shape: tuple[int, ...]
    voxels_per_class: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    percentiles: tuple[tuple[float, float], ...] = ()
    slices: tuple[tuple[int, ...], ...] = ()


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
    def labelled(self) -> bool:
        return bool(self.facts.voxels_per_class)

    @property
    def image(self) -> Float[np.ndarray, "*space m"]:
        """Normalised intensities, float32."""
        return open_mapped(self.folder / "image.npy")

    @property
    def label(self) -> UInt8[np.ndarray, "*space"] | None:
        """Class indices, or None for an unlabelled case."""
        return open_mapped(self.folder / "label.npy") if self.labelled else None

    @property
    def tumor(self) -> Int[np.ndarray, " n"]:
        """Flat indices into the crop of the voxels whose label is not background; empty without label."""
        return open_mapped(self.folder / "tumor.npy")

    @property
    def brain(self) -> Int[np.ndarray, " n"]:
        """Flat indices into the crop of the voxels that are not zero in every modality."""
        return open_mapped(self.folder / "brain.npy")


@dataclass(frozen=True)
class DatasetFacts:
    """Constants that the training split decides; the content of a run's `dataset.json`.

    Attributes:
        scheme: name of the label scheme, empty where the data set has classes of its own.
        spacing_mm: median over the training cases, per axis.
        train, val: case ids.
        keys: case id -> cache key, which stands for the content of its files and the preparation.
        voxels_per_class: sum over the labelled training cases, by class index; empty where there is none.
    """

    modalities: tuple[str, ...]
    scheme: str
    classes: tuple[str, ...]
    spacing_mm: tuple[float, ...]
    train: tuple[str, ...]
    val: tuple[str, ...]
    keys: Mapping[str, str]
    voxels_per_class: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetFacts:
        fields: dict[str, Any] = json.loads(text)
        return cls(**{name: _tuples(value) for name, value in fields.items()})


def prepare_case(case: Case, *, normalize: str = "brain", group: str = "", classes: int = 0) -> Prepared:
    """Crops a case to its brain and normalises it.

    With `"brain"`, mean and standard deviation are taken over the voxels that are not zero in every modality, the
    rest stays 0, and their bounding box is kept. With `"volume"` they are taken over the whole volume, background
    included; nothing is cropped then, because background is no longer 0. With `"percentiles"` the box is kept, and
    the brain's voxels are scaled as `between_percentiles` says. `classes` is the least length of `voxels_per_class`.

    Raises `UserError` for an image without a non-zero voxel, and for a modality that is constant.
    """
    if normalize not in ("brain", "volume", "percentiles"):
        raise UserError(f"normalize is {normalize!r}; choose brain or volume, or percentiles for [0, 1]")
    mask = np.any(case.image != 0, axis=-1)
    start, stop = bounding_box(mask)
    if start == stop:
        raise UserError(f"case {case.id}: every voxel of {', '.join(case.modalities)} is 0; remove or replace the case")
    if normalize == "volume":
        start, stop = (0,) * mask.ndim, mask.shape
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    inside = mask[box]
    image = np.zeros((*inside.shape, len(case.modalities)), np.float32)
    means, stds, ranges = [], [], []
    for channel, modality in enumerate(case.modalities):
        values = case.image[..., channel]
        together = values if normalize == "volume" else values[mask]
        mean, std = moments(case.id, modality, together)
        if normalize == "percentiles":
            image[inside, channel], limits = between_percentiles(case.id, modality, together)
            ranges.append(limits)
        else:
            normed = (values[box] - np.float32(mean)) / np.float32(std)
            image[..., channel] = normed if normalize == "volume" else np.where(inside, normed, np.float32(0))
        means.append(mean)
        stds.append(std)
    label = None if case.label is None else np.ascontiguousarray(case.label[box])
    facts = CaseFacts(
        id=case.id,
        group=group,
        modalities=case.modalities,
        affine=tuple(tuple(float(v) for v in row) for row in case.affine),
        spacing_mm=tuple(float(v) for v in case.spacing_mm),
        original_shape=mask.shape,
        crop_start=start,
        shape=inside.shape,
        voxels_per_class=() if label is None else count_classes(label, classes),
        mean=tuple(means),
        std=tuple(stds),
        percentiles=tuple(ranges),
    )
    tumor = np.zeros(0, np.int32) if label is None else flat_indices(label > 0)
    return Prepared(facts, image, label, tumor, flat_indices(inside))


def prepare(
    files: Iterable[CaseFiles],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    *,
    normalize: str = "brain",
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
        case = load_case(one, modalities, scheme)
        return prepare_case(case, normalize=normalize, group=one.group, classes=len(scheme.classes) if scheme else 0)

    recipe = volume_recipe(modalities, scheme, normalize)
    return prepare_with(make, files, recipe, images=modalities, label=scheme is not None, cache=cache, on_case=on_case)


def volume_recipe(modalities: Sequence[str], scheme: LabelScheme | None, normalize: str) -> dict[str, Any]:
    """How `prepare` makes its cases, as JSON."""
    # The encoding, not only the name: a scheme that is corrected later must not find old arrays.
    coding = {"name": scheme.name, "encode": sorted(scheme.encode.items())} if scheme else None
    return {"modalities": tuple(modalities), "scheme": coding, "normalize": normalize}


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
    return PreparedCase(folder, key, CaseFacts(**{k: _tuples(v) for k, v in facts.items()}))


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
) -> DatasetFacts:
    """The facts of a split; `prepared` holds at least its training cases, others add only their keys.

    `classes` names the classes where there is no scheme.
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
    )


def bounding_box(mask: Shaped[np.ndarray, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and one past last index of the true voxels per axis; two equal tuples where there is none."""
    start, stop = [], []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        start.append(int(along[0]) if along.size else 0)
        stop.append(int(along[-1]) + 1 if along.size else 0)
    return tuple(start), tuple(stop)


def moments(case_id: str, modality: str, values: Shaped[np.ndarray, ...]) -> tuple[float, float]:
    """Mean and standard deviation (of the population) in double precision; `UserError` for constant values."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise UserError(
            f"case {case_id}: modality {modality} is {low:g} everywhere; replace the file or leave the case out"
        )
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def between_percentiles(
    case_id: str, modality: str, values: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], tuple[float, float]]:
    """Values of the brain clipped to the `PERCENTILES` and scaled from there to [1/255, 1], and both percentiles."""
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    if low == high:
        raise UserError(
            f"case {case_id}: modality {modality} is {low:g} in nearly all of the brain, so that there is no range to "
            "scale; replace the file or leave the case out"
        )
    share = (np.clip(values, low, high) - np.float32(low)) / np.float32(high - low)
    return (np.float32(DARKEST) + np.float32(1 - DARKEST) * np.clip(share, 0, 1)).astype(np.float32), (low, high)


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


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
