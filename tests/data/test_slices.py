"""Slices of volumes: how they lie, which are kept, their intensities, and what a 2D case holds."""

import dataclasses
import pickle

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data import slices as cut
from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import Case, CaseFiles, Image
from jaxfuse.data.intensities import NORMALIZATIONS, stored_range
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.preprocess import crop_case, prepare_case, uncrop
from jaxfuse.data.sampling import SAMPLINGS, check_sampling, tumor
from jaxfuse.data.slices import AXIAL, SAGITTAL, View, as_stack, gray_levels, pictures, prepare_slices, volume_of
from jaxfuse.labels import label_scheme
from jaxfuse.report import planes
from tests.data.examples import sampled
from tests.made_cases import case_files, channels_of
from tests.refusals import refused

SCHEME = label_scheme("brats")
# Pictures of 10 x 20 pixels, so that 1 % is 2 pixels.
SHAPE = (20, 10, 12)
MODALITIES = ("t1", "flair")


def intensities(seed: int = 0) -> np.ndarray:
    """Brain in x 4..15, y 3..8, z 2..9; besides it 1 voxel at z = 10 and 2 voxels at z = 11, the last slice."""
    image = np.zeros((*SHAPE, 2), np.float32)
    image[4:16, 3:9, 2:10] = np.random.default_rng(seed).uniform(50, 150, (12, 6, 8, 2))
    image[4, 3, 10] = image[4, 3:5, 11] = 80
    return image


def classes(z_of_most: int | None) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    if z_of_most is not None:
        label[5:8, 4:6, 3:8] = 2
        label[5:9, 4:6, z_of_most] = 1
        label[5, 4, z_of_most] = 3
    return label


def case(**changes) -> Case:
    given = Case("c", MODALITIES, channels_of(intensities()), classes(7), np.diag([1.0, 2, 3, 1]), (1.0, 2.0, 3.0))
    return dataclasses.replace(given, **changes)


def files(folder, name="c", label=7) -> CaseFiles:
    image = intensities(len(name))
    seg = None if label == "none" else np.choose(classes(label), [0, 1, 2, 4]).astype(np.uint8)
    arrays = {"t1": image[..., 0], "flair": image[..., 1], "seg": seg}
    return case_files(folder, name, arrays, spacing_mm=(1, 2, 3))


@pytest.mark.parametrize("view", planes.VIEWS, ids=lambda view: view.name)
def test_slices_lie_as_in_the_figures_and_go_back(view):
    volume = intensities()
    stack = pictures(volume, view.axis)
    for index in (0, 3, SHAPE[view.axis] - 1):
        np.testing.assert_array_equal(stack[index], planes.plane(volume, view, index))
    np.testing.assert_array_equal(volume_of(stack, view.axis), volume)
    np.testing.assert_array_equal(volume_of(pictures(volume[..., 0], view.axis), view.axis), volume[..., 0])


# The axes of a stack, as axes of the volume.
@pytest.mark.parametrize(("axis", "axes"), [(AXIAL, (2, 1, 0)), (cut.CORONAL, (1, 2, 0)), (SAGITTAL, (0, 2, 1))])
def test_a_stack_keeps_places_in_the_world(axis, axes):
    affine = np.array([[1.0, 0.1, 0, -7], [-0.1, 2, 0, 4], [0, 0, 3, 9], [0, 0, 0, 1]])
    given = case(affine=affine)
    prepared, stack = prepare_case(given), as_stack(crop_case(given), axis)
    (found,) = np.argwhere(stack.image[..., 0] == prepared.image[2, 3, 4, 0])
    place = np.append(found + stack.facts.crop_start, 1)
    original = np.append(np.array([2, 3, 4]) + prepared.facts.crop_start, 1)
    np.testing.assert_allclose(np.array(stack.facts.affine) @ place, affine @ original)
    sides = np.linalg.norm(np.array(stack.facts.affine)[:3, :3], axis=0)
    np.testing.assert_allclose(sides, np.linalg.norm(affine[:3, :3], axis=0)[list(axes)])
    assert stack.facts.spacing_mm == tuple(prepared.facts.spacing_mm[i] for i in axes)
    for stacked, array in ((stack.image, prepared.image), (stack.label, prepared.label)):
        np.testing.assert_array_equal(volume_of(uncrop(stacked, stack, 0), axis), uncrop(array, prepared, 0))


