"""The BraTS layouts on folders of empty files: only names count here."""

from pathlib import Path

import pytest

from jaxfuse.data.sources.brats import LAYOUTS, SOURCE, survey
from jaxfuse.errors import UserError
from tests.refusals import refused

FOUR = ("t1", "t1ce", "t2", "flair")
OLD = ("_flair", "_t1", "_t1ce", "_t2", "_seg")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")

# As published: layout, outer folder with grade, case, suffixes, extension.
PUBLISHED = [
    ("brats2017", "Brats17TrainingData/HGG", "Brats17_TCIA_607_1", OLD, ".nii.gz"),
    ("brats2018", "MICCAI_BraTS_2018_Data_Training/LGG", "Brats18_2013_0_1", OLD, ".nii.gz"),
    ("brats2019", "MICCAI_BraTS_2019_Data_Training/HGG", "BraTS19_CBICA_AAB_1", OLD, ".nii"),
    ("brats2020", "MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001", OLD, ".nii"),
    ("brats2021", ".", "BraTS2021_00000", OLD, ".nii.gz"),
    ("brats2023", "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "BraTS-GLI-00000-000", NEW, ".nii.gz"),
    ("generic", "somewhere", "patient19", OLD, ".nii.gz"),
]


def make_case(parent: Path, name: str, suffixes: tuple[str, ...] = OLD, extension: str = ".nii.gz") -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    for suffix in suffixes:
        (folder / f"{name}{suffix}{extension}").touch()
    return folder


@pytest.mark.parametrize(("layout", "outer", "name", "suffixes", "extension"), PUBLISHED)
def test_published_folders_are_found_from_every_level(tmp_path, layout, outer, name, suffixes, extension):
    folder = make_case(tmp_path / outer, name, suffixes, extension)
    level = folder
    while True:
        assert SOURCE.detect(level) == layout
        (case,) = SOURCE.find(level, FOUR, labels_required=True)
        assert case.id == name
        assert case.label is not None
        assert case.label.name == f"{name}{suffixes[-1]}{extension}"
        assert case.group == (folder.parent.name if folder.parent.name in ("HGG", "LGG") else "")
        if level == tmp_path:
            break
        level = level.parent


def test_canonical_names_of_2023(tmp_path):
    make_case(tmp_path, "BraTS-GLI-00000-000", NEW)
    (case,) = SOURCE.find(tmp_path, FOUR, labels_required=True)
    ends = {m: one.path.name.removeprefix("BraTS-GLI-00000-000-") for m, one in case.images.items()}
    assert ends == {"t1": "t1n.nii.gz", "t1ce": "t1c.nii.gz", "t2": "t2w.nii.gz", "flair": "t2f.nii.gz"}


def test_the_year_names_the_label_scheme():
    assert {name: layout.scheme for name, layout in LAYOUTS.items()} == {
        **{f"brats20{y}": "brats" for y in (17, 18, 19, 20, 21)},
        "brats2023": "brats2023",
        "generic": "brats",
    }


def test_mask_of_case_355_of_2020(tmp_path):
    folder = make_case(tmp_path, "BraTS20_Training_355", OLD[:-1], ".nii")
    (folder / "W39_1998.09.19_Segm.nii").touch()
    (case,) = SOURCE.find(tmp_path, FOUR, labels_required=True)
    assert case.label == folder / "W39_1998.09.19_Segm.nii"


def test_the_stray_mask_counts_in_2020_only(tmp_path):
    folder = make_case(tmp_path, "BraTS2021_00001", OLD[:-1])
    (folder / "W39_1998.09.19_Segm.nii").touch()
    assert SOURCE.find(tmp_path, FOUR, labels_required=False)[0].label is None


def test_cases_are_sorted_by_id_across_grades(tmp_path):
    make_case(tmp_path / "HGG", "Brats18_B_1")
    make_case(tmp_path / "LGG", "Brats18_A_1")
    make_case(tmp_path / "HGG", "Brats18_C_1")
    cases = SOURCE.find(tmp_path, FOUR, labels_required=True)
    assert [(c.id, c.group) for c in cases] == [("Brats18_A_1", "LGG"), ("Brats18_B_1", "HGG"), ("Brats18_C_1", "HGG")]


def test_grades_come_from_the_name_mapping(tmp_path):
    for number in ("001", "002", "003"):
        make_case(tmp_path, f"BraTS20_Training_{number}")
    (tmp_path / "name_mapping.csv").write_text(
        "Grade,BraTS_2017_subject_ID,BraTS_2020_subject_ID\nHGG,NA,BraTS20_Training_001\nLGG,NA,BraTS20_Training_002\n"
    )
    assert [c.group for c in SOURCE.find(tmp_path, FOUR, labels_required=True)] == ["HGG", "LGG", ""]


def test_name_mapping_without_its_columns_is_refused(tmp_path):
    make_case(tmp_path, "BraTS20_Training_001")
    (tmp_path / "name_mapping.csv").write_text("grade,id\nHGG,BraTS20_Training_001\n")
    refused("BraTS_2020_subject_ID", SOURCE.find, tmp_path, FOUR, labels_required=True)


def test_only_requested_modalities_are_required(tmp_path):
    make_case(tmp_path, "p1", ("_t1ce", "_flair", "_seg"))
    (case,) = SOURCE.find(tmp_path, ("t1ce", "flair"), labels_required=True)
    assert tuple(case.images) == ("t1ce", "flair")
    refused(r"case p1 has no t1 image: p1_t1\.nii\.gz", SOURCE.find, tmp_path, FOUR, labels_required=True)


def test_missing_label_is_refused_only_where_labels_are_required(tmp_path):
    make_case(tmp_path, "p1", OLD[:-1])
    assert SOURCE.find(tmp_path, FOUR, labels_required=False)[0].label is None
    refused("case p1 has no label file", SOURCE.find, tmp_path, FOUR, labels_required=True)


def test_a_folder_with_its_label_alone_is_a_case(tmp_path):
    make_case(tmp_path, "p1", ("_seg",))
    (found,) = survey(tmp_path, ())
    assert (found.id, found.images, found.missing) == ("p1", {}, {})
    assert found.label == tmp_path / "p1" / "p1_seg.nii.gz"
    refused("case p1 has no t1 image", SOURCE.find, tmp_path, FOUR, labels_required=True)
    with pytest.raises(UserError, match="no modality was asked for; name at least one of t1, t1ce, t2, flair"):
        SOURCE.find(tmp_path, (), labels_required=True)


def test_a_year_case_without_any_file_is_not_passed_over(tmp_path):
    make_case(tmp_path, "BraTS2021_00000")
    make_case(tmp_path, "BraTS2021_00001", ())
    refused("BraTS2021_00001 has no t1 image", SOURCE.find, tmp_path, FOUR, labels_required=False)


def test_empty_missing_and_mixed_roots_are_refused(tmp_path):
    refused("no case lies under", SOURCE.find, tmp_path, FOUR, labels_required=False)
    refused("is not a folder", SOURCE.find, tmp_path / "none", FOUR, labels_required=False)
    make_case(tmp_path / "a", "Brats18_B_1")
    make_case(tmp_path / "b", "BraTS2021_00000")
    refused("brats2018, brats2021", SOURCE.find, tmp_path, FOUR, labels_required=False)
    assert [c.id for c in SOURCE.find(tmp_path, FOUR, labels_required=False, layout="brats2021")] == ["BraTS2021_00000"]


def test_one_case_in_two_folders_is_refused(tmp_path):
    make_case(tmp_path / "a", "BraTS2021_00000")
    make_case(tmp_path / "b", "BraTS2021_00000")
    refused("lies twice", SOURCE.find, tmp_path, FOUR, labels_required=False)


def test_unknown_names_are_refused(tmp_path):
    make_case(tmp_path, "p1")
    refused("choose from t1, t1ce, t2, flair", SOURCE.find, tmp_path, ("t1", "pd"), labels_required=False)
    refused("layout 'brats2016' is not known", SOURCE.find, tmp_path, FOUR, labels_required=False, layout="brats2016")
    refused("no case of layout brats2018", SOURCE.find, tmp_path, FOUR, labels_required=False, layout="brats2018")


def test_relative_root(tmp_path, monkeypatch):
    folder = make_case(tmp_path, "p1")
    monkeypatch.chdir(folder)
    assert SOURCE.find(".", FOUR, labels_required=True)[0].id == "p1"
