"""Phantom pairs: what each modality shows, and the files."""

import json

import numpy as np
import pytest

from jaxfuse.data.color import gray_content
from jaxfuse.data.phantom.pairs2d import VERSION, make_pair, write_pair_phantoms
from jaxfuse.data.sources.pairs2d import find_pairs, load_pair
from tests.refusals import refused

SMALL = {"shape": (64, 56), "spacing_mm": 3.6}


@pytest.fixture(scope="module")
def pairs():
    return {partner: make_pair(0, 1, partner, **SMALL) for partner in ("ct", "pet", "spect")}


def spread(image: np.ndarray, where: np.ndarray) -> float:
    return float(image[where].astype(float).std())


def test_kinds_and_air(pairs):
    for partner, pair in pairs.items():
        assert list(pair) == ["mri", partner]
        assert {image.dtype for image in pair.values()} == {np.dtype(np.uint8)}
        assert pair["mri"].shape == (64, 56)
        for image in pair.values():
            assert not image[[0, -1]].any()
            assert not image[:, [0, -1]].any()
        # Both show one head; mixed pixels at its border may fall below the window of the CT.
        head = pair["mri"] > 0
        assert np.mean(np.any(pair[partner].reshape(64, 56, -1) > 0, axis=-1) == head) > 0.95
    assert pairs["ct"]["ct"].shape == (64, 56)
    assert gray_content(pairs["pet"]["pet"]) is gray_content(pairs["spect"]["spect"]) is None


def test_ct_shows_bone_and_little_soft_tissue(pairs):
    mri, ct = pairs["ct"]["mri"], pairs["ct"]["ct"]
    bone = ct > 200
    assert 0.04 < bone.mean() < 0.2
    # Bone, white on CT, is dark on MRI: mixed pixels of 3.6 mm hold some scalp or fluid.
    assert np.median(mri[bone]) < 40
    # Enclosed by bone: the middle of the head, where MRI has contrast and CT hardly any.
    middle = np.zeros(ct.shape, bool)
    middle[22:42, 18:38] = True
    assert not bone[middle].any()
    assert spread(mri, middle) > 8 * spread(ct, middle)
    assert (ct[middle] > 0).all()


def test_spect_is_smoother_than_pet_and_both_than_mri(pairs):
    def roughness(image):
        gray = image.reshape(*image.shape[:2], -1).mean(-1)
        return np.mean(np.diff(gray, axis=0) ** 2) / np.var(gray)

    for partner in ("pet", "spect"):
        assert roughness(pairs[partner][partner]) < roughness(pairs[partner]["mri"])
    assert roughness(pairs["spect"]["spect"]) < 0.7 * roughness(pairs["pet"]["pet"])


def test_a_pair_is_a_function_of_its_arguments(pairs):
    again = make_pair(0, 1, "pet", **SMALL)
    for name, image in pairs["pet"].items():
        np.testing.assert_array_equal(again[name], image)
    others = [make_pair(1, 1, "pet", **SMALL), make_pair(0, 2, "pet", **SMALL), pairs["spect"], pairs["ct"]]
    assert all(not np.array_equal(other["mri"], again["mri"]) for other in others)


def test_another_grid_shows_the_same_head():
    coarse = make_pair(0, 1, "ct", shape=(64, 64), spacing_mm=3.6)["mri"]
    fine = make_pair(0, 1, "ct", shape=(128, 128), spacing_mm=1.8)["mri"]
    pooled = fine.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.corrcoef(coarse.ravel(), pooled.ravel())[0, 1] > 0.95


def test_files_are_pairs_of_the_source(tmp_path):
    calls, root = [], tmp_path / "set"
    given = {"pairs": 2, "seed": 0, "partners": ("ct", "pet"), **SMALL}
    folders = write_pair_phantoms(root, on_pair=lambda *done: calls.append(done), **given)
    assert folders == {"ct": root / "MRI_CT", "pet": root / "MRI_PET"}
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for partner in ("ct", "pet"):
        files = find_pairs(root, ("mri", partner))
        assert [one.id for one in files] == ["0000", "0001"]
        pair = load_pair(files[1], ("mri", partner))
        np.testing.assert_array_equal(pair.gray["mri"] * 255, make_pair(0, 1, partner, **SMALL)["mri"])
        assert list(pair.color) == ([] if partner == "ct" else ["pet"])
    made = {"generator": "jaxfuse.data.phantom.pairs2d", "version": VERSION}
    asked = given | {"partners": ["ct", "pet"], "shape": [64, 56]}
    assert json.loads((root / "phantom.json").read_text()) == made | asked
    assert write_pair_phantoms(root, on_pair=lambda *done: calls.append(done), **given) == folders
    assert len(calls) == 4  # found, not written again
    refused("pairs 2 there and 3 asked for", write_pair_phantoms, root, **{**given, "pairs": 3})


def test_an_interrupted_run_leaves_no_pairs(tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pair_phantoms(tmp_path / "set", pairs=2, seed=0, partners=("ct",), on_pair=interrupt, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path):
    refused("a phantom of MRI with 'mri' was asked for; choose one of ct, pet, spect", make_pair, 0, 0, "mri")
    small = "212 x 188 mm; 64 x 56 pixels of 3 mm are too few: .* at least 3.36 mm"
    refused(small, make_pair, 0, 0, "ct", shape=(64, 56), spacing_mm=3.0)
    for wrong in ({"pairs": 0}, {"seed": -1}, {"partners": ()}, {"partners": ("ct", "ct")}):
        message, given = "need at least 1 pair, a seed of at least 0 and each partner once", {"pairs": 1, "seed": 0}
        refused(message, write_pair_phantoms, tmp_path / "set", **{**given, **SMALL, **wrong})
