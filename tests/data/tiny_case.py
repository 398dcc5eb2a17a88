"""A case of 8 x 9 x 10 voxels in two modalities, in memory and on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.labels import label_scheme
from tests.made_cases import case_files, channels_of

SCHEME = label_scheme("brats")
SHAPE = (8, 9, 10)
BOX = (slice(2, 6), slice(3, 5), slice(1, 9))


def intensities(seed: int = 0) -> np.ndarray:
    """Two modalities, zero outside BOX; within it, modality 0 misses one voxel that modality 1 has."""
    image = np.zeros((*SHAPE, 2), np.float32)
    image[BOX] = np.random.default_rng(seed).uniform(50, 150, (4, 2, 8, 2))
    image[2, 3, 1] = [0, 70]
    image[3, 4, 5] = 0
    return image


def class_map() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3, 3, 3:6] = [1, 2, 3]
    label[4, 4, 4] = 2
    return label


def case_in_memory(**changes) -> Case:
    case = Case("c", ("t1", "flair"), channels_of(intensities()), class_map(), np.diag([1.0, 1, 2, 1]), (1.0, 1.0, 2.0))
    return replace(case, **changes)


def files_on_disk(folder: Path, name: str = "c", seed: int = 0) -> CaseFiles:
    image, label = intensities(seed), np.choose(class_map(), [0, 1, 2, 4]).astype(np.uint8)
    arrays = {"t1": image[..., 0], "flair": image[..., 1], "seg": label}
    return case_files(folder, name, arrays, group="HGG", spacing_mm=(1, 1, 2))
