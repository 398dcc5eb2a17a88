"""The experiment on a real head: what is held out is held out, and every block lies where it lay."""

import nibabel as nib
import numpy as np
import pytest

from experiments.hinet_real import run as real
from jaxfuse.io.tables import read_json
from tests.made_cases import write_case


@pytest.mark.parametrize(("first", "last", "slices"), [(19, 138, 182), (0, 59, 60), (3, 40, 50)])
def test_a_third_of_the_brain_is_held_out_and_nobody_sees_what_lies_beside_it(first, last, slices):
    brain = [first <= place <= last for place in range(slices)]
    owner = np.full(slices, "", object)
    for name, block in real.blocks_of(brain).items():
        assert not owner[block].any()
        owner[block] = name
    assert not owner[~np.array(brain)].any()
    held_out = np.flatnonzero(owner == real.HELD_OUT)
    assert len(held_out) == held_out[-1] - held_out[0] + 1
    assert abs(3 * len(held_out) - (last + 1 - first)) <= 2
    unseen = np.flatnonzero(owner[first : last + 1] == "") + first
    gaps = [*range(held_out[0] - 5, held_out[0]), *range(held_out[-1] + 1, held_out[-1] + 6)]
    np.testing.assert_array_equal(unseen, gaps)


def test_blocks_keep_their_voxels_and_their_place_in_the_head(tmp_path):
    case, affine = np.random.default_rng(0), np.diag([-2.0, 2.0, 3.0, 1.0])
    volumes = {name: case.uniform(1, 9, (6, 5, 60)).astype(np.float32) for name in real.MODALITIES}
    write_case(tmp_path / "in", "patient", volumes, affine=affine)
    blocks = real.write_blocks(tmp_path / "in", tmp_path / "out")
    assert read_json(tmp_path / "out" / "split.json") == {"train": ["below", "above"], "val": ["held_out"]}
    for block, slices in blocks.items():
        for name, volume in volumes.items():
            image = nib.load(tmp_path / "out" / "cases" / block / f"{block}_{name}.nii.gz")
            # Written in the order in which volumes are read, from left to right.
            np.testing.assert_array_equal(image.get_fdata(), volume[::-1, :, slices])
            np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], affine @ [5, 0, slices.start, 1])
