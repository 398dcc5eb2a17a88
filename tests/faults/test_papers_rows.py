"""A row of a paper that is offered and cannot run.

`tests/test_rows_open.py` opens the data of all others.
"""

import numpy as np
import pytest

from configs import hinet, hyperfusion
from tests.faults.catalogue import given, table
from tests.made_cases import MODALITIES, ellipsoid, save_volume, write_case, write_isles
from tests.runs import run_of
from tests.true_sizes import write_stroke


def _first_batch(config, folder, phase):
    config.data.cache = str(folder / "cache")
    config.loader.threads = config.loader.prefetch = 1
    return next(run_of(config, folder, new=False).phase(phase).stream(0))


@pytest.fixture(scope="module")
def strokes(tmp_path_factory):
    """Two cases of 256 x 256 x 32 voxels, of which every slice shows the brain and few a lesion."""
    root = tmp_path_factory.mktemp("strokes") / "root"
    write_stroke(root)
    return root


@table(
    "row",
    *(
        (f"`hyperfusion.py:row={row},data=stroke`: slices of the brain without a lesion", "left out of training", row)
        for row in ("full_2d", "baseline_2d", "focal_2d")
    ),
)
def test_networks_of_slices_train_on_those_with_a_lesion(strokes, row, tmp_path):
    config = hyperfusion.get_config(f"paper,row={row},data=stroke")
    config.data.root = str(strokes)
    batch = _first_batch(config, strokes.parent, "segmentation")
    assert batch["label"].shape == (10, 9, 9)
    assert batch["label"].any((1, 2)).all()


@given("the same with a lesion of three voxels, in one slice of a case", "that slice trains")
def test_a_lesion_in_one_slice_is_found(tmp_path):
    brain, lesion = ellipsoid((32, 32, 8), (14, 14, 5)), np.zeros((32, 32, 8), np.uint8)
    lesion[14:17, 15, 2] = 1
    image = brain * np.arange(100, 108, dtype=np.int16)
    for name in ("a", "b"):
        images = dict.fromkeys(("t2", "dwi_b1000", "dwi_b0"), image)
        write_case(tmp_path / "root", name, {**images, "lesion": lesion})
    config = hyperfusion.get_config("tiny,row=full_2d,data=stroke")
    config.data.root = str(tmp_path / "root")
    assert _first_batch(config, tmp_path, "segmentation")["label"].sum() >= 1


def _flat_head(shape):
    return (ellipsoid(shape, np.array(shape) * [0.4, 0.45, 0.5]) * np.arange(100, 100 + shape[2])).astype(np.int16)


@table(
    "variant,shape",
    ("`hinet.py:paper,row=mmsyns`, pictures of 240 x 240", "whole window of 180 rows and 160 columns", "", (240, 240)),
    ("the same with `data=t1ce`", "the same window", "t1ce", (240, 240)),
    ("the same of volumes of 200 x 201 voxels", "the same window", "", (200, 201)),
    ("the same with `data=isles`, 230 x 230", "the same window", "isles", (230, 230)),
)
def test_whole_pictures_have_the_sides_of_the_window(variant, shape, tmp_path):
    for number in (1, 2):
        image = _flat_head((*shape, 5))
        if variant == "isles":
            for kind in ("MR_T1", "MR_T2", "MR_DWI", "MR_Flair"):
                write_isles(tmp_path / "root" / str(number), kind, number, image)
        else:
            for name in MODALITIES:
                save_volume(tmp_path / "root" / f"c{number}" / f"c{number}_{name}.nii", image)
    config = hinet.get_config(f"paper,row=mmsyns,data={variant}" if variant else "paper,row=mmsyns")
    config.data.root = str(tmp_path / "root")
    batch = _first_batch(config, tmp_path, "synthesis")
    assert batch["image"].shape == (16, 180, 160, 4)
    # The head is 0.8 * side wide and 0.9 * side long, cut where the window ends.
    shown = batch["image"].any((0, 3))
    assert shown.any(1).sum() > shown.any(0).sum()
