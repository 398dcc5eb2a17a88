"""Settings of a data set: the `data` section of a config, checked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxfuse.data.brain import AUTO, BackgroundRule, background_rule
from jaxfuse.data.cases import CaseFiles, without_blank
from jaxfuse.data.intensities import LEVELS, Normalization, normalization
from jaxfuse.data.labeled import KEEP, check_labels
from jaxfuse.data.labeled import REFUSE as REFUSE_UNLABELED
from jaxfuse.data.phantom.looks import PLAIN, Looks
from jaxfuse.data.presence import ABSENT, PRESENT, REFUSE, ZERO
from jaxfuse.data.shelf import FLOAT32, Shelf, check_precision
from jaxfuse.data.slices import AXES, View, Window
from jaxfuse.data.sources import voc
from jaxfuse.data.sources.bids import chosen_entities
from jaxfuse.data.sources.volumes import CUTS, VOLUMES, kept_root, source_of
from jaxfuse.data.subject_names import check_pattern
from jaxfuse.errors import UserError
from jaxfuse.labels import label_scheme
from jaxfuse.options import at_least, record, same_keys


@dataclass(frozen=True)
class Phantom:
    """The phantom data set that stands in where no root is given.

    Attributes:
        spacing_mm: voxel sides; of "stroke", whose slices share 160 mm, the sides in the plane.
        contrast, noise_scale, lesion_mm, mimics: of "brats" and its slices, as of `jaxfuse.data.phantom.looks.Looks`.
    """

    cases: int
    seed: int
    shape: tuple[int, int, int]
    spacing_mm: float
    contrast: float = 1.0
    noise_scale: float = 1.0
    lesion_mm: float = 0.0
    mimics: float = 1.0

    @property
    def looks(self) -> Looks:
        """How hard its tumors are to find."""
        return Looks(self.contrast, self.noise_scale, self.lesion_mm, self.mimics)


def cache_folder(named: str = "") -> Path:
    """Returns the folder of caches: the one that is named, that of JAXFUSE_CACHE, or that in the home folder.

    Raises:
        UserError: it lies in the home folder, and none is known.
    """
    named = named or os.environ.get("JAXFUSE_CACHE") or "~/.cache/jaxfuse"
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(
            f"the cache {named} has no place ({error}); name a folder with JAXFUSE_CACHE or data.cache"
        ) from error


@dataclass(frozen=True)
class Data:
    """The origin of the cases and their preparation.

    Attributes:
        source: volumes: "brats", "iseg" (subject-1-T1.hdr, ...) or "stroke" (folders of T2 and diffusion). Slices of
            such volumes, each a 2D case: "slices" (those of "brats" that show enough brain), "one_slice" (one of each
            volume of "brats", that of the largest tumor), "iseg_slices" and "stroke_slices" (in training those that
            hold a labeled voxel), and "isles_slices" (like "slices"). "pairs2d": registered PNG pictures, MRI with
            CT, PET or SPECT, visible light with infrared, or any two to four in a folder each. "voc": photographs. A
            source of 2D cases needs a phase with a patch of two sides.
        root: folder of the data set; empty: phantoms are written and used.
        layout: a layout of `jaxfuse.data.sources`; empty: recognized from folder and file names. Any source is read
            from the layouts that describe themselves: "nnunet", "decathlon", "bids", "isles2022" and "datalist", whose
            root is the list.
        labels: a scheme of `jaxfuse.labels`, which may be written, such as "edema=1,core=2"; empty: that of the layout.
        normalize: a rule of `jaxfuse.data.intensities` for volumes and slices; "levels" for "pairs2d".
        reference: with normalize "histmatch": folder of the case that all are matched to; empty: the landmarks of
            `jaxfuse.data.intensities`.
        val_fraction: share of the subjects that validate, drawn by `split_seed`; 0: all cases train, and nothing is
            validated.
        split: JSON file with lists `train`, `val` and, for cases that are held out, `test` of case ids, or with
            nnU-Net's list of folds, of which `fold` chooses one; "paper": that of the paper; empty: as the data set
            tells, or drawn by `split_seed`.
        paper_split: the name of the paper's split in `jaxfuse.data.paper_splits`; empty: it tells none.
        subject: a regular expression with one group, the part of a case's name that is its subject, whose cases stay
            on one side; empty: by the names that `jaxfuse.data.subject_names` knows.
        folds: how many folds are drawn by `split_seed` (12345 is nnU-Net's); 0: none.
        fold: the number, from 1, of the fold that validates: of `folds`, of those that `split` or the data set list,
            else of the one subject that validates, for an ensemble of leave-one-out folds; 0: none.
        stratify: what drawn folds and shares hold alike many of: a column that the data set tells of its cases,
            "volume" (of the labels) or "none"; empty: the group that the layout tells, such as the grade.
        bootstrap: the number, from 1, of a bootstrap sample of the subjects, drawn by `split_seed`, which train; those
            left out validate; 0: none.
        resample_mm: voxel sides, along the axes to the right, to the front and up, to which volumes are brought
            (`jaxfuse.data.resample`); (): each case keeps its own.
        entities: of data sets of BIDS, those by which one of several files of a kind is chosen, such as
            "acq-fast,desc-preproc"; "acq-" is a name without that entity; empty: there is one file of each kind.
        incomplete: what is done with a case that lacks some of the modalities: "refuse", or "zero": it trains and
            validates with those that it has, and the image of the others is 0.
        unlabeled: what is done with a case without a label where a phase learns from labels: "refuse", or "keep": it
            trains what learns from images, and never validates (`jaxfuse.data.labeled`).
        labeled: so many of the training subjects keep their labels, as if the others had none; 0: all do. With it,
            cases that have none are kept whatever `unlabeled` says.
        labeled_draw: which draw of them, by `split_seed`.
        all_background: what an image of one value everywhere counts as: "present", or "absent", for which all images
            that train or validate are read whenever the data are opened.
        cache: folder of prepared arrays; empty: $JAXFUSE_CACHE, else ~/.cache/jaxfuse.
        cache_dtype: precision of the images in it (`jaxfuse.data.shelf`): "float32", "float16" or "bfloat16".
        prepare_workers: processes that prepare volumes; 0: as many as there are cores, memory and work for.
        axis: slicing direction: "axial", "coronal" or "sagittal". A network of slices labels volumes along it.
        window: the part that pictures of slices show, ((first, one past the last), (first, one past the last)) along
            the two axes of the canonical volume (to the right, to the front, up) that are not cut; (): the brain's box.
        blank_slices: True keeps all slices, also those that show no brain.
        background: the stored value around the head: "auto" is told from each image (`jaxfuse.data.brain`), "none"
            takes every voxel for brain; else a number, or one for each modality, such as "t1=-5.3,flair=0".
    """

    source: str
    root: str
    layout: str
    labels: str
    modalities: tuple[str, ...]
    normalize: str
    val_fraction: float
    split_seed: int
    split: str
    cache: str
    phantom: Phantom
    axis: str = "axial"
    reference: str = ""
    window: Window = ()
    blank_slices: bool = False
    folds: int = 0
    fold: int = 0
    stratify: str = ""
    bootstrap: int = 0
    subject: str = ""
    paper_split: str = ""
    background: str = AUTO
    resample_mm: tuple[float, ...] = ()
    entities: str = ""
    incomplete: str = REFUSE
    all_background: str = PRESENT
    cache_dtype: str = FLOAT32
    prepare_workers: int = 0
    unlabeled: str = REFUSE_UNLABELED
    labeled: int = 0
    labeled_draw: int = 0

    @property
    def keeps_unlabeled(self) -> bool:
        """Whether cases without a label train what learns from images alone."""
        return self.unlabeled == KEEP or bool(self.labeled)

    @property
    def background_rule(self) -> BackgroundRule:
        """The rule that `background` names."""
        return background_rule(self.background, self.modalities)

    @property
    def normalization(self) -> Normalization:
        """The rule that `normalize` names; refuses an unknown one."""
        return LEVELS if self.source == "pairs2d" else normalization(self.normalize)

    @property
    def view(self) -> View:
        """The slices that a source of slices cuts, and what they show."""
        cut = CUTS.get(self.source)
        return View(AXES[self.axis], self.window, self.blank_slices, one_per_case=bool(cut and cut.one_per_case))

    @property
    def cache_dir(self) -> Path:
        """The folder of prepared arrays."""
        return cache_folder(self.cache)

    def there(self, files: CaseFiles) -> CaseFiles:
        """Returns the files of a case without the images that count as absent; reads them where any may.

        Raises:
            UserError: an image cannot be read, or all are of one value everywhere.
        """
        return without_blank(files) if self.all_background == ABSENT else files

    def shelf(self, kind: str) -> Shelf:
        """The place of prepared cases of a kind."""
        return Shelf(self.cache_dir / kind, self.cache_dtype, self.prepare_workers)


def declared_facts(data: Data) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Modalities and class names as far as they are told without looking at the cases.

    They are those of the config; where a root is there that describes its labels itself, the classes are its own.
    """
    if data.source == "voc":
        return data.modalities, voc.CLASSES
    if data.source == "pairs2d":
        return data.modalities, ()  # images without labels
    return data.modalities, label_scheme(declared_scheme(data)).classes


def declared_scheme(data: Data) -> str:
    """Returns the label scheme as far as it is told without looking at the cases; "" where there are none of ours."""
    return "" if data.source in ("voc", "pairs2d") else data.labels or _told_scheme(data)


def _told_scheme(data: Data) -> str:
    """The label scheme of the layout, or of a root that describes itself."""
    root = Path(data.root).expanduser()
    if data.root and root.exists() and (kept := kept_root(root, data.layout)):
        return kept.scheme
    native = source_of(data.source)
    return native.scheme_of(data.layout if data.layout in native.layouts else "")


def read_data(where: str, group: Any) -> Data:
    """Reads the section of a config called `where`; refuses what is unknown, missing, or would be ignored."""
    values = {key: value for key, value in group.items() if key != "phantom"}
    # Runs of versions without these options: on axial slices of the brain, and on neither folds nor samples.
    later = {"axis", "fold", "bootstrap", "reference", "window", "blank_slices", "subject", "background", "paper_split"}
    later |= {"folds", "stratify", "resample_mm", "entities", "incomplete", "all_background", "cache_dtype"}
    later |= {"prepare_workers", "unlabeled", "labeled", "labeled_draw"}
    same_keys(where, group, {f.name for f in fields(Data)}, optional=later)
    if not group.modalities or len(set(group.modalities)) != len(group.modalities):
        raise UserError(f"{where}.modalities is {group.modalities}; it must name at least one, each once")
    _check_axis(where, group.get("axis", "axial"), group.source)
    _check_slices(where, group.get("window", ()), group.get("blank_slices", False), group.source)
    rule = LEVELS if group.source == "pairs2d" else normalization(group.normalize)
    if group.get("reference") and not rule.needs_landmarks:
        raise UserError(
            f"{where}.reference is {group.reference!r} and {where}.normalize {group.normalize!r}; only histmatch looks "
            "at it: leave it empty"
        )
    if not 0.0 <= group.val_fraction < 1.0:
        raise UserError(
            f"{where}.val_fraction is {group.val_fraction}; it must lie between 0 and 1, or be 0 to train on all cases"
        )
    at_least(f"{where}.", {"prepare_workers": 0, **dict(group.items())}, split_seed=0, prepare_workers=0)
    check_precision(f"{where}.cache_dtype", group.get("cache_dtype", FLOAT32))
    _check_background(where, group.get("background", AUTO), group.source, group.modalities)
    _check_split(where, group)
    _check_sides(where, group.get("resample_mm", ()), group.source)
    _check_entities(where, group.get("entities", ""), group.source)
    _check_incomplete(where, group.get("incomplete", REFUSE), group.source)
    check_labels(where, group, (*VOLUMES, *CUTS))
    _check_all_background(where, group.get("all_background", PRESENT), group.get("incomplete", REFUSE))
    data = Data(phantom=_phantom(f"{where}.phantom", group), **values)
    _check_cache(where, data)
    return data


def _phantom(where: str, group: Any) -> Phantom:
    """Reads the phantoms; refuses looks that a source's phantoms lack, and lesions of less than two voxels."""
    found = record(Phantom, where, group.phantom, optional=tuple(vars(PLAIN)), cases=1, seed=0)
    for name, value in found.looks.told.items():
        if group.source not in (*VOLUMES, *CUTS) or source_of(group.source).name != "brats":
            raise UserError(f"{where}.{name} is {value:g}, which only phantoms of gliomas have; leave it out")
    if 0 < found.lesion_mm < 2 * found.spacing_mm:
        raise UserError(
            f"{where}.lesion_mm is {found.lesion_mm:g}, and voxels have {found.spacing_mm:g} mm; choose a radius of "
            "at least two voxels, or 0 for the usual one"
        )
    return found


def _check_cache(where: str, data: Data) -> None:
    """Refuses a cache among the cases, whose entries would be taken for cases, and which a data set is no place for."""
    if not data.root:
        return
    root, cache = Path(data.root).expanduser().resolve(), data.cache_dir.resolve()
    if root == cache or root in cache.parents:
        raise UserError(
            f"the cache {data.cache_dir} lies within {where}.root, {data.root}, where nothing is written; name a "
            f"folder elsewhere with {where}.cache or JAXFUSE_CACHE"
        )


def _check_split(where: str, group: Any) -> None:
    """Refuses two that say who validates, a fold that is not there, strata of what is not drawn, and a bad pattern."""
    asked = {"folds": 0, "fold": 0, "bootstrap": 0, "split": "", "stratify": "", **dict(group.items())}
    at_least(f"{where}.", asked, folds=0, fold=0, bootstrap=0)
    given = [name for name in ("split", "folds", "fold", "bootstrap") if asked[name]]
    together = given in (["folds", "fold"], ["split", "fold"]) and asked["split"] != "paper"
    if len(given) > 1 and not together:
        raise UserError(f"{' and '.join(f'{where}.{name}' for name in given)} cannot go together; keep one of them")
    if asked["folds"] and not (asked["folds"] > 1 and 1 <= asked["fold"] <= asked["folds"]):
        raise UserError(
            f"{where}.folds is {asked['folds']} and {where}.fold {asked['fold']}; at least 2 folds are drawn, of which "
            "fold says by its number, from 1, which one validates"
        )
    if asked["stratify"] and given not in ([], ["folds", "fold"]):
        raise UserError(
            f"{where}.stratify is {asked['stratify']!r}, and {where}.{given[0]} draws no strata; leave one out"
        )
    if group.get("subject"):
        check_pattern(f"{where}.subject", group.subject)
        given = [*given, "subject"]
    if asked["stratify"]:
        given = [*given, "stratify"]
    if group.source == "voc" and given:
        raise UserError(f"{where}.{given[0]} is given, but VOC has lists of its own; leave it out")


def _check_axis(where: str, axis: str, source: str) -> None:
    """Refuses an unknown axis, and one that a source which is not cut into slices would ignore."""
    if axis not in (AXES if source in CUTS else ("axial",)):
        choice = f"choose one of {', '.join(AXES)}" if source in CUTS else "only slices have another than axial"
        raise UserError(f"{where}.axis is {axis!r} and {where}.source {source!r}; {choice}")


def _check_slices(where: str, window: Any, blank: bool, source: str) -> None:
    """Refuses a window that is none, and options of slices that a source would ignore."""
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


def _check_background(where: str, text: str, source: str, modalities: tuple[str, ...]) -> None:
    """Refuses a background that is not understood, and one that pictures would ignore."""
    try:
        rule = background_rule(text, modalities)
    except UserError as error:
        raise UserError(f"{where}.background: {error}") from error
    if rule != BackgroundRule() and source == "voc":
        raise UserError(f"{where}.background is {text!r}, but photographs have none; leave it at auto")


def _check_sides(where: str, sides: Any, source: str) -> None:
    """Refuses sides of voxels that are none, and those that a source would ignore."""
    if sides and source not in VOLUMES:
        raise UserError(
            f"{where}.resample_mm is given and {where}.source is {source!r}; only volumes have it: leave it out"
        )
    whole = isinstance(sides, tuple) and len(sides) in (0, 3)
    if not (whole and all(isinstance(side, int | float) and 0 < side < math.inf for side in sides)):
        raise UserError(
            f"{where}.resample_mm is {sides}; three sides in mm are expected, such as (1.0, 1.0, 1.0), or ()"
        )


def _check_entities(where: str, text: str, source: str) -> None:
    """Refuses what names no entity of BIDS, and entities that a source would ignore."""
    if text and source not in (*VOLUMES, *CUTS):
        raise UserError(
            f"{where}.entities is given and {where}.source is {source!r}; only volumes have it: leave it out"
        )
    try:
        _ = text and chosen_entities(text)
    except UserError as error:
        raise UserError(f"{where}.entities: {error}") from error


def _check_incomplete(where: str, policy: str, source: str) -> None:
    """Refuses an unknown policy, and one that a source would ignore."""
    if policy not in (REFUSE, ZERO):
        raise UserError(f"{where}.incomplete is {policy!r}; choose {REFUSE} or {ZERO}")
    if policy != REFUSE and source not in (*VOLUMES, *CUTS):
        raise UserError(
            f"{where}.incomplete is {policy!r} and {where}.source is {source!r}; only volumes and their slices have "
            "it: leave it out"
        )


def _check_all_background(where: str, policy: str, incomplete: str) -> None:
    """Refuses an unknown choice, and one that nothing comes of."""
    if policy not in (PRESENT, ABSENT):
        raise UserError(f"{where}.all_background is {policy!r}; choose {PRESENT} or {ABSENT}")
    if policy == ABSENT and incomplete == REFUSE:
        raise UserError(
            f"{where}.all_background is {ABSENT!r} and {where}.incomplete {REFUSE!r}, so that a case with such an "
            f"image is refused either way; set {where}.incomplete to {ZERO!r}, or leave all_background out"
        )


def _is_range(value: Any) -> bool:
    whole = isinstance(value, tuple) and len(value) == 2 and all(type(end) is int for end in value)
    return whole and 0 <= value[0] < value[1]
