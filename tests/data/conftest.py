"""Prepared cases of random voxels, so that a patch tells where, and in which case, it was cut."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxfuse.labels import label_scheme
from jaxfuse.patches import crop
from tests.made_cases import prepared_cases

SHAPE = (12, 10, 9)
# The corners of the tumor, in voxels of the volume; all voxels between are labeled.
TUMOR = ((7, 1, 2), (9, 4, 4))


def _label(tumor):
    label = np.zeros(SHAPE, np.uint8)
    label[tuple(slice(a, b + 1) for a, b in zip(*tumor, strict=True))] = 2
    return label


def _places(case, example):
    """Every start at which the case holds this example's image (and label, if it has one)."""
    image, volume = example["image"], np.asarray(case.image)
    known = np.argwhere(image[..., 0] != 0)[0]
    found = []
    for voxel in np.argwhere(volume[..., 0] == image[..., 0][tuple(known)]):
        start = tuple((voxel - known).tolist())
        if np.array_equal(crop(volume, start, image.shape[:-1]), image):
            assert "label" not in example or np.array_equal(crop(case.label, start, image.shape[:-1]), example["label"])
            found.append(start)
    return found


@pytest.fixture(scope="session")
def random_cases(tmp_path_factory):
    """`train`: four labeled cases; `bare`: one without label; `healthy`: one whose label marks nothing."""
    root = tmp_path_factory.mktemp("random-cases")

    def arrays(name, label):
        rng = np.random.default_rng([len(name), *name.encode()])
        return {m: rng.uniform(50, 150, SHAPE).astype(np.float32) for m in ("t1", "flair")} | {"seg": label}

    labels = {f"case{i}": _label(TUMOR) for i in range(4)} | {"bare": None, "healthy": np.zeros(SHAPE, np.uint8)}
    made = {name: arrays(name, label) for name, label in labels.items()}
    cases = prepared_cases(root, made, label_scheme("brats"))
    return SimpleNamespace(train=cases[:4], bare=cases[4], healthy=cases[5], places=_places, tumor=TUMOR, shape=SHAPE)


@pytest.fixture
def real_brain(shared_data):
    """The path of a modality of a real brain; the test is skipped where there is none."""
    folder = shared_data / "tcga_lgg_brats" / "TCGA-FG-6692"
    if not folder.is_dir():
        pytest.skip(f"the real sample {folder} is not here")
    return lambda modality: folder / f"{folder.name}_{modality}.nii.gz"
