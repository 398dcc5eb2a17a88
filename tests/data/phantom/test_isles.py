"""Phantom strokes in T1, T2, DWI and FLAIR: what they show, files and their bytes."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.phantom.isles import MODALITIES, make_isles, write_isles_phantoms
from jaxfuse.data.sources.volumes import VOLUMES
from jaxfuse.data.verify import verify

SMALL = {"shape": (36, 40, 30), "spacing_mm": 4.6}


@pytest.fixture(scope="module")
def case():
    return make_isles(0, 0, **SMALL)


def test_images_and_label_share_the_brain(case):
    images, label = case
    assert tuple(images) == MODALITIES
    brain = images["t1"] != 0
    assert 0.15 < brain.mean() < 0.5
    for image in images.values():
        np.testing.assert_array_equal(image != 0, brain)
        assert image[brain].min() >= 1
    assert (label.dtype, set(np.unique(label))) == (np.uint8, {0, 1})
    assert not label[~brain].any()
    assert 5 <= label.sum() <= 0.1 * brain.sum()


def test_fluid_is_bright_on_t2_alone_and_the_infarct_on_dwi_and_flair(case):
    images, label = case
    brain = images["t1"] != 0
    z = {name: (image - image[brain].mean()) / image[brain].std() for name, image in images.items()}
    fluid = brain & (images["t2"] > np.percentile(images["t2"][brain], 95))
    assert all(z[name][fluid].mean() < -0.5 for name in ("t1", "dwi", "flair"))
    assert z["dwi"][label == 1].mean() > 2
    assert z["flair"][label == 1].mean() > 1
    assert abs(z["t1"][label == 1].mean()) < 1


def test_files_lie_as_in_the_challenge(case, tmp_path):
    root = tmp_path / "set"
    folders = write_isles_phantoms(root, cases=2, seed=0, **SMALL)
    assert folders == [root / "training" / "1", root / "training" / "2"]
    kinds = ("MR_T1", "MR_T2", "MR_DWI", "MR_Flair", "OT")
    names = [f"VSD.Brain.XX.O.{kind}.{70001 + i}" for i, kind in enumerate(kinds)]
    for name, array in zip(names, (*case[0].values(), case[1]), strict=True):
        volume = nib.load(folders[0] / name / f"{name}.nii")
        np.testing.assert_array_equal(np.asarray(volume.dataobj), np.rint(array))
        assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
        np.testing.assert_allclose(volume.header.get_zooms(), (4.6, 4.6, 4.6), rtol=1e-6)
    found = VOLUMES["isles"].find(root, MODALITIES, labels_required=True)
    assert [one.id for one in found] == ["training_1", "training_2"]
    verdict = verify(root)
    assert (verdict.layout, verdict.problems) == ("isles2015", ())
