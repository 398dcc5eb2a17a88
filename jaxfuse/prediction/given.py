"""Input of predictions: arrays, images, files, or folders of cases, all as the files of cases.

From there on the Python interface and the commands go one way: images that lie in memory are read as files are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from jaxfuse.data.cases import CaseFiles, HeldImage, Image
from jaxfuse.data.sources.modality_names import canonical_name
from jaxfuse.errors import UserError
from jaxfuse.io.nifti import volume_in_memory

# The name of a case of which nothing tells one.
CASE = "case"
_FLOATS = ("float16", "float64", "longdouble", "int64", "uint64", "int32", "uint32")

# One case: its images by modality, or its folder.
Given = Mapping[str, Any] | str | os.PathLike[str]
Sides = Sequence[float]


@dataclass(frozen=True)
class Placing:
    """The place of arrays in the world.

    Attributes:
        affine: 4 x 4, voxel to world in mm, as of nibabel; None: the axes of arrays run to the patient's right, front
            and top.
        spacing_mm: voxel sides per array axis, where there is no affine; empty: those of the training.
        assumed_mm: voxel sides where neither is given; empty: they have to be.
    """

    affine: Any = None
    spacing_mm: Sides = ()
    assumed_mm: Sides = ()

    def check(self, given: object) -> None:
        """Refuses a place of arrays where a folder came, or images that all tell their own."""
        told = "affine" if self.affine is not None else "spacing_mm" if len(self.spacing_mm) else ""
        images = list(given.values()) if isinstance(given, Mapping) else [given]
        if told and images and all(is_folder(one) or isinstance(one, SpatialImage) for one in images):
            raise UserError(
                f"{told} is of arrays, and what came are files or images, which tell their own; leave it out"
            )

    def image(self, array: np.ndarray, name: str) -> nib.Nifti1Image:
        """Returns an array as an image in its place.

        Raises:
            UserError: affine or sides are not of that kind, both are given, or neither is and nothing may be assumed.
        """
        if self.affine is not None and len(self.spacing_mm):
            raise UserError("affine and spacing_mm are both given; give one, for the affine tells the sides, too")
        if self.affine is not None:
            affine = np.asarray(self.affine, np.float64)
            if affine.shape != (4, 4):
                raise UserError(f"affine has shape {affine.shape}; give a 4 x 4 array, voxel to world in mm")
            return nib.Nifti1Image(array, affine)
        sides = tuple(map(float, self.spacing_mm or self.assumed_mm))
        if not sides:
            raise UserError(
                f"{name} is an array of no known voxel size, and the run brings volumes to its own; give affine or "
                "spacing_mm"
            )
        if len(sides) != 3 or not all(np.isfinite(side) and side > 0 for side in sides):
            raise UserError(f"spacing_mm is {self.spacing_mm}; give three sides above 0 in mm, one for each axis")
        image = nib.Nifti1Image(array, None)
        image.header.set_zooms(sides)
        return image


def is_folder(given: object) -> TypeGuard[str | os.PathLike[str]]:
    """Tells whether cases are given as a path."""
    return isinstance(given, str | os.PathLike)


def case_of(
    given: object, modalities: Sequence[str], placing: Placing, *, name: str = "", unnamed: str = CASE, by: str = ""
) -> CaseFiles:
    """Returns one case that is given as modality -> array, nibabel image, or path of a file.

    Args:
        modalities: those that are read; names that data sets of this field use for them will do.
        name: that of the case, for sentences; empty: that of its first file's folder, else `unnamed`.
        by: the name of what reads it, for sentences.

    Raises:
        UserError: it is something else, names no modality or one that is not read, or an array is no volume.
    """
    if not isinstance(given, Mapping):
        raise UserError(
            f"a case came as {type(given).__name__}; give a dictionary, modality -> array, nibabel image or path of a "
            "file, or the path of a folder"
        )
    named = {_modality(str(key), modalities, by): value for key, value in given.items()}
    if len(named) < len(given) or not named:
        raise UserError(f"a case came as images of {_listed(given)}; give each of {', '.join(modalities)} once")
    paths = [Path(os.fspath(value)) for value in named.values() if is_folder(value)]
    case = name or (paths[0].absolute().parent.name if paths else unnamed)
    return CaseFiles(case, {key: _image(key, value, placing) for key, value in named.items()})


def _modality(key: str, modalities: Sequence[str], by: str) -> str:
    for found in (key, canonical_name(key)):
        if found in modalities:
            return found
    raise UserError(f"{key!r} is no modality of {by}, which reads {', '.join(modalities)}; name the images so")


def _image(name: str, given: Any, placing: Placing) -> Image:
    """Returns an image of a case; an array keeps its memory."""
    if is_folder(given):
        path = Path(os.fspath(given))
        if path.is_dir():
            raise UserError(f"{name} is the folder {path}; give the file of the image")
        return Image(path)
    image: Any = given if isinstance(given, SpatialImage) else placing.image(_array(name, given), name)
    return HeldImage(Path(name), volume=volume_in_memory(image, name, as_it_lies=True))


def _array(name: str, given: Any) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise UserError(
            f"{name} came as rows of different lengths; give a volume of numbers with three axes"
        ) from error
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise UserError(
            f"{name} is {'an array' if array.ndim else type(given).__name__} of shape {array.shape} and type "
            f"{array.dtype}; give a volume of numbers with three axes, a slice with a third axis of length 1"
        )
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array.astype(np.float32) if array.dtype.name in _FLOATS else array


def _listed(given: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, given)) or "nothing"
