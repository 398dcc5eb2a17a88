"""Pair folders as published: what is found, recognized and refused."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.data.cases import Image
from jaxfuse.data.color import recombine
from jaxfuse.data.sources.pairs2d import find_pairs, load_pair, prepare_pairs, survey
from jaxfuse.io.png import write_png
from tests.refusals import refused

SHAPE = (6, 8)


def gray(seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(1, 256, SHAPE, np.uint8)
    pixels[0] = 0
    return pixels


def color(seed: int = 0) -> np.ndarray:
    return np.stack([gray(seed), gray(seed + 1), gray(seed + 2)], axis=-1)


def make(root: Path, collection: str = "MRI_PET", names: str = "ba", *, mri=gray(), other=color()) -> Path:  # noqa: B008
    for name in names:
        write_png(root / collection / "MRI" / f"{name}.png", mri)
        write_png(root / collection / collection[4:] / f"{name}.png", other)
    return root


def one_pair(root: Path, collection: str = "MRI_PET", **pixels):
    (files,) = find_pairs(make(root, collection, "a", **pixels), ("mri", collection[4:].lower()))
    return files


def test_a_collection_is_chosen_by_the_modalities(tmp_path):
    make(make(tmp_path, "MRI_PET"), "MRI_CT", "c", other=gray(1))
    pet, ct = find_pairs(tmp_path, ("pet", "mri")), find_pairs(tmp_path, ("mri", "ct"))
    assert [one.id for one in pet] == ["a", "b"]
    assert dict(pet[0].images) == {m: Image(tmp_path / "MRI_PET" / m.upper() / "a.png") for m in ("pet", "mri")}
    assert [(one.id, one.label, one.group) for one in ct] == [("c", None, "")]
    assert find_pairs(tmp_path / "MRI_PET", ("pet", "mri")) == pet


def test_pairs_by_sides_are_a_layout_of_their_own(tmp_path):
    for part, name in (("train", "b"), ("test", "a")):
        for modality in ("MRI", "CT"):
            write_png(tmp_path / "CT-MRI" / part / modality / f"{name}.png", gray())
    for root in (tmp_path, tmp_path / "CT-MRI"):
        assert [(one.id, one.side) for one in find_pairs(root, ("mri", "ct"))] == [("b", ""), ("a", "test")]
    assert [one.id for one in find_pairs(tmp_path / "CT-MRI" / "test", ("mri", "ct"))] == ["a"]
    for modality in ("MRI", "CT"):
        write_png(tmp_path / "CT-MRI" / "test" / modality / "b.png", gray())
    refused("pair b lies twice below .*CT-MRI, on two sides", find_pairs, tmp_path, ("mri", "ct"))
    make(tmp_path, "MRI_CT", "c", other=gray(1))
    refused("holds MRI_CT and CT-MRI; give one of these folders", find_pairs, tmp_path, ("mri", "ct"))


@pytest.mark.parametrize(("collection", "partner", "count"), [("CT-MRI", "ct", 80), ("PET-MRI", "pet", 80)])
def test_real_pairs_are_read_as_they_are(shared_data, collection, partner, count):
    root = shared_data / "harvard_pairs"
    if not root.is_dir():
        pytest.skip(f"the real pairs {root} are not here")
    found = find_pairs(root, ("mri", partner))
    assert (len(found), {one.side for one in found}) == (count, {""})
    assert load_pair(found[0], ("mri", partner)).gray["mri"].shape == (256, 256)


def test_luminance_of_color_and_gray_stored_as_rgb(tmp_path):
    mri, pet = gray(5), color(7)
    files = one_pair(tmp_path, mri=np.repeat(mri[..., None], 3, axis=-1), other=pet)
    pair = load_pair(files, ("mri", "pet"))
    np.testing.assert_array_equal(pair.gray["mri"], mri.astype(np.float32) / 255)
    np.testing.assert_allclose(pair.gray["pet"], pet @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    assert list(pair.color) == ["pet"]
    # The color is kept: put back onto its own luminance it is the image again.
    back = recombine(pair.gray["pet"], *pair.color.values())
    np.testing.assert_array_equal(np.rint(back * 255), pet)


def test_a_gray_pet_has_no_color_and_a_ct_in_color_is_refused(tmp_path):
    assert load_pair(one_pair(tmp_path, other=gray(3)), ("mri", "pet")).color == {}
    message = r"pair a: .*MRI_CT/CT/a.png has color, and a gray image is expected of ct"
    refused(message, load_pair, one_pair(tmp_path, "MRI_CT"), ("mri", "ct"))


def test_prepared_pair_takes_the_form_of_a_prepared_case(tmp_path):
    files = find_pairs(make(tmp_path), ("pet", "mri"))
    fresh: list[bool] = []

    def prepared(*order):
        return prepare_pairs(files, order, cache=tmp_path / "cache", on_case=lambda _, new: fresh.append(new))

    case, other = prepared("pet", "mri")
    assert (case.id, other.id) == ("a", "b")
    assert (case.facts.modalities, case.labeled, case.label, len(case.tumor)) == (("pet", "mri"), False, None, 0)
    assert (case.image.shape, case.image.dtype) == ((*SHAPE, 2), np.float32)
    np.testing.assert_array_equal(case.image[..., 1], gray().astype(np.float32) / 255)
    np.testing.assert_array_equal(case.brain, np.arange(8, 48))  # the first row is black in both
    np.testing.assert_allclose(case.facts.mean[1], gray().mean(), rtol=1e-6)
    prepared("pet", "mri")
    prepared("mri", "pet")
    assert fresh == [True, True, False, False, True, True]


def test_an_image_of_one_level_is_refused(tmp_path):
    files = [one_pair(tmp_path, mri=np.zeros(SHAPE, np.uint8))]
    refused("case a: modality mri is 0 everywhere", prepare_pairs, files, ("mri", "pet"), cache=tmp_path / "cache")


def test_missing_partners_and_unequal_sizes_are_reported_and_refused(tmp_path):
    both = make(tmp_path, names="abcd") / "MRI_PET"
    (both / "PET" / "b.png").unlink()
    (both / "MRI" / "c.png").unlink()
    write_png(both / "PET" / "d.png", color()[:, :5])
    (both / "PET" / ".hidden.png").touch()
    found = survey(tmp_path, ("mri", "pet"))
    assert [one.id for one in found] == ["a", "b", "c", "d"]
    (), (lacks_pet,), (lacks_mri,), (unequal,) = (one.problems for one in found)
    assert lacks_pet.startswith(f"no pet image: {both / 'PET' / 'b.png'} is missing")
    assert lacks_mri.startswith(f"no mri image: {both / 'MRI' / 'c.png'} is missing")
    assert unequal.startswith("mri is of 6 x 8 and pet is of 6 x 5 pixels; they must show one grid")
    refused("pair b: no pet image", find_pairs, tmp_path, ("mri", "pet"))


def test_a_file_that_changed_size_after_it_was_found(tmp_path):
    files = one_pair(tmp_path)
    write_png(files.images["mri"].path, gray()[1:])
    refused("pair a: mri is of 5 x 8 and pet is of 6 x 8 pixels", load_pair, files, ("mri", "pet"))


def test_foreign_files_are_reported_and_refused(tmp_path):
    path = make(tmp_path, names="a") / "MRI_PET" / "MRI" / "a.png"
    path.write_bytes(b"GIF89a" + bytes(40))
    (problem,) = survey(tmp_path, ("mri", "pet"))[0].problems
    assert problem == f"{path} is no PNG image; convert it to PNG, or leave it out"
    refused("pair a: .*a.png is no PNG image", find_pairs, tmp_path, ("mri", "pet"))


@pytest.mark.parametrize("modalities", [("mri",), ("mri", "mri"), ("a", "b", "c", "d", "e")])
def test_other_numbers_of_modalities_are_refused(tmp_path, modalities):
    refused("name 2 to 4 different ones of pictures", find_pairs, tmp_path, modalities)


def write_scene(folder: Path, *names: str, **pixels) -> None:
    for modality, one in pixels.items():
        for name in names:
            write_png(folder / modality / f"{name}.png", one)


def test_visible_and_infrared_lie_as_public_sets_have_them(tmp_path):
    write_scene(tmp_path / "MSRS" / "train", "1", vi=color(2), ir=gray(1))
    write_scene(tmp_path / "MSRS" / "test", "2", vi=color(2), ir=gray(1))
    found = find_pairs(tmp_path / "MSRS", ("vis", "ir"))
    assert [(one.id, one.side) for one in found] == [("1", ""), ("2", "test")]
    pair = load_pair(found[0], ("vis", "ir"))
    assert list(pair.color) == ["vis"]
    np.testing.assert_allclose(pair.gray["vis"], color(2) @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    write_scene(tmp_path / "all" / "VIS_IR", "7", Visible=gray(), INFRARED=gray(1))
    assert [one.id for one in find_pairs(tmp_path / "all", ("ir", "vis"))] == ["7"]
    write_scene(tmp_path / "MSRS" / "train", "1", VIS=gray())
    refused("train holds VIS and vi, both for vis; keep one", find_pairs, tmp_path / "MSRS", ("vis", "ir"))


def test_a_folder_for_each_of_three_modalities(tmp_path):
    write_scene(tmp_path / "any", "x", "y", T1=gray(), t2=gray(1), Flair=gray(2))
    found = find_pairs(tmp_path / "any", ("flair", "t1", "t2"))
    assert [one.id for one in found] == ["x", "y"]
    assert list(load_pair(found[1], ("flair", "t1", "t2")).gray) == ["flair", "t1", "t2"]
    refused("any holds no folders T1 and PD; give the folder that does", find_pairs, tmp_path / "any", ("t1", "pd"))


def test_missing_folders_are_refused(tmp_path):
    refused(
        "holds no folders MRI and CT, nor MRI_CT or CT-MRI; give the folder that does",
        find_pairs,
        tmp_path,
        ("mri", "ct"),
    )
    (tmp_path / "MRI_CT" / "MRI").mkdir(parents=True)
    refused("CT is missing; MRI_CT needs the folders MRI and CT", find_pairs, tmp_path, ("mri", "ct"))
    (tmp_path / "MRI_CT" / "CT").mkdir()
    refused("no PNG image lies in MRI and CT", find_pairs, tmp_path, ("mri", "ct"))
