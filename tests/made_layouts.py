"""Cases in every layout that describes itself: how data sets of this field are kept on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.made_cases import MODALITIES, head, nested_cubes, save_volume

SHAPE = (16, 18, 14)
# Values of label files by class index: background, core, edema, enhancing tumor.
BRATS, DECATHLON = (0, 1, 2, 4), (0, 2, 1, 3)
GLIOMA = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}
Arrays = Mapping[str, np.ndarray]


def made_case(seed: int, shape: Sequence[int] = SHAPE) -> dict[str, np.ndarray]:
    """Four images and `seg`, class indices."""
    center = [side // 2 for side in shape[:2]] + [shape[2] // 2 + seed % 2]
    return head(shape, seed) | {"seg": nested_cubes(shape, {2: 3, 1: 2, 3: 1}, center)}


def coded(arrays: Arrays, values: Sequence[int]) -> np.ndarray:
    """The label of a case in the values of a label file."""
    return np.array(values, np.uint8)[arrays["seg"]]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_nnunet(
    root: Path,
    cases: Mapping[str, Arrays],
    held_out: Mapping[str, Arrays] | None = None,
    *,
    channels: Sequence[str] = MODALITIES,
    values: Sequence[int] = DECATHLON,
    **content: Any,
) -> Path:
    """Writes a raw data set of nnU-Net of version 2; `content` changes entries of its `dataset.json`."""
    for folder, arrays_of in (("imagesTr", cases), ("imagesTs", held_out or {})):
        for name, arrays in arrays_of.items():
            for number, channel in enumerate(channels):
                save_volume(root / folder / f"{name}_{number:04d}.nii.gz", arrays[channel])
    for name, arrays in cases.items():
        save_volume(root / "labelsTr" / f"{name}.nii.gz", coded(arrays, values))
    told = {"channel_names": dict(enumerate(channels)), "labels": GLIOMA, "numTraining": len(cases)}
    write_json(root / "dataset.json", {**told, "file_ending": ".nii.gz", **content})
    return root


def write_decathlon(
    root: Path,
    cases: Mapping[str, Arrays],
    held_out: Mapping[str, Arrays] | None = None,
    *,
    channels: Sequence[str] = ("flair", "t1", "t1ce", "t2"),
    **content: Any,
) -> Path:
    """Writes a data set of the Decathlon; `content` changes entries of its `dataset.json`."""
    for folder, arrays_of in (("imagesTr", cases), ("imagesTs", held_out or {})):
        for name, arrays in arrays_of.items():
            stack = (
                np.stack([arrays[channel] for channel in channels], -1) if len(channels) > 1 else arrays[channels[0]]
            )
            save_volume(root / folder / f"{name}.nii.gz", stack)
    for name, arrays in cases.items():
        save_volume(root / "labelsTr" / f"{name}.nii.gz", coded(arrays, DECATHLON))
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in cases]
    published = {"flair": "FLAIR", "t1": "T1w", "t1ce": "t1gd", "t2": "T2w"}
    told = {
        "modality": {str(number): published[channel] for number, channel in enumerate(channels)},
        "labels": {str(value): name for name, value in GLIOMA.items()},
        "numTraining": len(cases),
        "training": listed,
        "test": [f"./imagesTs/{name}.nii.gz" for name in held_out or {}],
    }
    write_json(root / "dataset.json", {**told, **content})
    return root
