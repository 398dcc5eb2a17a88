"""Names of what is made of cases of BIDS, and the files that describe it."""

import json
from pathlib import Path

import pytest

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.sources.bids import made_here
from jaxfuse.data.sources.bids_derivatives import check_layout, descriptions, place
from jaxfuse.labels import label_scheme
from tests.refusals import refused


@pytest.mark.parametrize(
    ("case", "images", "expected"),
    [
        ("sub-01", ("anat/sub-01_T1w.nii", "anat/sub-01_FLAIR.nii"), "sub-01/anat/sub-01_dseg.nii.gz"),
        (
            "sub-01_ses-b_run-2",
            ("anat/sub-01_ses-b_run-2_ce-gd_T1w.nii.gz", "anat/sub-01_ses-b_FLAIR.nii.gz"),
            "sub-01/ses-b/anat/sub-01_ses-b_run-2_dseg.nii.gz",
        ),
        # A run that tells no cases apart is no part of the case's name, and so not of this one.
        ("sub-01", ("dwi/sub-01_run-1_dwi.nii.gz",), "sub-01/dwi/sub-01_dseg.nii.gz"),
        (
            "sub-01_ses-b",
            tuple(f"anat/sub-01_ses-b_acq-{acq}_space-MNI_res-1_desc-{desc}_T1w.nii.gz" for acq, desc in ("ab", "ac")),
            "sub-01/ses-b/anat/sub-01_ses-b_acq-a_space-MNI_res-1_dseg.nii.gz",
        ),
        ("sub-01", ("anat/sub-01_acq-a_T1w.nii", "anat/sub-01_acq-b_T2w.nii"), "sub-01/anat/sub-01_dseg.nii.gz"),
    ],
)
def test_names_keep_what_all_images_share(case, images, expected):
    files = CaseFiles(case, {path: Image(Path("root", path)) for path in images})
    assert place(files) == expected
    assert place(files, "probseg") == expected.replace("dseg", "probseg")


def test_descriptions_tell_the_maker_and_the_values(tmp_path):
    files = descriptions(label_scheme("brats"), made_by="exp:fusion", probabilities=True)
    assert json.loads(files["probseg.json"])["LabelMap"][::3] == ["background", "enhancing tumor"]
    assert files["dseg.tsv"].splitlines()[::3] == ["index\tname", "2\tedema"]
    told = json.loads(files["dataset_description.json"])
    assert (told["DatasetType"], told["GeneratedBy"][0]["Description"]) == ("derivative", "label maps by exp:fusion")
    assert not made_here(tmp_path)
    (tmp_path / "dataset_description.json").write_text(files["dataset_description.json"])
    assert made_here(tmp_path)


def test_other_layouts_are_refused():
    check_layout("bids")
    refused("the cases have the layout nnunet; leave it out, or keep the cases as sub-01", check_layout, "nnunet")
