"""Cases are paired by their ids; what has no partner is refused or told."""

from jaxfuse.scoring.pairing import find_pictures, find_references, find_volumes, listing, pair
from tests.refusals import refused


def found_in(folder):
    """The names of the label files by case, and the scheme that they imply."""
    found, scheme = find_references(folder)
    return {case: path.name for case, path in found.items()}, scheme


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_cases_without_partner_are_refused_or_told():
    assert pair("ba", "ab", allow_missing=False).cases == ("a", "b")
    said = "no reference for the prediction of b and no prediction for the reference of "
    refused(said, pair, "ab", "ac", allow_missing=False)
    paired = pair("ab", "ac", allow_missing=True)
    assert (paired.cases, paired.left_out()) == (("a",), {"without_prediction": ["c"], "without_reference": ["b"]})
    refused("name the files of one case alike", pair, "a", "b", allow_missing=True)


def test_only_marked_files_are_labels_where_there_are_any(tmp_path):
    folder = touch(tmp_path / "ref", "a_seg.nii.gz", "b-seg.nii", "a_t1.nii.gz", ".c_seg.nii")
    assert found_in(folder) == ({"a": "a_seg.nii.gz", "b": "b-seg.nii"}, None)
    assert set(find_volumes(folder)) == {"a", "b", "a_t1"}
    refused(r"case a has two files, .*a.nii.gz and a_seg.nii.gz", find_volumes, touch(folder, "a.nii.gz"))


def test_label_files_of_every_layout_are_told_by_their_names(tmp_path):
    parts = [f"subject-1-{part}.{end}" for part in ("label", "T1") for end in ("hdr", "img")]
    expected = {"subject-1": "subject-1-label.hdr", "s": "s_lesion.nii.gz"}
    assert found_in(touch(tmp_path / "flat", *parts, "s_lesion.nii.gz")) == (expected, None)


def test_references_of_a_data_set_imply_their_scheme(tmp_path):
    touch(tmp_path / "strokes" / "a", "a_lesion.nii.gz")
    touch(tmp_path / "strokes" / "b", "b_lesion.nii", "b_dwi_b0.nii")
    assert found_in(tmp_path / "strokes") == ({"a": "a_lesion.nii.gz", "b": "b_lesion.nii"}, "stroke")
    touch(tmp_path / "infants" / "iSeg-2017-Training", "subject-2-label.hdr", "subject-2-T1.hdr", "subject-3-T1.hdr")
    assert found_in(tmp_path / "infants") == ({"subject-2": "subject-2-label.hdr"}, "iseg")


def test_pictures_are_found_by_their_names(tmp_path):
    folder = touch(tmp_path / "fused", "b_z077.png", "a.b.png", ".c.png", "d.jpg")
    found = {case: path.name for case, path in find_pictures(folder).items()}
    assert found == {"a.b": "a.b.png", "b_z077": "b_z077.png"}
    said = "empty holds no .png file; give the folder that holds the PNG images"
    refused(said, find_pictures, touch(tmp_path / "empty", "a.nii"))
    refused("absent is not a folder", find_pictures, tmp_path / "absent")


def test_a_long_list_is_cut():
    assert (listing("abcde"), listing("abcdefg")) == ("a, b, c, d, e", "a, b, c, d, e and 2 more")
