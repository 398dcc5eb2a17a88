"""Registered PNG pictures of one view, two to four of each, in folders of their kind: heads and scenes.

    <root>/{MRI_CT,MRI_PET,MRI_SPECT,VIS_IR}/{MRI,CT|PET|SPECT, or VIS,IR}/<same name>.png
    <root>/{CT-MRI,PET-MRI,SPECT-MRI,IR-VIS}/{train,test}/{...}/<same name>.png     those of test are held out
    <root>/{train,test}/{vi,ir}/<same name>.png, or <root>/{A,B,C}/<same name>.png    a folder for each modality

The first two are the Harvard collection's: MRI with CT, PET or SPECT. Names of folders are read in small and capital
letters; of visible light and infrared (`vis`, `ir`) as public sets have them. PET, SPECT and pictures in visible light
are shown in color; their luminance is what is fused (`jaxfuse.data.color`), and a gray image stored as RGB counts as
gray, also where its channels differ by a few levels. MRI and CT have no color. Names do not tell which images show one
patient: where they do, a split file keeps a patient on one side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from jaxfuse.data.brain import NONE, TOLD, Background, BackgroundRule, find_brain
from jaxfuse.data.cache import prepare_with
from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.color import gray_content, nearly_gray_content, to_ycbcr
from jaxfuse.data.facts import CaseFacts
from jaxfuse.data.intensities import moments
from jaxfuse.data.prepared import Prepared, PreparedCase
from jaxfuse.data.preprocess import flat_indices
from jaxfuse.data.shelf import Shelf
from jaxfuse.errors import UserError
from jaxfuse.io.png import png_size, read_png

PARTNERS = ("ct", "pet", "spect")
FEWEST, MOST = 2, 4
_GRAY = ("mri", "ct")
# Names of a modality's folder, beside its own.
_FURTHER = {"vis": ("vi", "visible"), "ir": ("infrared",)}
# Folder of a part of the collection -> its side of a split.
_PARTS = {"train": "", "test": "test"}


@dataclass(frozen=True)
class Finding:
    """One name as found: files by modality, one clause for each thing that is wrong, and the side it is put on."""

    id: str
    images: Mapping[str, Image]
    problems: tuple[str, ...]
    side: str = ""


@dataclass(frozen=True)
class Pair:
    """A pair in memory, levels divided by 255.

    Attributes:
        gray: the images by modality; of a color image its luminance.
        color: the RGB images of the modalities that have color.
        shown: what is not background in at least one image.
        backgrounds: of each image; None where it is not told.
        nearly_gray: files that are stored in color and taken for gray.
    """

    gray: Mapping[str, Float[np.ndarray, "h w"]]
    color: Mapping[str, Float[np.ndarray, "h w 3"]]
    shown: Bool[np.ndarray, "h w"]
    backgrounds: tuple[Background | None, ...]
    nearly_gray: tuple[Path, ...] = ()


def partner_of(modalities: Sequence[str]) -> str:
    """The modality paired with MRI, of which there are made pairs; refuses anything but `mri` and one of `PARTNERS`."""
    partners = [m for m in modalities if m in PARTNERS]
    if len(modalities) != 2 or "mri" not in modalities or len(partners) != 1:
        raise UserError(
            f"data.root is not set, and there are made pairs of mri and one of {', '.join(PARTNERS)} alone, not of "
            f"{' and '.join(modalities)}; set data.root to the folder of your pictures"
        )
    return partners[0]


def find_pairs(root: str | Path, modalities: Sequence[str]) -> tuple[CaseFiles, ...]:
    """The pairs under `root`, sorted by name; `root` is the folder around the collection, or the collection.

    `modalities` are two to four, such as `mri` and one of `ct`, `pet` and `spect`, in the order wanted.

    Raises:
        UserError: for other numbers of modalities, missing folders, a name that only some of them hold, and images of
            unequal size.
    """
    return tuple(files_of(one) for one in survey(root, modalities))


def files_of(found: Finding) -> CaseFiles:
    """Returns the files of a pair; `UserError` where something is wrong with them."""
    for problem in found.problems:
        raise UserError(f"pair {found.id}: {problem}")
    return CaseFiles(found.id, found.images, side=found.side)


def survey(root: str | Path, modalities: Sequence[str]) -> tuple[Finding, ...]:
    """Lists the pairs under `root` with their problems, where `find_pairs` refuses them."""
    folder = _collection_folder(Path(os.path.abspath(root)), modalities)
    parts = {side: folder / name for name, side in _PARTS.items() if (folder / name).is_dir()} or {"": folder}
    found: dict[str, Finding] = {}
    for side, part in parts.items():
        for one in _pairs_of(part, modalities, side):
            if one.id in found:
                raise UserError(f"pair {one.id} lies twice below {folder}, on two sides; keep it on one")
            found[one.id] = one
    return tuple(found.values())


def collection_names(modalities: Sequence[str]) -> tuple[str, ...]:
    """The names of the folder of all pairs of two modalities, in both layouts; none for others."""
    both = [*(("mri", partner) for partner in PARTNERS), ("vis", "ir")]
    known: dict[frozenset[str], tuple[str, str]] = {frozenset(pair): pair for pair in both}
    if (pair := known.get(frozenset(modalities))) is None:
        return ()
    first, second = (name.upper() for name in pair)
    return f"{first}_{second}", f"{second}-{first}"


def holds_all(root: Path, modalities: Sequence[str]) -> bool:
    """Whether a folder, or one of its parts, holds a folder for each modality."""
    parts = [root, *(root / part for part in _PARTS)]
    return any(all(_named(part, modality) for modality in modalities) for part in parts)


def _named(parent: Path, modality: str) -> list[Path]:
    """The folders of a modality."""
    names = {modality.lower(), *_FURTHER.get(modality, ())}
    return sorted(path for path in parent.glob("*") if path.name.lower() in names and path.is_dir())


def _folder_of(parent: Path, modality: str) -> Path:
    found = _named(parent, modality)
    if len(found) > 1:
        raise UserError(f"{parent} holds {' and '.join(_folder_names(found))}, both for {modality}; keep one of them")
    return found[0] if found else parent / modality.upper()


def _pairs_of(folder: Path, modalities: Sequence[str], side: str) -> Iterator[Finding]:
    """The pairs in the folders of some modalities."""
    folders = {modality: _folder_of(folder, modality) for modality in modalities}
    told = " and ".join(_folder_names(folders.values()))
    for path in folders.values():
        if not path.is_dir():
            raise UserError(f"{path} is missing; {folder.name} needs the folders {told}")
    names = sorted({p.name for path in folders.values() for p in path.glob("*.png") if not p.name.startswith(".")})
    if not names:
        raise UserError(f"no PNG image lies in {told} of {folder}; check the path")
    return (_find(name, folders, side) for name in names)


def load_pair(files: CaseFiles, modalities: Sequence[str], background: BackgroundRule = TOLD) -> Pair:
    """Reads one pair.

    Raises:
        UserError: for a damaged file, unequal sizes, and color where the modality has none.
    """
    gray, color, nearly = {}, {}, []
    for modality in modalities:
        path = files.images[modality].path
        pixels = read_png(path)
        single = gray_content(pixels)
        if single is None and (single := nearly_gray_content(pixels)) is not None:
            nearly.append(path)
        if single is not None:
            gray[modality] = _unit(single)
        elif modality not in _GRAY:
            color[modality] = _unit(pixels)
            gray[modality] = to_ycbcr(color[modality])[..., 0]
        else:
            raise UserError(
                f"pair {files.id}: {path} has color, and a gray image is expected of {modality}; "
                "check that the folders are not swapped"
            )
    sizes = {modality: image.shape for modality, image in gray.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"pair {files.id}: {_unequal(sizes)}")
    levels = np.stack([np.rint(255 * gray[modality]) for modality in modalities], axis=-1)
    brain = find_brain(levels, modalities, background)
    return Pair(gray, color, brain.mask, brain.backgrounds, tuple(nearly))


def prepare_pair(files: CaseFiles, modalities: Sequence[str], background: BackgroundRule = TOLD) -> Prepared:
    """One pair in the form of a prepared case: not cropped, levels divided by 255, without label.

    Its brain is what `jaxfuse.data.brain` finds in the levels.

    Raises:
        UserError: that of `load_pair`, and one for an image of one level only.
    """
    pair = load_pair(files, modalities, background)
    image = np.stack([pair.gray[modality] for modality in modalities], axis=-1)
    means, stds = zip(*(moments(files.id, m, image[..., c] * 255) for c, m in enumerate(modalities)), strict=True)
    shape = image.shape[:-1]
    facts = CaseFacts(
        id=files.id,
        group=files.group,
        modalities=tuple(modalities),
        affine=(),
        spacing_mm=(1.0, 1.0),
        original_shape=shape,
        crop_start=(0, 0),
        shape=shape,
        voxels_per_class=(),
        mean=means,
        std=stds,
        background=() if background.text == NONE else tuple(one and one.value for one in pair.backgrounds),
    )
    return Prepared(facts, image, None, np.zeros(0, np.int32), flat_indices(pair.shown))


def prepare_pairs(
    files: Sequence[CaseFiles],
    modalities: Sequence[str],
    *,
    background: BackgroundRule = TOLD,
    cache: str | Path | Shelf,
    on_case: Callable[[PreparedCase, bool], None] | None = None,
) -> tuple[PreparedCase, ...]:
    """Prepares each pair once below the folder `cache`; see `jaxfuse.data.cache.prepare`."""
    modalities = tuple(modalities)
    make = partial(prepare_pair, modalities=modalities, background=background)
    recipe = {"source": "pairs2d", "modalities": modalities, "background": background.text}
    return prepare_with(make, files, recipe, images=modalities, label=False, cache=cache, on_case=on_case)


def _collection_folder(root: Path, modalities: Sequence[str]) -> Path:
    if not FEWEST <= len(set(modalities)) == len(modalities) <= MOST:
        raise UserError(f"modalities are {tuple(modalities)}; name {FEWEST} to {MOST} different ones of pictures")
    names = collection_names(modalities)
    there = [root / name for name in names if (root / name).is_dir()]
    if root.name in names or (root.name in _PARTS and root.parent.name in names) or holds_all(root, modalities):
        there = [root]
    if not there or not there[0].is_dir():
        folders = " and ".join(modality.upper() for modality in modalities)
        whole = f", nor {' or '.join(names)}" if names else ""
        raise UserError(f"{root} holds no folders {folders}{whole}; give the folder that does")
    if len(there) > 1:
        raise UserError(f"{root} holds {' and '.join(names)}; give one of these folders")
    return there[0]


def _find(name: str, folders: Mapping[str, Path], side: str) -> Finding:
    images = {m: Image(path / name) for m, path in folders.items() if (path / name).is_file()}
    advice = "restore it, or leave the pair out"
    problems = [f"no {m} image: {path / name} is missing; {advice}" for m, path in folders.items() if m not in images]
    sizes = {}
    for modality, image in images.items():
        try:
            sizes[modality] = png_size(image.path)
        except UserError as error:
            problems.append(str(error))
    if len(set(sizes.values())) > 1:
        problems.append(_unequal(sizes))
    return Finding(Path(name).stem, images, tuple(problems), side)


def _unequal(sizes: Mapping[str, tuple[int, ...]]) -> str:
    told = " and ".join(f"{modality} is of {' x '.join(map(str, size))}" for modality, size in sizes.items())
    return f"{told} pixels; they must show one grid of pixels: register them, or leave the pair out"


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(255)


def _folder_names(folders: Iterable[Path]) -> list[str]:
    return [path.name for path in folders]
