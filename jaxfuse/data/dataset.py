"""Opening a data set: from its settings to prepared training and validation cases."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxfuse.data.brain import untold
from jaxfuse.data.cache import prepare, volume_recipe, with_precision
from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.data.facts import CaseFacts, DatasetFacts
from jaxfuse.data.intensities import LEVELS, Landmarks, landmarks_of, learned_landmarks, stored_range
from jaxfuse.data.labeled import check_labeled, held_back
from jaxfuse.data.phantom.roots import Report, pair_phantom_root, phantom_root
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.presence import ZERO, subset_name
from jaxfuse.data.settings import Data
from jaxfuse.data.sides import sides_of, subject_counts, subject_of_files
from jaxfuse.data.slices import every_slice, kept_slices, labeled_slices, prepare_slices, stack_recipe
from jaxfuse.data.sources import pairs2d, voc
from jaxfuse.data.sources.volumes import CUTS, VOLUMES, check_entities, volume_root
from jaxfuse.data.subject_names import SubjectOf
from jaxfuse.data.subjects import volume_facts_of
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json
from jaxfuse.labels import LabelScheme, label_scheme


@dataclass(frozen=True)
class Dataset:
    """Prepared cases of both sides of the split.

    Attributes:
        scheme: None where the classes are the data set's own.
        labeled: the same without the training cases that have no label, where only some have one.
    """

    train: tuple[PreparedCase, ...]
    val: tuple[PreparedCase, ...]
    scheme: LabelScheme | None
    facts: DatasetFacts
    labeled: Dataset | None = None

    @property
    def overfit_check(self) -> bool:
        """Whether the same single case trains and validates."""
        return self.facts.train == self.facts.val

    def untold_background(self) -> str:
        """Says in one sentence which volumes or pictures have a background that cannot be told; empty where none."""
        # Slices share the entry of their volume, whose name the entry bears.
        cases = {case.folder.name.rpartition("-")[0]: case.facts.background for case in (*self.train, *self.val)}
        return untold(cases)

    def document(self) -> dict[str, Any]:
        """Returns the content of `dataset.json`: the facts, and a fingerprint that equal data and splits share."""
        facts = json.loads(self.facts.to_json())
        # Not the cache keys: they tell apart runs that list the same modalities in another order.
        cases = {case.id: case.facts for case in (*self.train, *self.val)}
        parts = [facts["train"], facts["val"], facts["scheme"]]
        for name in sorted(cases):
            moments = sorted(zip(cases[name].modalities, cases[name].mean, cases[name].std, strict=True))
            scaled = sorted(zip(cases[name].modalities, cases[name].scaling, strict=False))
            parts.append(
                [name, cases[name].shape, cases[name].voxels_per_class, moments, *([scaled] if scaled else [])]
            )
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return {**facts, "fingerprint": fingerprint, "overfit_check": self.overfit_check}


def read_facts(workdir: Path) -> DatasetFacts:
    """The facts of the data that a run was trained on, from its `dataset.json`."""
    path = workdir / "dataset.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no dataset.json: its training has not begun; train it first")
    known = {f.name for f in fields(DatasetFacts)}
    return DatasetFacts.from_json(json.dumps({k: v for k, v in read_json(path).items() if k in known}))


def recipe_of(data: Data, scheme: LabelScheme | None, facts: DatasetFacts) -> dict[str, Any]:
    """Returns the preparation settings of volumes or their slices as JSON; part of the cache key."""
    landmarks = facts.landmarks or None
    if data.source not in CUTS:
        rest = (landmarks, data.background_rule, data.resample_mm)
        recipe = volume_recipe(data.modalities, scheme, data.normalization, *rest)
    else:
        rest = (data.view, landmarks, data.background_rule)
        recipe = stack_recipe(data.modalities, scheme, data.normalization, *rest)
    return with_precision(recipe, data.cache_dtype)


def open_dataset(data: Data, report: Report, *, labels_required: bool = True) -> Dataset:
    """Finds, checks, splits and prepares the cases; writes phantoms first where no root is given."""
    return _opener(data.source)(data, report, labels_required)


def _opener(source: str) -> Callable[[Data, Report, bool], Dataset]:
    """The function that opens a kind of source: volumes, their slices, or pictures."""
    if source in CUTS:
        return _open_slices
    if source in VOLUMES:
        return _open_volumes
    if source in _PICTURES:
        return _PICTURES[source]
    raise UserError(f"data.source is {source!r}; choose one of {', '.join([*VOLUMES, *_PICTURES, *CUTS])}")


def _open_volumes(data: Data, report: Report, labels_required: bool) -> Dataset:
    """Opens volumes, split by subject."""
    files, scheme = _volumes(data, report, labels_required)
    split = sides_of(data, files, data.cache_dir / "cases")
    subject = subject_of_files(data, files)
    chosen = _listed(data, files, split, labels_required)
    landmarks = _landmarks(data)
    prepared = prepare(
        chosen,
        data.modalities,
        scheme,
        normalize=data.normalization,
        landmarks=landmarks,
        background=data.background_rule,
        resample_mm=data.resample_mm,
        incomplete=data.incomplete == ZERO,
        cache=data.shelf("cases"),
        on_case=_counter(report, len(chosen)),
    )
    counts = subject_counts(split, subject)
    whole = _dataset(prepared, data.modalities, scheme, split, scheme.classes, counts, landmarks)
    return _beside_labeled(whole, subject)


def _open_slices(data: Data, report: Report, labels_required: bool) -> Dataset:
    """Opens slices of volumes, all that show enough or one of each case; split by case, so by patient."""
    files, scheme = _volumes(data, report, labels_required)
    split = sides_of(data, files, data.cache_dir / "cases")
    subject = subject_of_files(data, files)
    chosen = _listed(data, files, split, labels_required)
    cut, landmarks = CUTS[data.source], _landmarks(data)
    of_labels = {one.id for one in chosen if one.label and one.id in split["train"]} if cut.labeled else set()

    def keep(facts: CaseFacts) -> tuple[int, ...]:
        if data.blank_slices:
            return every_slice(facts)
        return labeled_slices(facts) if facts.id in of_labels else kept_slices(facts)

    slices = prepare_slices(
        chosen,
        data.modalities,
        scheme,
        view=data.view,
        keep=keep,
        normalize=data.normalization,
        landmarks=landmarks,
        background=data.background_rule,
        cache=data.shelf("cases"),
        on_case=_counter(report, len(chosen)),
    )
    sides = {side: tuple(one.id for case in split[side] for one in slices[case]) for side in ("train", "val")}
    sides["test"] = split.get("test", ())
    every = [one for case in slices.values() for one in case]
    counts = subject_counts(split, subject)
    whole = _dataset(every, data.modalities, scheme, sides, scheme.classes, counts, landmarks)
    return _beside_labeled(whole, subject)


def _beside_labeled(whole: Dataset, subject: SubjectOf) -> Dataset:
    """Puts beside a data set the same without its unlabeled training cases, where only some of them have a label."""
    labeled = tuple(case for case in whole.train if case.labeled)
    if len(labeled) in (0, len(whole.train)):
        return whole
    facts, cases = whole.facts, {*labeled, *whole.val}
    split = {"train": tuple(case.id for case in labeled), "val": facts.val, "test": facts.test}
    counts = {**facts.subjects, **subject_counts({"train": [case.of_case for case in labeled]}, subject)}
    some = dataset_facts(
        list(cases),
        facts.modalities,
        whole.scheme,
        split,
        classes=facts.classes,
        subjects=counts,
        landmarks=facts.landmarks,
    )
    return replace(whole, labeled=Dataset(labeled, whole.val, whole.scheme, some))


def _open_pairs(data: Data, report: Report, labels_required: bool) -> Dataset:
    """Opens registered pairs of pictures, which have no labels."""
    if labels_required:
        raise UserError(
            "data.source is 'pairs2d', whose images have no labels, and a phase needs labels; give that phase data of "
            'another source, and set sampling="brain" where only images are learned from'
        )
    for option, value, only in (
        ("layout", data.layout, ""),
        ("labels", data.labels, ""),
        ("normalize", data.normalize, LEVELS.name),
    ):
        if value != only:
            raise UserError(f"data.{option} is {value!r}; with data.source 'pairs2d' it can only be {only!r}")
    root = Path(data.root).expanduser() if data.root else pair_phantom_root(data, report)
    files = pairs2d.find_pairs(root, data.modalities)
    split = sides_of(data, files, data.cache_dir / "pairs2d")
    chosen = _listed(data, files, split, labels_required)
    prepared = pairs2d.prepare_pairs(
        chosen,
        data.modalities,
        background=data.background_rule,
        cache=data.shelf("pairs2d"),
        on_case=_counter(report, len(chosen)),
    )
    return _dataset(prepared, data.modalities, None, split, (), subject_counts(split, subject_of_files(data, files)))


def _volumes(data: Data, report: Report, labels_required: bool) -> tuple[tuple[CaseFiles, ...], LabelScheme]:
    """The cases of volumes and their label scheme; phantoms where no root is given."""
    path = Path(data.root).expanduser() if data.root else phantom_root(data, report)
    root = volume_root(path, source=data.source, layout=data.layout, entities=data.entities)
    check_entities(root, data.entities)
    scheme = label_scheme(data.labels or root.scheme)
    incomplete, labels_required = data.incomplete == ZERO, labels_required and not data.keeps_unlabeled
    return root.find(data.modalities, labels_required=labels_required, incomplete=incomplete), scheme


def _landmarks(data: Data) -> Landmarks | None:
    """Levels that the brains' intensities are matched to, by modality; None where they are not matched."""
    if not data.normalization.needs_landmarks:
        return None
    if not data.reference:
        return landmarks_of(data.modalities)
    folder = Path(data.reference).expanduser()
    there = volume_root(folder, source=data.source, layout=data.layout, entities=data.entities)
    files = there.find(data.modalities, labels_required=False)
    if len(files) != 1:
        raise UserError(f"data.reference {folder} holds {len(files)} cases; name the folder of the one to match")
    return learned_landmarks(load_case(files[0], data.modalities, None), data.background_rule)


