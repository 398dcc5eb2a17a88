"""Prepared cases of random voxels, so that a patch tells where, and in which case, it was cut."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.preprocess import prepare
from jaxfuse.labels import label_scheme
from jaxfuse.patches import crop

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

    def files(name, label):
        rng = np.random.default_rng([len(name), *name.encode()])
        paths = {}
        arrays = {m: rng.uniform(50, 150, SHAPE).astype(np.float32) for m in ("t1", "flair")} | {"seg": label}
        for suffix, array in arrays.items():
            if array is not None:
                paths[suffix] = root / f"{name}_{suffix}.nii.gz"
                nib.save(nib.Nifti1Image(array, np.eye(4)), paths[suffix])
        return CaseFiles(name, {m: paths[m] for m in ("t1", "flair")}, paths.get("seg"))

    listed = [files(f"case{i}", _label(TUMOR)) for i in range(4)]
    listed += [files("bare", None), files("healthy", np.zeros(SHAPE, np.uint8))]
    cases = prepare(listed, ("t1", "flair"), label_scheme("brats"), cache=root / "cache")
    return SimpleNamespace(train=cases[:4], bare=cases[4], healthy=cases[5], places=_places, tumor=TUMOR, shape=SHAPE)