def facts(**changes):
    return as_stack(crop_case(case(**changes), classes=4), AXIAL).facts


def test_slices_with_one_percent_of_brain_are_kept():
    # z = 10 has 1 pixel of 200, z = 11 has 2; the stack begins at z = 2.
    assert cut.kept_slices(facts()) == (0, 1, 2, 3, 4, 5, 6, 7, 9)
    assert facts().slices[0] == (72, 72, 0, 0, 0)
    # Of the picture at z = 7: brain, background, core, edema, enhancing.
    assert facts().slices[5] == (72, 72 - 8, 7, 0, 1)
    assert facts(label=None).slices[0] == (72,)
    alone = np.zeros((*SHAPE, 2), np.float32)
    alone[3, 3, 4:6] = [[1, 2], [3, 4]]
    refused("case c has no slice with at least 1% brain", cut.kept_slices, facts(channels=channels_of(alone)))


def test_one_slice_has_the_largest_tumor_or_lies_in_the_middle():
    labeled, bare, healthy = facts(), facts(label=None), facts(label=classes(None))
    # 12 // 2 is the middle.
    assert [cut.one_slice(one, cut.kept_slices(one)) + 2 for one in (labeled, bare, healthy)] == [7, 6, 6]
    assert cut.one_slice(bare, (7, 9)) == 7  # where the middle itself is not kept: the nearest


def test_intensities_lie_between_the_percentiles_of_the_volume():
    count, image = np.arange(1, 1001).reshape(10, 10, 10), np.zeros((*SHAPE, 2), np.float32)
    image[4:14, 0:10, 1:11] = np.stack([count, 7.0 + (count - 1) % 2], -1)
    prepared = prepare_case(case(channels=channels_of(image), label=None), normalize=NORMALIZATIONS["percentiles"])
    # Of 1..1000: 1 + 0.005 x 999 and 1 + 0.995 x 999.
    limits = [stored_range(prepared.facts, modality) for modality in prepared.facts.modalities]
    np.testing.assert_allclose(limits, [(5.995, 995.005), (7, 8)], rtol=1e-5)
    t1 = prepared.image[..., 0]
    assert (t1[count <= 5] == np.float32(1 / 255)).all()
    np.testing.assert_allclose(t1[count >= 996], 1, rtol=1e-6)
    np.testing.assert_allclose(t1[count == 500], 1 / 255 + 254 / 255 * (500 - 5.995) / 989.01, rtol=1e-5)
    assert (prepared.facts.mean[0], limits[1]) == (pytest.approx(500.5), (7.0, 8.0))


def test_the_background_is_level_0_and_the_brain_1_to_255():
    prepared = prepare_case(case(), normalize=NORMALIZATIONS["percentiles"])
    levels = gray_levels(uncrop(prepared.image, prepared, 0))
    brain = intensities().any(-1)
    assert levels.dtype == np.uint8
    assert not levels[~brain].any()
    assert (levels[brain].min(), levels[brain].max()) == (1, 255)
    assert gray_levels(np.array([0.0, 1 / 255, 0.5, 1.0], np.float32)).tolist() == [0, 1, 128, 255]


def test_z_scores_are_no_gray_levels_and_a_range_is_needed():
    refused("prepare its volume with normalize='percentiles'", gray_levels, prepare_case(case()).image)
    image = intensities()
    image[..., 1] = np.where(image[..., 1] > 0, 5, 0)
    image[4, 3, 2, 1] = 6
    message = "case c: modality flair is 5 in nearly all of the brain"
    refused(message, prepare_case, case(channels=channels_of(image)), normalize=NORMALIZATIONS["percentiles"])


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    root = tmp_path_factory.mktemp("slices")
    listed = [files(root, "a"), files(root, "bb", "none")]
    return prepare_slices(listed, MODALITIES, SCHEME, cache=root / "cache"), listed, root


