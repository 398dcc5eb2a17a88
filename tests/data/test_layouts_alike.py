"""Arrays that the same heads give in every layout."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import encode_label
from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.labels import label_scheme
from tests.made_cases import MODALITIES, write_case
from tests.made_layouts import BRATS, coded, made_case, write_bids, write_datalist, write_decathlon, write_nnunet

ASKED = ("t2", "t1ce", "t1", "flair")
CASES = {"sub-1": made_case(0), "sub-2": made_case(1)}


def write_folders(root: Path) -> Path:
    for name, arrays in CASES.items():
        write_case(root, name, {**arrays, "seg": coded(arrays, BRATS)})
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "generic": write_folders,
    "nnunet": lambda root: write_nnunet(root, CASES),
    "decathlon": lambda root: write_decathlon(root, CASES),
    "bids": lambda root: write_bids(root, CASES),
    "datalist": lambda root: write_datalist(root, CASES),
}


@pytest.mark.slow
def test_a_real_case_is_the_same_in_every_layout(shared_data, tmp_path):
    folder = shared_data / "tcga_lgg_brats" / "TCGA-FG-6692"
    if not folder.is_dir():
        pytest.skip(f"the real sample {folder} is not here")
    given = {name: nib.load(folder / f"{folder.name}_{name}.nii.gz") for name in (*MODALITIES, "seg")}
    arrays = {name: np.asarray(image.dataobj) for name, image in given.items()}
    arrays["seg"] = encode_label(arrays["seg"].astype(np.int32), label_scheme("brats"))
    _, (expected,) = prepared_of(folder.parent, tmp_path / "cache")
    writers = {"nnunet": write_nnunet, "decathlon": write_decathlon, "bids": write_bids, "datalist": write_datalist}
    for layout, write in writers.items():
        root = write(tmp_path / layout, {"sub-1": arrays})
        for path in (tmp_path / layout).rglob("*.nii*"):
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.array(image.dataobj), given["t1"].affine), path)
        told, (found,) = prepared_of(root, tmp_path / "cache")
        assert told == layout
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.label, expected.label)


def prepared_of(root: Path, cache: Path):
    there = volume_root(root, source="brats")
    files = there.find(ASKED, labels_required=True)
    return there.layout, prepare(files, ASKED, label_scheme(there.scheme), cache=cache)


@pytest.mark.parametrize("layout", list(WRITERS)[1:])
def test_arrays_are_those_of_folders_of_cases(layout, tmp_path):
    _, expected = prepared_of(write_folders(tmp_path / "folders"), tmp_path / "cache")
    told, found = prepared_of(WRITERS[layout](tmp_path / "set"), tmp_path / "cache")
    assert (told, len(found)) == (layout, len(expected))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
        assert set(np.unique(one.label)) == {0, 1, 2, 3}
        assert one.facts.affine == other.facts.affine
