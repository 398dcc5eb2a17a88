"""`python -m jaxfuse.predict` on subjects of iSeg, by networks of volumes and of slices that were never trained."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs import cmff
from jaxfuse import predict
from jaxfuse.data.phantom.infant import write_infant_phantoms
from jaxfuse.io.nifti import geometry_mismatch, read_volume
from jaxfuse.recipes import volume_data
from tests.commands import call_here
from tests.untrained_run import labeling_run, write_untrained_run

GRID = {"shape": (32, 36, 28), "spacing_mm": 4.6}
BOTH = ("t1", "t2")


def volumes_run(folder: Path) -> Path:
    config = cmff.get_config("tiny,row=random")
    config.pairs, config.data = BOTH, volume_data(source="iseg", modalities=BOTH, cases=2, **GRID)
    config.network.unet.base = config.network.unet.levels = 2
    config.fusion.patch, config.data.cache = (32, 32, 32), str(folder / "cache")
    return write_untrained_run(folder / "volumes", config, "fusion", train={"subject-1": "k"}, scheme_name="iseg")


def slices_run(folder: Path, axis: str) -> Path:
    return labeling_run(folder / axis, BOTH, "iseg_slices", scheme_name="iseg", axis=axis)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("iseg") / "set"
    write_infant_phantoms(root, cases=1, seed=0, **GRID)
    return root


@pytest.mark.parametrize("make", [volumes_run, lambda folder: slices_run(folder, "coronal")], ids=["volumes", "slices"])
def test_label_maps_have_the_values_and_the_grid_of_iseg(make, subjects, tmp_path):
    call_here(predict, workdir=make(tmp_path), input=subjects, output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["subject-1.nii.gz"]
    made, given = read_volume(tmp_path / "out" / "subject-1.nii.gz"), read_volume(subjects / "subject-1-T1.hdr")
    assert not geometry_mismatch(made, given)
    stored = nib.load(made.path)
    assert (stored.shape, stored.get_data_dtype()) == (GRID["shape"], np.uint8)
    # No orientation is stated, as by the pair: every program takes both alike.
    assert (made.oriented, stored.header["qform_code"], stored.header["sform_code"]) == (False, 0, 0)
    np.testing.assert_allclose(stored.affine, nib.load(given.path).affine, rtol=1e-6)
    np.testing.assert_allclose(stored.header.get_zooms(), 4.6, rtol=1e-6)
    values = set(np.unique(made.array))
    assert values <= {0, 10, 150, 250}
    assert len(values) > 2
    assert not made.array[given.array == 0].any()


def test_each_network_of_slices_sees_its_own_axis(subjects, tmp_path):
    """Weights that are equal answer otherwise along another axis, and views are averaged like any members."""
    answers = {}
    runs = {axis: slices_run(tmp_path, axis) for axis in ("coronal", "sagittal")}
    for name, chosen in ({axis: [run] for axis, run in runs.items()} | {"both": list(runs.values())}).items():
        call_here(predict, *chosen[1:], workdir=chosen[0], input=subjects, output=tmp_path / "out" / name)
        answers[name] = read_volume(tmp_path / "out" / name / "subject-1.nii.gz").array
    agreed = answers["coronal"] == answers["sagittal"]
    assert not agreed.all()
    np.testing.assert_array_equal(answers["both"][agreed], answers["coronal"][agreed])