def _listed(
    data: Data, files: Sequence[CaseFiles], split: Mapping[str, Sequence[str]], labels_required: bool
) -> list[CaseFiles]:
    """The cases that train or validate; refuses one without a label where labels are required.

    Labels are held back where few are asked for; where cases without one are kept, those that train may lack it, else
    only a case that the data set holds out came here without. Blank images are left out where they count as absent.
    """
    wanted = {*split["train"], *split["val"]}
    few = {"labeled": data.labeled, "draw": data.labeled_draw, "seed": data.split_seed}
    files = held_back(files, split["train"], subject_of_files(data, files), **few)
    if data.keeps_unlabeled and labels_required:
        check_labeled(files, split)
        labels_required = False
    chosen = [one for one in files if one.id in wanted]
    for one in chosen:
        if labels_required and one.label is None:
            raise UserError(
                f"case {one.id} has no label, which its data set holds out for testing, and the split lets it train or "
                "validate; list it under test"
            )
    # Not before: images of cases that are held out are not opened.
    return [data.there(one) for one in chosen]


def _open_voc(data: Data, report: Report, labels_required: bool) -> Dataset:
    """Opens photographs, split by their own lists."""
    del labels_required  # its lists name labeled images only
    if not data.root:
        raise UserError("the PASCAL VOC folder is not named; give it with --config.voc.data.root=DIR")
    sides = voc.find_images(Path(data.root).expanduser())
    every: list[CaseFiles] = [*sides["train"], *sides["val"]]
    prepared = voc.prepare_images(every, cache=data.shelf("voc"), on_case=_counter(report, len(every)))
    split = {side: tuple(one.id for one in files) for side, files in sides.items()}
    return _dataset(prepared, data.modalities, None, split, voc.CLASSES, {})


