"""Volumes inside a page, to scroll through: cropped, of 8 bits, and packed."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from jaxfuse.report.pictured import Pictured
from jaxfuse.report.planes import VIEWS, bounding_box, center_of

VOLUMES_BYTES = 6_000_000  # of all volumes of a page
# Gray levels and voxels to a side of one that stands for them, from the finest to the smallest.
_FORMS = ((256, 1), (64, 1), (32, 1), (64, 2), (64, 3), (32, 4))


@dataclass(frozen=True)
class Sliced:
    """A case as the script of a page reads it.

    Attributes:
        document: its volumes and their geometry.
        note: what was lost of its image for want of room, in words; may be empty.
    """

    document: dict[str, Any]
    note: str

    @property
    def size(self) -> int:
        """Bytes of the volumes as they stand in the page."""
        image = self.document["image"]
        return sum(len(layer["data"]) for layer in self.document["layers"]) + (len(image["data"]) if image else 0)


def sliced(case: str, shown: Pictured, limit: int) -> Sliced | None:
    """Packs a case into at most `limit` bytes, if need be with a coarser image or none; None if labels need more."""
    box = bounding_box(shown.shown)
    layers = [{"name": name, "data": _packed(labels[box])} for name, labels in _maps(shown)]
    room = limit - sum(len(layer["data"]) for layer in layers)
    if room < 0:
        return None
    image, note = (None, "") if shown.image is None else _image(shown, box, room)
    center = center_of([shown.truth, *shown.predictions.values()], shown.shown)
    document = {
        "case": case,
        "shape": [side.stop - side.start for side in box],
        "offset": [side.start for side in box],
        "sides": list(shown.truth.shape),
        "spacing": [float(mm) for mm in shown.spacing_mm],
        "start": [place - side.start for place, side in zip(center, box, strict=True)],
        "views": [{"name": view.name, "axis": view.axis, "letters": view.letters} for view in VIEWS],
        "image": image,
        "layers": layers,
    }
    return Sliced(document, note)


def _maps(shown: Pictured) -> list[tuple[str, np.ndarray]]:
    return [("", shown.truth), *shown.predictions.items()]


def _image(shown: Pictured, box: Sequence[slice], room: int) -> tuple[dict[str, Any] | None, str]:
    """The image in the finest form that has room, and in words what that form lacks."""
    volume = np.nan_to_num(np.asarray(shown.image, np.float32), posinf=0, neginf=0)
    inside = volume[volume != 0]
    low, high = np.quantile(inside, (0.005, 0.995)) if inside.size else (0.0, 1.0)
    gray = np.where(volume != 0, (volume - low) / max(high - low, 1e-12), 0.0).clip(0, 1)[tuple(box)]
    for levels, step in _FORMS:
        coarse = _blocks(gray, step)
        packed = _packed(np.minimum(coarse * levels, levels - 1).astype(np.uint8))
        if len(packed) <= room:
            told = [f"{levels} gray levels"] if levels < 256 else []
            told += [f"means of {step} x {step} x {step} voxels"] if step > 1 else []
            return {"data": packed, "levels": levels, "step": step, "shape": list(coarse.shape)}, " and ".join(told)
    return None, "no image"


def _blocks(volume: np.ndarray, step: int) -> np.ndarray:
    """Means over blocks of so many voxels to a side; at the far ends over what is there, repeated."""
    if step == 1:
        return volume
    padded = np.pad(volume, [(0, -side % step) for side in volume.shape], mode="edge")
    d, h, w = (side // step for side in padded.shape)
    return padded.reshape(d, step, h, step, w, step).mean(axis=(1, 3, 5))


def _packed(volume: Shaped[np.ndarray, "d h w"]) -> str:
    """Bytes in C order as a deflated stream in base64."""
    content: UInt8[np.ndarray, "d h w"] = np.ascontiguousarray(volume, np.uint8)
    return base64.b64encode(zlib.compress(content.tobytes(), 6)).decode("ascii")
