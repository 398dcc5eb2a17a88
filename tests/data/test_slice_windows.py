"""Slices of a window in place of the brain's box, and blank slices."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import Case, CaseFiles
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.preprocess import crop_case, prepare_case, uncrop
from jaxfuse.data.slices import AXES, View, as_stack, every_slice, prepare_slices, stack_recipe, volume_of
from jaxfuse.report import planes
from tests.made_cases import case_files, channels_of
from tests.refusals import refused

AXIAL, CORONAL, SAGITTAL = (AXES[name] for name in ("axial", "coronal", "sagittal"))
MINMAX = NORMALIZATIONS["minmax"]
MODALITIES = ("t1", "flair")
SHAPE = (20, 16, 12)
WINDOW = ((2, 18), (1, 13))  # of the brain, x 4..15, y 3..14, z 3..8, two rows are cut off


def intensities(seed: int = 0) -> np.ndarray:
    image = np.zeros((*SHAPE, 2), np.float32)
    image[4:16, 3:15, 3:9] = np.random.default_rng(seed).uniform(50, 150, (12, 12, 6, 2))
    return image


def case(**changes) -> Case:
    label = np.zeros(SHAPE, np.uint8)
    label[5:8, 11:14, 4:6] = 2
    return dataclasses.replace(
        Case("c", MODALITIES, channels_of(intensities()), label, np.eye(4), (1.0, 1.0, 1.0)), **changes
    )


def files(folder, name: str) -> CaseFiles:
    """An unlabeled case on disk."""
    return case_files(folder, name, dict(zip(MODALITIES, np.moveaxis(intensities(len(name)), -1, 0), strict=True)))


@pytest.fixture(scope="module")
def blank_and_all(tmp_path_factory):
    root = tmp_path_factory.mktemp("windows")
    listed = [files(root, "a"), files(root, "bb")]
    options = {"normalize": MINMAX, "view": View(AXIAL, WINDOW, blank=True), "keep": every_slice}
    return prepare_slices(listed, MODALITIES, None, cache=root / "cache", **options), listed, root


def test_every_slice_has_the_size_of_the_window_and_lies_where_it_was(blank_and_all):
    found, listed, root = blank_and_all
    (volume,) = prepare(listed[:1], MODALITIES, None, normalize=MINMAX, cache=root / "cache")
    whole = uncrop(volume.image, volume, 0)
    assert [one.id for one in found["a"]] == [f"a_z{z:03d}" for z in range(12)]
    for z, one in enumerate(found["a"]):
        assert (one.image.shape, one.facts.original_shape) == ((12, 16, 2), (16, 20))
        cut = whole[2:18, 1:13, z]
        np.testing.assert_array_equal(one.image, cut.swapaxes(0, 1)[::-1, ::-1])
        # Put back, the picture is the volume's but for what lies beyond the window.
        kept = np.zeros_like(whole)
        kept[2:18, 1:13, z] = cut
        np.testing.assert_array_equal(uncrop(one.image, one, 0), planes.plane(kept, planes.AXIAL, z))
        np.testing.assert_array_equal(one.brain, np.flatnonzero(one.image.any(-1)))
        assert (len(one.brain) > 0) == (3 <= z < 9)


def test_without_blank_slices_a_window_keeps_those_that_show_enough(blank_and_all):
    _, listed, root = blank_and_all
    # Without a window, blank slices or not, pictures have the size of the brain's box.
    for view, shape in ((View(window=WINDOW), (12, 16, 2)), (View(blank=True), (12, 12, 2))):
        made = prepare_slices(listed, MODALITIES, None, normalize=MINMAX, view=view, cache=root / "cache")["bb"]
        assert [one.id for one in made] == [f"bb_z{z:03d}" for z in range(3, 9)]
        assert {one.image.shape for one in made} == {shape}


# Windows name the axes that are not cut, in ascending order.
@pytest.mark.parametrize(
    ("axis", "window", "box"),
    [
        (AXIAL, ((2, 18), (1, 13)), (slice(2, 18), slice(1, 13), slice(0, 12))),
        (CORONAL, ((3, 17), (0, 10)), (slice(3, 17), slice(0, 16), slice(0, 10))),
        (SAGITTAL, ((2, 16), (1, 11)), (slice(0, 20), slice(2, 16), slice(1, 11))),
    ],
)
def test_stacks_of_a_window_go_back_onto_the_volume_along_every_axis(axis, window, box):
    cropped = crop_case(case(), normalize=MINMAX, extent=View(axis, window, blank=True).extent)
    assert cropped.facts.crop_start == tuple(one.start for one in box)
    stack, prepared = as_stack(cropped, axis), cropped.listed()
    assert len(every_slice(stack.facts)) == SHAPE[axis]
    expected = np.zeros(SHAPE, np.uint8)
    expected[box] = case().label[box]
    np.testing.assert_array_equal(volume_of(uncrop(stack.label, stack, 0), axis), expected)
    back = volume_of(uncrop(stack.image, stack, 0), axis)
    np.testing.assert_array_equal(back[box], prepared.image)
    assert np.count_nonzero(back) == np.count_nonzero(prepared.image)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (((2, 18), (1, 17)), r"case c: a window of voxels 1 to 17 along axis 1 .* the volume is \(20, 16, 12\)"),
        (((0, 3), (0, 16)), "case c: voxels 0 to 3, 0 to 16, 3 to 9 hold nothing of the brain; choose another window"),
    ],
)
def test_windows_that_leave_the_volume_or_miss_the_brain_are_refused(window, message):
    refused(message, prepare_case, case(), extent=View(AXIAL, window).extent)


def test_stacks_made_without_these_options_keep_their_names():
    def recipe(view, normalize="percentiles", **options):
        return stack_recipe(MODALITIES, None, NORMALIZATIONS[normalize], view, **options)

    assert recipe(View()) == {"modalities": MODALITIES, "scheme": None, "normalize": "percentiles", "stack": AXIAL}
    landmarks = {"t1": (1.0,), "flair": (1.0,)}
    matched = [recipe(View(), normalize="histmatch"), recipe(View(), normalize="histmatch", landmarks=landmarks)]
    others = [recipe(View()), recipe(View(window=WINDOW)), recipe(View(blank=True)), *matched]
    assert len({str(recipe) for recipe in others}) == 5


def test_the_window_of_the_paper_loses_nothing_of_a_real_brain(real_brain):
    image = nib.as_closest_canonical(nib.load(real_brain("t2")))
    array = np.asarray(image.dataobj, np.float32)[..., None]
    given = Case("c", ("t2",), channels_of(array), None, image.affine, (1.0, 1.0, 1.0))
    brain, lost = len(prepare_case(given).brain), {}
    for rows in ((20, 200), (30, 210), (40, 220)):
        prepared = prepare_case(given, extent=View(AXIAL, ((40, 200), rows), blank=True).extent)
        assert prepared.facts.shape == (160, 180, 155)
        lost[rows] = brain - len(prepared.brain)
    assert lost[20, 200] == 0
    assert 0 < lost[30, 210] < lost[40, 220]  # the middle of the picture, and the window on the other side of it
