"""The BraTS layouts on folders of empty files: only names count here."""

from pathlib import Path

import pytest

from jaxfuse.data.sources.brats import LAYOUTS, SOURCE, survey
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
    ("brats2023", "ASNR-MICCAI-BraTS2023-SSA-Challenge-TrainingData_V2", "BraTS-SSA-00002-000", NEW, ".nii.gz"),
    ("brats2023", "MICCAI2024-BraTS-GoAT-TrainingData-With-GroundTruth", "BraTS-GoAT-00000", NEW, ".nii.gz"),
    ("brats2024", "BraTS2024-BraTS-GLI-TrainingData/training_data1_v2", "BraTS-GLI-02060-100", NEW, ".nii.gz"),
    ("brats2024_ped", "BraTS-PEDs2024_Training", "BraTS-PED-00255-000", NEW, ".nii.gz"),
    ("generic", "somewhere", "patient19", OLD, ".nii.gz"),
    ("generic2023", "somewhere", "patient19", NEW, ".nii.gz"),
]


def make_case(parent: Path, name: str, suffixes: tuple[str, ...] = OLD, extension: str = ".nii.gz") -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    for suffix in suffixes:
        (folder / f"{name}{suffix}{extension}").touch()
    return folder


def found(root: Path | str, modalities: tuple[str, ...] = FOUR, *, labels_required: bool = True, **options):
    return SOURCE.find(root, modalities, labels_required=labels_required, **options)


@pytest.mark.parametrize(("layout", "outer", "name", "suffixes", "extension"), PUBLISHED)
def test_published_folders_are_found_from_every_level(tmp_path, layout, outer, name, suffixes, extension):
    folder = make_case(tmp_path / outer, name, suffixes, extension)
    for level in (folder, *folder.parents):
        assert SOURCE.detect(level) == layout
        (case,) = found(level)
        assert (case.id, case.label) == (name, folder / f"{name}{suffixes[-1]}{extension}")
        assert case.group == (folder.parent.name if folder.parent.name in ("HGG", "LGG") else "")
        if layout == "brats2023":
            ends = {m: one.path.name.removeprefix(f"{name}-") for m, one in case.images.items()}
            assert ends == {"t1": "t1n.nii.gz", "t1ce": "t1c.nii.gz", "t2": "t2w.nii.gz", "flair": "t2f.nii.gz"}
        if level == tmp_path:
            break


def test_the_year_names_the_label_scheme():
    assert {name: layout.scheme for name, layout in LAYOUTS.items()} == {
        **{f"brats20{y}": "brats" for y in (17, 18, 19, 20, 21)},
        "brats2023": "brats2023",
        "brats2024": "brats2024",
        "brats2024_ped": "brats2024_ped",
        "brats2024_men_rt": "brats2024_men_rt",
        "generic": "brats",
        "generic2023": "brats2023",
    }


def test_the_stray_mask_counts_in_2020_only(tmp_path):
    folder = make_case(tmp_path / "a", "BraTS20_Training_355", OLD[:-1], ".nii")
    other = make_case(tmp_path / "b", "BraTS2021_00001", OLD[:-1])
    for one in (folder, other):
        (one / "W39_1998.09.19_Segm.nii").touch()
    assert found(tmp_path / "a")[0].label == folder / "W39_1998.09.19_Segm.nii"
    assert found(tmp_path / "b", labels_required=False)[0].label is None


def test_cases_are_sorted_by_id_across_grades(tmp_path):
    expected = [("Brats18_A_1", "LGG"), ("Brats18_B_1", "HGG"), ("Brats18_C_1", "HGG")]
    for name, grade in expected:
        make_case(tmp_path / grade, name)
    assert [(case.id, case.group) for case in found(tmp_path)] == expected


def test_grades_come_from_the_name_mapping(tmp_path):
    for number in ("001", "002", "003"):
        make_case(tmp_path, f"BraTS20_Training_{number}")
    rows = "HGG,NA,BraTS20_Training_001\nLGG,NA,BraTS20_Training_002\n"
    (tmp_path / "name_mapping.csv").write_text(f"Grade,BraTS_2017_subject_ID,BraTS_2020_subject_ID\n{rows}")
    assert [case.group for case in found(tmp_path)] == ["HGG", "LGG", ""]
    (tmp_path / "name_mapping.csv").write_text("grade,id\nHGG,BraTS20_Training_001\n")
    refused("BraTS_2020_subject_ID", found, tmp_path)


def test_only_requested_modalities_and_labels_are_required(tmp_path):
    make_case(tmp_path / "a", "p1", ("_t1ce", "_flair", "_seg"))
    (case,) = found(tmp_path / "a", ("t1ce", "flair"))
    assert tuple(case.images) == ("t1ce", "flair")
    refused(r"case p1 has no t1 image: p1_t1\.nii\.gz", found, tmp_path / "a")
    make_case(tmp_path / "b", "p1", OLD[:-1])
    assert found(tmp_path / "b", labels_required=False)[0].label is None
    refused("case p1 has no label file", found, tmp_path / "b")


def test_a_folder_with_its_label_alone_is_a_case(tmp_path):
    make_case(tmp_path, "p1", ("_seg",))
    (one,) = survey(tmp_path, ())
    assert (one.id, one.images, one.missing, one.label) == ("p1", {}, {}, tmp_path / "p1" / "p1_seg.nii.gz")
    refused("case p1 has no t1 image", found, tmp_path)
    refused("no modality was asked for; name at least one of t1, t1ce, t2, flair", found, tmp_path, ())


def test_a_year_case_without_any_file_is_not_passed_over(tmp_path):
    make_case(tmp_path, "BraTS2021_00000")
    make_case(tmp_path, "BraTS2021_00001", ())
    refused("BraTS2021_00001 has no t1 image", found, tmp_path, labels_required=False)


def test_empty_missing_and_mixed_roots_are_refused(tmp_path):
    refused("no case lies under", found, tmp_path)
    refused("is not a folder", found, tmp_path / "none")
    make_case(tmp_path / "a", "Brats18_B_1")
    make_case(tmp_path / "b", "BraTS2021_00000")
    refused("brats2018, brats2021", found, tmp_path)
    assert [case.id for case in found(tmp_path, layout="brats2021")] == ["BraTS2021_00000"]
    make_case(tmp_path / "b" / "again", "BraTS2021_00000")
    refused("lies twice", found, tmp_path / "b")


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    folder = make_case(tmp_path, "p1")
    refused("choose from t1, t1ce, t2, flair", found, tmp_path, ("t1", "pd"))
    refused("layout 'brats2016' is not known", found, tmp_path, layout="brats2016")
    refused("no case of layout brats2018", found, tmp_path, layout="brats2018")
    monkeypatch.chdir(folder)
    assert found(".")[0].id == "p1"
