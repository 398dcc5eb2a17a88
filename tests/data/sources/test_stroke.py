"""Folders of stroke cases, and how layouts of all sources are told apart and named."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cases import load_case
from jaxfuse.data.sources.volumes import CUTS, LAYOUTS, VOLUMES, detect_layout, source_of, source_of_layout
from jaxfuse.errors import UserError
from jaxfuse.labels import label_scheme
from tests.made_cases import save_pair, write_case
from tests.refusals import refused

THREE = ("t2", "dwi_b1000", "dwi_b0")
SHAPE = (6, 5, 4)
find = VOLUMES["stroke"].find


def make(root: Path, name: str, suffixes: tuple[str, ...] = (*THREE, "lesion")) -> None:
    label = np.zeros(SHAPE, np.int16)
    label[1, 1, 1:3] = 1
    arrays = {
        suffix: label if suffix in ("lesion", "seg") else np.full(SHAPE, number, np.int16)
        for number, suffix in enumerate(suffixes, start=1)
    }
    write_case(root, name, arrays, spacing_mm=(1, 1, 5))


def test_a_case_is_a_folder_of_four_files(tmp_path):
    make(tmp_path, "b")
    make(tmp_path, "a", THREE)
    first, second = find(tmp_path, THREE, labels_required=False)
    assert (first.id, second.id, first.label) == ("a", "b", None)
    case = load_case(second, THREE, label_scheme("stroke"))
    assert case.image[0, 0, 0].tolist() == [1, 2, 3]
    assert case.spacing_mm == (1, 1, 5)
    assert case.label is not None
    assert case.label.sum() == 2


def test_missing_files_are_named(tmp_path):
    make(tmp_path, "a", ("t2", "dwi_b1000"))
    refused(r"case a has no dwi_b0 image: a_dwi_b0\.nii\.gz is not in", find, tmp_path, THREE, labels_required=False)
    refused("case a has no label file", find, tmp_path, ("t2",), labels_required=True)
    refused("choose from t2, dwi_b1000, dwi_b0", find, tmp_path, ("t1",), labels_required=False)
    with pytest.raises(UserError, match="no modality was asked for; name at least one of t2, dwi_b1000, dwi_b0"):
        find(tmp_path, (), labels_required=False)
    make(tmp_path / "brats", "c", ("t1", "t2"))
    refused("no case of layout stroke lies under", find, tmp_path / "brats", THREE, labels_required=False)


def test_layouts_are_told_from_the_names_on_disk(tmp_path):
    make(tmp_path / "stroke", "a")
    make(tmp_path / "generic", "b", ("t1", "t2", "seg"))
    make(tmp_path / "year", "BraTS2021_00001", ("t1",))
    save_pair(tmp_path / "iseg" / "subject-1-T1.hdr", np.ones(SHAPE, np.int16))
    found = {name: detect_layout(tmp_path / name) for name in ("stroke", "generic", "year", "iseg")}
    assert found == {"stroke": "stroke", "generic": "generic", "year": "brats2021", "iseg": "iseg"}
    refused("holds cases of the layouts brats2021, generic, iseg, stroke", detect_layout, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no case lies under .*, or subject-1-T1.hdr, or CASE/CASE_dwi_b1000.nii.gz"):
        detect_layout(tmp_path / "empty")


def test_every_layout_has_one_source_and_a_known_scheme():
    assert {"brats2018", "brats2023", "generic", "iseg", "stroke"} <= set(LAYOUTS)
    schemes = {layout: source_of_layout(layout).scheme_of(layout) for layout in LAYOUTS}
    assert schemes["brats2023"] == "brats2023"
    assert (schemes["generic"], schemes["iseg"], schemes["stroke"]) == ("brats", "iseg", "stroke")
    assert {label_scheme(name).name for name in schemes.values() if name} == set(filter(None, schemes.values()))
    # Data that describe themselves name their labels.
    assert all(source_of_layout(layout).describe for layout, name in schemes.items() if not name)
    refused("layout 'brats2016' is not known; choose one of brats2017", source_of_layout, "brats2016")
    refused("layout 'brats2018' is not known; choose one of iseg", VOLUMES["iseg"].scheme_of, "brats2018")
    with pytest.raises(UserError, match="layout 'generic' is not known; choose one of stroke"):
        find("anywhere", THREE, labels_required=False, layout="generic")


def test_slices_name_the_volumes_that_they_are_cut_from():
    cuts = {"slices": "brats", "one_slice": "brats"} | {f"{name}_slices": name for name in ("iseg", "stroke", "isles")}
    volumes = {name: name for name in ("brats", "iseg", "stroke", "isles")}
    assert {name: source_of(name).name for name in (*VOLUMES, *CUTS)} == volumes | cuts
    refused("data.source is 'voc', which has no volumes; choose one of brats, iseg", source_of, "voc")


def test_schemes_of_iseg_and_stroke():
    iseg, stroke = label_scheme("iseg"), label_scheme("stroke")
    assert iseg.classes == ("background", "CSF", "GM", "WM")
    assert {value: iseg.decode[index] for value, index in iseg.encode.items()} == {0: 0, 10: 10, 150: 150, 250: 250}
    assert iseg.regions == {"CSF": (1,), "GM": (2,), "WM": (3,)}
    assert iseg.unknown([0, 1, 10, 249]) == [1, 249]
    assert (stroke.encode, stroke.decode, stroke.regions) == ({0: 0, 1: 1}, (0, 1), {"lesion": (1,)})
