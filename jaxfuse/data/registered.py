"""Images of one subject on one grid, as files: read for fusion, and what was fused made ready for a file.

All are PNG pictures, or all are NIfTI volumes. Fusion sees gray images in [0, 1]: levels of a picture over 255,
intensities of a volume between two percentiles of what it shows (its background becomes 0, all else is at least
1 / 255). Of an image in color, an RGB picture or one that a color map was asked for, it sees the luminance; its
chrominance is put back onto the fused image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from jaxfuse.data.brain import NONE, TOLD, BackgroundRule, find_brain
from jaxfuse.data.cases import intensity_problem
from jaxfuse.data.color import color_map, colored, gray_content, nearly_gray_content, recombine, to_ycbcr
from jaxfuse.data.intensities import between_percentiles, scaled_between
from jaxfuse.data.slices import gray_levels, pictures, volume_of
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import geometry_mismatch, read_volume
from jaxfuse.io.png import read_png

FEWEST, MOST = 2, 4
PNG, NIFTI = (".png",), (".nii", ".nii.gz")
# Stacks of pictures (n h w m) in [0, 1], and what at least one image of each shows (n h w) -> fused pictures (n h w), 0
# elsewhere.
Fuse = Callable[[Float[np.ndarray, "n h w m"], Bool[np.ndarray, "n h w"]], Shaped[np.ndarray, "n h w"]]


@dataclass(frozen=True)
class Registered:
    """Images of one grid: pictures (h w), or volumes (d h w) on the canonical axes.

    Attributes:
        names: as of `names_of`.
        gray: intensities to be fused, in [0, 1].
        color: the images that have color, by their place among the names.
        spacing_mm: pixel or voxel sides by axis; pixels of a picture count 1.
        shown: what is not background in at least one image (`jaxfuse.data.brain`).
        nearly_gray: names of the pictures that are stored in color and taken for gray.
        untold: names of the images whose background cannot be told, so that all of them is shown.
    """

    names: tuple[str, ...]
    gray: Float[np.ndarray, "*space m"]
    color: Mapping[int, Float[np.ndarray, "*space 3"]]
    spacing_mm: tuple[float, ...]
    shown: Bool[np.ndarray, "*space"]
    nearly_gray: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


@dataclass
class Seen:
    """The masks of images seen one after the other, by a rule of what is background."""

    rule: BackgroundRule
    masks: list[Bool[np.ndarray, "*space"]] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)

    def look(self, name: str, stored: Shaped[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
        """Returns what an image shows, and remembers whether its background is told."""
        brain = find_brain(stored[..., None], (name,), self.rule)
        if self.rule.text != NONE and brain.backgrounds == (None,) and stored.min() != stored.max():
            self.untold.append(name)
        self.masks.append(brain.mask)
        return brain.mask

    def in_any(self) -> Bool[np.ndarray, "*space"]:
        """Returns what at least one image shows."""
        return np.any(self.masks, axis=0)


def kind_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """The endings, PNG or NIFTI, that all of these 2 to 4 files have; `UserError` for other numbers and mixtures."""
    if not FEWEST <= len(paths) <= MOST:
        raise UserError(f"{len(paths)} image{'s' * (len(paths) != 1)} came; {FEWEST} to {MOST} can be fused into one")
    kinds = [next((kind for kind in (PNG, NIFTI) if path.name.endswith(kind)), None) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind is None:
            raise UserError(f"{path} does not end in {', '.join((*PNG, *NIFTI))}; convert it to PNG or NIfTI")
    if len(set(kinds)) > 1:
        png, nifti = (next(p for p, kind in zip(paths, kinds, strict=True) if kind == which) for which in (PNG, NIFTI))
        raise UserError(f"{png} is a picture and {nifti} a volume; give images of one kind")
    return kinds[0] or PNG


def names_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names to tell the images by: of the files, without extension; of their folders where the files are called alike.

    PET/0001.png beside MRI/0001.png is PET.
    """
    stems = tuple(path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".png") for path in paths)
    folders = tuple(path.absolute().parent.name for path in paths)
    alike = len(set(stems)) < len(stems) == len(set(folders))
    return folders if alike else stems


def chosen_maps(options: Sequence[str], names: Sequence[str]) -> dict[int, str]:
    """Reads options such as "3=hot" or "PET=hot": the place of an image among `names` -> the name of its color map.

    An image is named by its number, counted from 1, by its name or by the last part of its name (sub01_PET), in small
    or capital letters.

    Raises:
        UserError: for anything else, for a name that fits several images, and for an image that is named twice.
    """
    chosen: dict[int, str] = {}
    for option in options:
        key, equals, name = (part.strip() for part in option.partition("="))
        if not (key and equals and name):
            raise UserError(f"the color {option!r} is not understood; give IMAGE=MAP, such as 2=hot or PET=hot")
        place = _place(key, names)
        if place in chosen:
            raise UserError(f"the image {names[place]} was given the color maps {chosen[place]} and {name}; choose one")
        chosen[place] = name
    return chosen


def _place(key: str, names: Sequence[str]) -> int:
    if key.isdecimal():
        if not 1 <= int(key) <= len(names):
            raise UserError(f"a color was given to image {key}; the images count from 1 to {len(names)}")
        return int(key) - 1
    wanted = key.lower()
    fitting = [i for i, name in enumerate(names) if name.lower() == wanted]
    fitting = fitting or [i for i, name in enumerate(names) if re.split(r"[-_.\s]", name.lower())[-1] == wanted]
    if len(fitting) != 1:
        told = "several images are called so" if fitting else f"the images are {', '.join(names)}"
        raise UserError(f"a color was given to {key}, but {told}; name the image by its number, counted from 1")
    return fitting[0]


