"""Names, split and completeness of a fused data set."""

import pytest

from jaxfuse.brats_fuse.layout import Layout, check_whole, combos_of, files_on_disk, remove_pieces, split_by_patient
from jaxfuse.data.subject_names import subject_of
from tests.refusals import refused

LAYOUT = Layout(("t1", "t2"), (("t1", "t2"),), attention=True, axis=2, brain=True)
ROW = {"case": "A", "z": 77, "split": "val", "has_label": 1}
FILES = [f"val/{kind}/A_z077.png" for kind in ("source/t1", "source/t2", "mask", "fused/t1-t2")]
FILES += ["val/attn/t1-t2/A_z077.npz", "brain/A.nii.gz"]


def test_files_and_columns_are_those_of_the_format():
    assert list(LAYOUT.files(ROW)) == FILES
    assert "val/mask/A_z077.png" not in list(LAYOUT.files({**ROW, "has_label": 0}))
    limits = ("t1_p_lo", "t1_p_hi", "t2_p_lo", "t2_p_hi")
    assert LAYOUT.columns == (*["case", "z", "split", "has_label", "brain_px", "tumor_px"], *limits, "seen_in_training")
    assert Layout(("t1", "t2"), (), attention=False, axis=0, brain=False).name(ROW) == "A_x077"


def test_combinations_are_named_in_one_order():
    asked = [("t2", "t1"), ("t1", "t2"), ("flair", "t2", "t1")]
    assert combos_of(asked, ("t1", "t2", "flair")) == (("t1", "t2"), ("t1", "t2", "flair"))


@pytest.mark.parametrize(
    ("patients", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (8, 1, 1)), (26, (20, 3, 3)), (100, (80, 10, 10))],
)
def test_sizes_of_a_split(patients, sizes):
    sides = split_by_patient([(f"P{i:03d}", "") for i in range(patients)], seed=0)
    assert [(side, len(cases)) for side, cases in sides.items()] == [*zip(("train", "val", "test"), sizes, strict=True)]
    assert sorted(case for cases in sides.values() for case in cases) == [f"P{i:03d}" for i in range(patients)]


def test_a_split_is_by_patient_and_by_seed():
    cases = [(f"BraTS-GLI-{i:05d}-{visit:03d}", "") for i in range(10) for visit in range(2)]
    drawn = {seed: split_by_patient(cases, seed=seed) for seed in range(4)}
    for sides in drawn.values():
        subjects = [{subject_of(case) for case in side} for side in sides.values()]
        assert [len(side) for side in subjects] == [8, 1, 1]
        assert len(set.union(*subjects)) == 10
    assert split_by_patient(list(reversed(cases)), seed=1) == drawn[1]
    assert len({sides["test"] for sides in drawn.values()}) > 1
    assert split_by_patient(cases[:2], seed=0)["train"] == tuple(sorted(case for case, _ in cases[:2]))


def written(root):
    for path in (*FILES, "manifest.csv", "val/fused/t1-t2/.note"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_a_data_set_holds_exactly_the_files_of_its_manifest(tmp_path):
    written(tmp_path)
    assert files_on_disk(tmp_path) == set(FILES)
    assert check_whole(tmp_path, LAYOUT, [ROW]) == 6
    (tmp_path / "val/mask/B_z001.png").touch()
    refused(r"1 files \(val/mask/B_z001.png\) below .* stand in no row", check_whole, tmp_path, LAYOUT, [ROW])
    (tmp_path / FILES[0]).unlink()
    refused(r"1 files \(val/source/t1/A_z077.png\) of the manifest of .* lack", check_whole, tmp_path, LAYOUT, [ROW])


def test_pieces_of_files_are_removed_and_nothing_else(tmp_path):
    written(tmp_path)
    names = ("val/mask/.A_z077.png.123.0a1b2c3d", "val/mask/.A_z077.npz.9.ffffffff", "brain/.A.nii.gz.77.01234567")
    pieces = [tmp_path / name for name in names]
    for piece in pieces:
        piece.touch()
    remove_pieces(tmp_path)
    assert not any(piece.exists() for piece in pieces)
    assert files_on_disk(tmp_path) == set(FILES)
    assert (tmp_path / "val/fused/t1-t2/.note").exists()
