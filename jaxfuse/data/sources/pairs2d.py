"""Pairs of registered PNG images of one head, MRI with CT, PET or SPECT, in the folders of the Harvard collection.

    <root>/{MRI_CT,MRI_PET,MRI_SPECT}/{MRI,CT|PET|SPECT}/<same name>.png
    <root>/{CT-MRI,PET-MRI,SPECT-MRI}/{train,test}/{CT|PET|SPECT,MRI}/<same name>.png     those of test are held out

PET and SPECT are shown in color; their luminance is what is fused (`jaxfuse.data.color`), and a gray image stored as
RGB counts as gray, also where its channels differ by a few levels. Names do not tell which images show one patient:
where they do, a split file keeps a patient on one side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
COLORED = ("pet", "spect")
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
    """The modality paired with MRI; refuses anything but `mri` and one of `PARTNERS`. It names the collection."""
    partners = [m for m in modalities if m in PARTNERS]
    if len(modalities) != 2 or "mri" not in modalities or len(partners) != 1:
        raise UserError(f"modalities are {tuple(modalities)}; mri and one of {', '.join(PARTNERS)} are expected")
    return partners[0]


def find_pairs(root: str | Path, modalities: Sequence[str]) -> tuple[CaseFiles, ...]:
    """The pairs under `root`, sorted by name; `root` is the folder around the collection, or the collection.

    `modalities` is `mri` with one of `ct`, `pet` and `spect`, in the order wanted.

    Raises:
        UserError: for other modalities, missing folders, a name that only one of them holds, and images of unequal
            size.
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


def collection_names(partner: str) -> tuple[str, str]:
    """The names of the folder of all pairs with a partner of MRI, in both layouts."""
    return f"MRI_{partner.upper()}", f"{partner.upper()}-MRI"


def _pairs_of(folder: Path, modalities: Sequence[str], side: str) -> Iterator[Finding]:
    """The pairs in the folders of two modalities."""
    folders = {modality: folder / modality.upper() for modality in modalities}
    for path in folders.values():
        if not path.is_dir():
            raise UserError(
                f"{path} is missing; {folder.name} needs the folders {' and '.join(_folder_names(folders))}"
            )
    names = sorted({p.name for path in folders.values() for p in path.glob("*.png") if not p.name.startswith(".")})
    if not names:
        raise UserError(f"no PNG image lies in {' and '.join(_folder_names(folders))} of {folder}; check the path")
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
        elif modality in COLORED:
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
    names = collection_names(partner_of(modalities))
    if root.name in names or (root.name in _PARTS and root.parent.name in names):
        there = [root]
    else:
        there = [root / name for name in names if (root / name).is_dir()]
    if not there or not there[0].is_dir():
        raise UserError(f"{root / names[0]} is not a folder; give the folder that holds {' or '.join(names)}")
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


def _folder_names(folders: Mapping[str, Path]) -> list[str]:
    return [path.name for path in folders.values()]
