"""ISLES 2022: names like those of BIDS, masks among the derivatives."""

import shutil

from jaxfuse.data.sources.volumes import volume_root
from jaxfuse.data.verify import verify
from tests.made_layouts import made_case, write_isles2022

NAMES = ("sub-strokecase0001", "sub-strokecase0002")


def test_both_releases_are_read(tmp_path):
    root = write_isles2022(tmp_path / "set", {name: made_case(seed) for seed, name in enumerate(NAMES)})
    there = volume_root(root, source="stroke")
    assert (there.layout, there.modalities, there.scheme) == ("isles2022", ("dwi", "adc", "flair"), "stroke")
    files = there.find(("adc", "dwi", "flair"), labels_required=True)
    assert [one.id for one in files] == [f"{name}_ses-0001" for name in NAMES]
    assert files[0].images["flair"].path.name == "sub-strokecase0001_ses-0001_FLAIR.nii.gz"
    assert files[1].label.name == "sub-strokecase0002_ses-0001_msk.nii.gz"
    assert (verify(root).layout, verify(root).problems) == ("isles2022", ())
    first = tmp_path / "first" / "rawdata"
    for name in NAMES:
        for path in (root / name).rglob("*.nii.gz"):
            (first / name / "ses-0001").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, first / name / "ses-0001" / path.name.replace("FLAIR", "flair"))
    shutil.copytree(root / "derivatives", first.parent / "derivatives")
    again = volume_root(first.parent).find(("dwi", "flair"), labels_required=True)
    assert [one.id for one in again] == [one.id for one in files]
