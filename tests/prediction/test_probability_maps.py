"""Maps of class probabilities as files, and their entropy."""

import math

import numpy as np

from jaxfuse.data.cases import Image
from jaxfuse.io.nifti import read_channels, read_volume
from jaxfuse.prediction.probability_maps import ENTROPY, PROBABILITIES, entropy_nats, write_maps
from tests.made_cases import save_volume


def test_entropy_is_that_of_each_voxel_in_nats():
    probs = np.random.default_rng(0).dirichlet([0.3, 1, 2], (3, 4, 2)).astype(np.float32)
    probs[0, 0] = (1, 0, 0)
    probs[0, 1] = 1 / 3
    found = entropy_nats(probs)
    assert (found.dtype, found.shape) == (np.float32, (3, 4, 2))
    expected = [-sum(p * math.log(p) for p in voxel if p > 0) for voxel in probs.reshape(-1, 3).tolist()]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
    np.testing.assert_array_equal(found[0, 0], 0)
    np.testing.assert_allclose(found[0, 1], math.log(3), rtol=1e-6)


def test_maps_lie_on_the_grid_of_the_image_each_where_it_is_asked_for(tmp_path):
    like = save_volume(tmp_path / "like.nii.gz", np.zeros((4, 3, 5), np.int16), axes="LPS")
    probs = np.random.default_rng(0).dirichlet([1, 1], (4, 3, 5)).astype(np.float32)
    paths = {PROBABILITIES: tmp_path / "p" / "a.nii.gz", ENTROPY: tmp_path / "e" / "a.nii.gz"}
    write_maps(paths, probs, like=Image(like))
    first, second = read_channels(paths[PROBABILITIES], (0, 1))
    np.testing.assert_array_equal(np.stack([first.array, second.array], -1), probs)
    np.testing.assert_array_equal(read_volume(paths[ENTROPY]).array, entropy_nats(probs))
    np.testing.assert_array_equal(first.affine, read_volume(like).affine)
    assert read_volume(paths[ENTROPY]).header["descrip"].item() == b"entropy in nats"
    write_maps({ENTROPY: tmp_path / "only" / "a.nii.gz"}, probs, like=Image(like))
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["e", "like.nii.gz", "only", "p"]
