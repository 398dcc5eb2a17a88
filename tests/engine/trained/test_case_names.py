"""Names of what is made of cases."""

from pathlib import Path

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.engine.trained.case_names import PLAIN, CaseNames
from jaxfuse.labels import label_scheme
from tests.refusals import refused

FILES = CaseFiles("sub-1", {"t1": Image(Path("in", "sub-1", "anat", "sub-1_T1w.nii.gz"))})


def test_one_folder_of_label_maps_and_one_of_each_map():
    assert PLAIN.of(FILES) == ("sub-1.nii.gz",)
    both = CaseNames(("probabilities", "entropy"))
    assert both.of(FILES) == ("sub-1.nii.gz", "probabilities/sub-1.nii.gz", "entropy/sub-1.nii.gz")
    assert not both.descriptions(label_scheme("brats"), "run")
    both.check("nnunet")


def test_derivatives_of_bids():
    names = CaseNames(("probabilities",), bids=True)
    assert names.of(FILES) == ("sub-1/anat/sub-1_dseg.nii.gz", "sub-1/anat/sub-1_probseg.nii.gz")
    described = names.descriptions(label_scheme("brats"), "run")
    assert set(described) == {"dataset_description.json", "dseg.tsv", "probseg.json"}
    names.check("bids")
    refused("the cases have the layout nnunet", names.check, "nnunet")
    refused("BIDS has no name for a map of entropy; leave out", CaseNames(("entropy",), bids=True).check, "bids")
