"""Registered pictures lie in other folders than their modalities are called, or in none.

What is read is what the names say; a choice is never made in silence.
"""

from pathlib import Path

import numpy as np

from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.sources.pairs2d import find_pairs
from jaxfuse.io.png import write_png
from tests.data.opening import quiet
from tests.data.test_dataset_2d import pairs
from tests.faults.catalogue import given, table
from tests.refusals import refused

LEVELS = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)


def scene(folder: Path, *places: str) -> Path:
    for place in places:
        write_png(folder / f"{place}.png", LEVELS)
    return folder


@table(
    "places, modalities, told",
    (
        "pictures of two kinds, of which a third is asked for",
        "refused",
        ("t1/a", "t2/a"),
        ("t1", "flair"),
        "holds no folders T1 and FLAIR; give the folder that does",
    ),
    (
        "MRI with PET, asked for as MRI with CT",
        "refused",
        ("PET-MRI/train/MRI/a", "PET-MRI/train/PET/a"),
        ("mri", "ct"),
        "holds no folders MRI and CT, nor MRI_CT or CT-MRI",
    ),
    (
        "two folders that are both of visible light",
        "refused",
        ("vi/a", "visible/a", "ir/a"),
        ("vis", "ir"),
        "holds vi and visible, both for vis; keep one of them",
    ),
    (
        "a picture that one of three folders lacks",
        "refused",
        ("t1/a", "t2/a", "flair/a", "t1/b", "t2/b"),
        ("t1", "t2", "flair"),
        "pair b: no flair image",
    ),
    ("pictures of five kinds", "refused", ("t1/a",), ("a", "b", "c", "d", "e"), "name 2 to 4 different ones"),
)
def test_folders_that_do_not_fit_are_told(tmp_path, places, modalities, told):
    refused(told, find_pairs, scene(tmp_path, *places), modalities)


@given("names of folders in small letters, or `infrared` for `ir`", "read")
def test_folders_are_known_by_their_usual_names(tmp_path):
    folder = scene(tmp_path, "train/Visible/a", "train/infrared/a", "test/VI/b", "test/IR/b")
    assert [(one.id, one.side) for one in find_pairs(folder, ("ir", "vis"))] == [("a", ""), ("b", "test")]


@given("a training on visible light and infrared without a folder of them", "refused: there are no made ones")
def test_scenes_are_not_made_up(tmp_path):
    told = "made pairs of mri and one of ct, pet, spect alone, not of vis and ir; set data.root"
    refused(told, open_dataset, pairs(tmp_path, modalities=("vis", "ir")), quiet, labels_required=False)