def test_a_slice_is_a_2d_case(slices):
    found, listed, root = slices
    assert [one.id for one in found["a"]] == [f"a_z{z:03d}" for z in (2, 3, 4, 5, 6, 7, 8, 9, 11)]
    (volume,) = prepare(listed[:1], MODALITIES, SCHEME, normalize=NORMALIZATIONS["percentiles"], cache=root / "cache")
    whole, label = uncrop(volume.image, volume, 0), uncrop(volume.label, volume, 0)
    for one in found["a"]:
        assert isinstance(one, PreparedCase)
        z = int(one.id[-3:])
        np.testing.assert_array_equal(uncrop(one.image, one, 0), planes.plane(whole, planes.AXIAL, z))
        np.testing.assert_array_equal(uncrop(one.label, one, 0), planes.plane(label, planes.AXIAL, z))
        np.testing.assert_array_equal(one.brain, np.flatnonzero(np.any(one.image != 0, axis=-1)))
        np.testing.assert_array_equal(one.tumor, np.flatnonzero(one.label))
        assert one.facts.voxels_per_class == tuple(np.bincount(one.label.ravel(), minlength=4))
        assert (one.facts.original_shape, one.facts.spacing_mm, one.facts.affine) == ((10, 20), (2, 1), ())
        assert one.facts.scaling == volume.facts.scaling
    assert all(not one.labeled and one.label is None and not len(one.tumor) for one in found["bb"])


def test_one_per_case_and_the_cache(slices):
    _, listed, root = slices
    fresh: list[bool] = []
    options = {"cache": root / "cache", "on_case": lambda _, new: fresh.append(new)}
    found = prepare_slices(listed, MODALITIES, SCHEME, view=View(one_per_case=True), **options)
    assert [[one.id for one in case] for case in found.values()] == [["a_z007"], ["bb_z006"]]
    assert fresh == [False, False]  # the stacks are those of all slices
    (across,) = prepare_slices(listed[:1], MODALITIES, SCHEME, view=View(SAGITTAL, one_per_case=True), **options)["a"]
    assert (across.id, across.image.shape) == ("a_x005", (10, 6, 2))  # z 2..11 x y 3..8
    message = "slices across axis 3 were asked for"
    refused(message, prepare_slices, listed[:1], MODALITIES, SCHEME, view=View(3), cache=root / "cache")


def test_patches_of_slices_are_sampled_with_their_label(slices):
    one = slices[0]["a"][5]
    check_sampling([one], (8, 16), SAMPLINGS["tumor"], pad=False)
    example = sampled(pickle.loads(pickle.dumps(one)), (8, 16), tumor, np.random.default_rng(0))
    assert (example["image"].shape, example["label"].shape) == ((8, 16, 2), (8, 16))
    assert sorted(np.unique(example["label"])) == [0, 1, 3]
    # The brain of 6 x 12 pixels fits; around it the picture is background.
    assert np.count_nonzero(example["image"].any(-1)) == 72


def test_real_slices(shared_data, tmp_path):
    root = shared_data / "ms_lesion_mni"
    if not root.is_dir():
        pytest.skip(f"the real sample {root} is not here")
    name, scheme = "patient19", label_scheme("lesion")
    paths = {m: root / name / f"{name}_{m}.nii.gz" for m in ("t1", "seg")}
    given = CaseFiles(name, {"t1": Image(paths["t1"])}, paths["seg"])
    found = prepare_slices([given], ("t1",), scheme, cache=tmp_path)[name]
    # LAS voxels: only the first axis turns over on the way to RAS, so z is that of the file.
    brain, lesion = (np.asarray(nib.load(paths[k]).dataobj) for k in ("t1", "seg"))
    areas = np.count_nonzero(brain, axis=(0, 1))
    assert [one.id for one in found] == [f"{name}_z{z:03d}" for z in np.flatnonzero(areas >= 0.01 * 182 * 218)]
    assert [len(one.tumor) for one in found] == [int((lesion[..., int(one.id[-3:])] > 0).sum()) for one in found]
    # The sides of the file's axis 0 run to the left, as columns do; its axis 1 runs to the front, rows back from there.
    picture = uncrop(found[60].image[..., 0], found[60], 0)
    np.testing.assert_array_equal(picture != 0, (brain[..., int(found[60].id[-3:])] != 0).T[::-1])
    assert gray_levels(picture)[picture != 0].min() >= 1