def read_pictures(paths: Sequence[Path], maps: Mapping[int, str], rule: BackgroundRule = TOLD) -> Registered:
    """Reads PNG pictures; `maps` names the color maps of gray ones by their place.

    Raises:
        UserError: for a damaged file, unequal sizes, an unknown color map, and one for an image that has color.
    """
    tables = {place: color_map(name) for place, name in maps.items()}
    names, gray, color, nearly, seen = names_of(paths), [], {}, [], Seen(rule)
    for place, path in enumerate(paths):
        pixels = read_png(path)
        single = gray_content(pixels)
        if single is None and (single := nearly_gray_content(pixels)) is not None:
            nearly.append(names[place])
        inside = seen.look(names[place], pixels.max(axis=-1) if single is None else single)
        if single is None:
            if place in tables:
                raise UserError(f"{path} has color of its own; leave out its color map {maps[place]}")
            color[place] = _unit(pixels)
            gray.append(_luminance(color[place]))
        else:
            gray.append(_in_color(_unit(single), inside, place, tables, color))
        if gray[-1].shape != gray[0].shape:
            sizes = (f"{p} is of {' x '.join(map(str, g.shape))}" for p, g in ((paths[0], gray[0]), (path, gray[-1])))
            raise UserError(f"{' and '.join(sizes)} pixels; the images must show one grid: register them first")
    return Registered(
        names, np.stack(gray, axis=-1), color, (1.0, 1.0), seen.in_any(), tuple(nearly), tuple(seen.untold)
    )


def read_volumes(paths: Sequence[Path], maps: Mapping[int, str], rule: BackgroundRule = TOLD) -> Registered:
    """Reads NIfTI volumes; `maps` names color maps by place.

    Raises:
        UserError: for a damaged file, another grid than the first volume's, values that are not finite, a volume that
            is 0 or constant throughout, and an unknown color map.
    """
    tables = {place: color_map(name) for place, name in maps.items()}
    volumes = [read_volume(path) for path in paths]
    names, seen, color = names_of(paths), Seen(rule), {}
    gray = np.zeros((*volumes[0].array.shape, len(volumes)), np.float32)
    for place, volume in enumerate(volumes):
        mismatch = geometry_mismatch(volume, volumes[0])
        if mismatch:
            raise UserError(f"the volumes do not fit: {mismatch}")
        if problem := intensity_problem(volume):
            raise UserError(problem)
        if (value := volume.array.min()) == volume.array.max():
            raise UserError(f"{volume.path} is {value:g} everywhere; replace the file")
        inside = seen.look(names[place], volume.array)
        values = volume.array[inside].astype(np.float32)
        unit = np.zeros(inside.shape, np.float32)
        unit[inside] = scaled_between(values, between_percentiles(str(volume.path.parent), volume.path.name, values))
        gray[..., place] = _in_color(unit, inside, place, tables, color)
    return Registered(names, gray, color, volumes[0].spacing_mm, seen.in_any(), untold=tuple(seen.untold))


def fuse_picture(fuse: Fuse, images: Registered) -> Float[np.ndarray, "h w *rgb"]:
    """The fused picture in [0, 1], in color where `fuse` makes such; 0 where no image shows anything."""
    return _clipped(fuse(images.gray[None], images.shown[None])[0])


def fuse_volume(fuse: Fuse, images: Registered, axis: int) -> Float[np.ndarray, "d h w *rgb"]:
    """The fused volume in [0, 1], slice by slice across `axis`, in color where `fuse` makes such.

    It is 0 where no image shows anything.
    """
    stack, shown = pictures(images.gray, axis), pictures(images.shown, axis)
    used = np.flatnonzero(shown.any(axis=(1, 2)))
    made = _clipped(fuse(np.ascontiguousarray(stack[used]), np.ascontiguousarray(shown[used])))
    fused = np.zeros((*stack.shape[:-1], *made.shape[3:]), np.float32)
    fused[used] = made
    return volume_of(fused, axis)


def in_levels(
    fused: Float[np.ndarray, "*space"], color: Sequence[Float[np.ndarray, "*space 3"]]
) -> UInt8[np.ndarray, "*space *rgb"]:
    """Levels 0 to 255 of a fused image in the chrominance of the images that have color; gray where none has."""
    if not color:
        return gray_levels(fused)
    if fused.ndim > 2:  # slice by slice, since the steps between need several times the memory of the result
        return np.stack([in_levels(part, [image[k] for image in color]) for k, part in enumerate(fused)])
    return gray_levels(recombine(fused, *color))


def _in_color(
    gray: Float[np.ndarray, "*space"],
    shown: Bool[np.ndarray, "*space"],
    place: int,
    tables: Mapping[int, Float[np.ndarray, "256 3"]],
    color: dict[int, np.ndarray],
) -> Float[np.ndarray, "*space"]:
    """The luminance of the image under its color map, which is left in `color`; the image itself where it has none."""
    if place not in tables:
        return gray
    color[place] = colored(gray, tables[place], shown)
    return _luminance(color[place])


def _luminance(rgb: Float[np.ndarray, "*space 3"]) -> Float[np.ndarray, "*space"]:
    return np.clip(to_ycbcr(rgb)[..., 0], 0, 1)  # white can be more than 1 by a rounding


def _clipped(fused: Shaped[np.ndarray, "*space"]) -> Float[np.ndarray, "*space"]:
    return np.clip(np.asarray(fused, np.float32), 0, 1)


def _unit(pixels: UInt8[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    return pixels.astype(np.float32) / np.float32(255)