_PICTURES = {"voc": _open_voc, "pairs2d": _open_pairs}


def _dataset(
    prepared: Sequence[PreparedCase],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    split: dict[str, tuple[str, ...]],
    classes: Sequence[str],
    subjects: Mapping[str, int],
    landmarks: Landmarks | None = None,
) -> Dataset:
    by_id = {case.id: case for case in prepared}
    facts = dataset_facts(prepared, modalities, scheme, split, classes=classes, subjects=subjects, landmarks=landmarks)
    train, val = (tuple(by_id[i] for i in split[side]) for side in ("train", "val"))
    return Dataset(train, val, scheme, facts)


def _counter(report: Report, total: int) -> Callable[[PreparedCase, bool], None]:
    done = worked = 0

    def on_case(case: PreparedCase, fresh: bool) -> None:
        nonlocal done, worked
        del case
        done, worked = done + 1, worked + fresh
        report("preparing cases", done, total, worked)

    return on_case


def dataset_facts(
    prepared: Sequence[PreparedCase],
    modalities: Sequence[str],
    scheme: LabelScheme | None,
    split: Mapping[str, Sequence[str]],
    *,
    classes: Sequence[str] = (),
    subjects: Mapping[str, int] | None = None,
    landmarks: Landmarks | None = None,
) -> DatasetFacts:
    """The facts of a split; `prepared` holds at least its training cases, others add only their keys.

    `classes` names the classes where there is no scheme, `subjects` counts them by side where they are known,
    `landmarks` are what intensities were matched to.
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
        test=tuple(split.get("test", ())),
        subjects=dict(subjects or {}),
        keys={case.id: case.key for case in prepared},
        voxels_per_class=tuple(sum(column) for column in zip(*counts, strict=True)),
        train_shapes=tuple(sorted(Counter(facts.shape for facts in train if facts.voxels_per_class).items())),
        ranges=_ranges([by_id[i] for i in split["train"]], modalities),
        landmarks=dict(landmarks or {}),
        spacing_range_mm=_spacing_range([by_id[i] for i in split["train"]]),
        subsets=tuple(sorted({subset_name(one.presence or (True,) * len(modalities), modalities) for one in train})),
    )


def _spacing_range(train: Sequence[PreparedCase]) -> tuple[tuple[float, float], ...]:
    """Least and greatest side per canonical axis, of the volumes that slices were cut from; empty for pictures."""
    entries = {case.key: case for case in train}.values()
    spacings = [volume_facts_of(case).spacing_mm for case in entries]
    if not all(len(spacing) == 3 for spacing in spacings):
        return ()
    return tuple((min(sides), max(sides)) for sides in zip(*spacings, strict=True))


def _ranges(train: Sequence[PreparedCase], modalities: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Each modality's median stored range over volumes, however many slices each gives; empty without [0, 1]."""
    volumes = list({case.key: case.facts for case in train}.values())
    if not all(facts.scaling for facts in volumes):
        return {}
    known = {m: [stored_range(facts, m) for facts in volumes if m not in facts.lacks] for m in modalities}
    ranges = {m: np.median(found, axis=0).tolist() for m, found in known.items() if found}
    return {modality: (low, high) for modality, (low, high) in ranges.items()}
