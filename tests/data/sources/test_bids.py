"""Data sets of BIDS: subjects, sessions, runs, contrast agents, labels among derivatives."""

import shutil

import pytest

from jaxfuse.data.sources.volumes import detect_layout, volume_root
from jaxfuse.data.verify import ALL_CASES, verify
from tests.made_layouts import made_case, write_bids, write_json
from tests.refusals import refused

NAMES = ("sub-01_ses-a", "sub-01_ses-b", "sub-02")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("bids") / "ds"
    return write_bids(root, {name: made_case(seed) for seed, name in enumerate(NAMES)})


def test_a_data_set_is_read_from_every_level(published):
    for root, ids in ((published, NAMES), (published.parent, NAMES), (published / "sub-01", NAMES[:2])):
        there = volume_root(root, source="brats")
        assert (there.layout, there.modalities) == ("bids", ("t1", "t1ce", "t2", "flair"))
        files = there.find(("t1ce", "t1"), labels_required=True)
        assert tuple(one.id for one in files) == ids
        assert files[0].images["t1ce"].path.name == "sub-01_ses-a_ce-gadolinium_T1w.nii.gz"
        assert files[0].images["t1"].path.name == "sub-01_ses-a_T1w.nii.gz"
        assert files[0].label == published / "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz"
    whole = volume_root(published)
    assert (whole.scheme, str(whole.place("sub-02", "flair"))) == ("decathlon", "sub-02_FLAIR.nii.gz")
    assert [one.told for one in whole.look(("t1",))] == [{"sex": "F"}, {"sex": "F"}, {"sex": "M"}]


def test_sessions_are_of_one_subject_and_all_is_verified(published):
    verdict = verify(published)
    assert (verdict.subjects, verdict.problems) == ({"sub-01": NAMES[:2], "sub-02": NAMES[2:]}, ())


def test_runs_are_cases_and_an_image_without_run_serves_all(published, tmp_path):
    root = shutil.copytree(published / "sub-02", tmp_path / "ds" / "sub-02")
    for number in (1, 2):
        shutil.copy(root / "anat" / "sub-02_T1w.nii.gz", root / "anat" / f"sub-02_run-{number}_T1w.nii.gz")
    (root / "anat" / "sub-02_T1w.nii.gz").unlink()
    files = volume_root(root.parent).find(("t1", "flair"), labels_required=False)
    assert [one.id for one in files] == ["sub-02_run-1", "sub-02_run-2"]
    assert [one.images["t1"].path.name for one in files] == [f"sub-02_run-{n}_T1w.nii.gz" for n in (1, 2)]
    assert {one.images["flair"].path.name for one in files} == {"sub-02_FLAIR.nii.gz"}


@pytest.mark.parametrize(("entities", "end"), [("acq-fast", "_acq-fast_T1w"), ("acq-", "_T1w"), ("acq-,desc-", "_T1w")])
def test_one_of_two_acquisitions_is_chosen_and_files_alone_of_their_kind_stay(published, tmp_path, entities, end):
    root = shutil.copytree(published / "sub-02", tmp_path / "ds" / "sub-02").parent
    anat = root / "sub-02" / "anat"
    shutil.copy(anat / "sub-02_T1w.nii.gz", anat / "sub-02_acq-fast_T1w.nii.gz")
    shutil.move(anat / "sub-02_FLAIR.nii.gz", anat / "sub-02_acq-space_FLAIR.nii.gz")
    (one,) = volume_root(root, entities=entities).look(("t1", "flair"))
    assert one.images["t1"].path.name == f"sub-02{end}.nii.gz"
    assert one.images["flair"].path.name == "sub-02_acq-space_FLAIR.nii.gz"


def test_what_jaxfuse_made_is_neither_label_nor_data_set(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "ds")
    derivatives = root / "derivatives"
    shutil.copytree(derivatives / "manual", derivatives / "predicted")
    refused("2 files for the label", volume_root(root).look, ("t1",))
    told = {"Name": "labels", "GeneratedBy": [{"Name": "jaxfuse"}]}
    write_json(derivatives / "predicted" / "dataset_description.json", told)
    assert all(one.label.is_relative_to(derivatives / "manual") for one in volume_root(root).look(("t1",)))
    assert volume_root(derivatives).survey(())[0].label.is_relative_to(derivatives / "manual")


def test_masks_of_lesions_are_labels_and_those_of_the_brain_are_none(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "ds")
    anat = root / "sub-02" / "anat"
    for label in root.rglob("*dseg*"):
        label.unlink()
    for name in ("sub-02_desc-brain_mask", "sub-02_label-lesion_mask"):
        shutil.copy(anat / "sub-02_FLAIR.nii.gz", anat / f"{name}.nii.gz")
    there = volume_root(root)
    assert there.scheme == "lesion"
    assert there.find(("t1",), labels_required=False)[2].label == anat / "sub-02_label-lesion_mask.nii.gz"


def test_other_images_keep_their_names_and_need_a_description(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "ds")
    anat = root / "sub-02" / "anat"
    shutil.copy(anat / "sub-02_T1w.nii.gz", anat / "sub-02_PDw.nii.gz")
    assert volume_root(root).modalities == ("t1", "t1ce", "t2", "flair", "pdw")
    told = [problem.message for problem in verify(root, modalities=("t1",)).problems if problem.case == ALL_CASES]
    assert told == ["1 of 13 images have no JSON file that describes them, such as sub-02_PDw.nii.gz"]


def test_label_values_without_a_table_are_to_be_named(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "ds")
    (root / "derivatives" / "manual" / "dseg.tsv").unlink()
    refused("does not tell what its label values mean; name it by data.labels or --labels", verify, root)
    assert verify(root, scheme="decathlon").scheme == "decathlon"


def test_folders_of_cases_that_are_called_like_subjects_are_no_bids(tmp_path):
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_t1.nii.gz").touch()
    assert detect_layout(tmp_path) == "generic"
