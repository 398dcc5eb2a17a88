"""Phantom strokes: what diffusion weighting shows, thick slices, files and their bytes."""

import math

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.phantom import stroke
from jaxfuse.data.phantom.signal import spin_echo
from jaxfuse.data.sources.volumes import VOLUMES

SMALL = {"shape": (36, 40, 16), "spacing_mm": 4.6}


@pytest.fixture(scope="module")
def case():
    return stroke.make_stroke(0, 0)


def test_thick_slices_average_what_they_hold():
    # 40 layers of 4 mm in 8 slices of 20 mm: five each.
    even = stroke._averaging(40, 4.0, 8)
    np.testing.assert_allclose(even[0], [0.2] * 5 + [0.0] * 35)
    np.testing.assert_allclose(even[7], [0.0] * 35 + [0.2] * 5)
    # 54 layers of 3 mm reach 1 mm beyond the 160 mm on each side: 2, 3, 3 and 2 of the first 10 mm.
    beyond = stroke._averaging(54, 3.0, 16)
    np.testing.assert_allclose(beyond[0, :5], [0.2, 0.3, 0.3, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(beyond.sum(axis=1), 1, rtol=1e-6)
    assert stroke._thin(np.zeros((2, 3, 54), np.float32), beyond).shape == (2, 3, 16)


def test_an_infarct_outshines_all_else_at_b1000_only_by_its_diffusion():
    def signals(t2_ms: float, density: float, adc: float) -> tuple[float, float]:
        s = stroke.ECHO_PLANAR
        b0 = float(spin_echo(density, 1600, t2_ms, tr_ms=s.tr_ms, te_ms=s.te_ms))
        return b0, b0 * math.exp(-1000 * adc)

    infarcts = [stroke.draw_infarct(np.random.default_rng(seed))[0] for seed in range(100)]
    old = [spot for seed in range(100) for spot in stroke.draw_shine_through(np.random.default_rng(seed))]
    acute, mimic = (
        np.array([signals(s.tissue.t2_ms, s.tissue.density, s.adc_mm2_s) for s in spots]) for spots in (infarcts, old)
    )
    healthy_adc = stroke.ADC_MM2_S["white"]
    assert max(spot.adc_mm2_s for spot in infarcts) < healthy_adc < min(spot.adc_mm2_s for spot in old)
    # At b = 1000 the two overlap; at b = 0 the old lesion is the brighter one.
    assert np.percentile(mimic[:, 1], 75) > np.percentile(acute[:, 1], 25)
    assert mimic[:, 0].min() > acute[:, 0].max()
    assert mimic[:, 1].min() > signals(69, 0.77, healthy_adc)[1]


def test_apparent_diffusion_is_low_in_the_infarct_alone(case):
    images, label = case
    brain = images["t2"] != 0
    adc, lesion = np.log(images["dwi_b0"][brain] / images["dwi_b1000"][brain]), label[brain] == 1
    # The images have gains of their own, so that only differences count: about 0.3e-3 mm2/s against white matter.
    assert 0.15 < np.median(adc[~lesion]) - np.median(adc[lesion]) < 0.7
    fluid = images["t2"][brain] > np.percentile(images["t2"][brain], 97)
    assert np.median(adc[fluid]) - np.median(adc[~fluid]) > 0.4


def test_images_and_labels_share_the_brain(case):
    images, label = case
    assert set(images) == {"t2", "dwi_b1000", "dwi_b0"}
    brain = images["t2"] != 0
    assert 0.15 < brain.mean() < 0.5
    for image in images.values():
        np.testing.assert_array_equal(image != 0, brain)
        assert image[brain].min() >= 1
    assert (label.dtype, set(np.unique(label)), label[~brain].any()) == (np.uint8, {0, 1}, False)
    b1000 = images["dwi_b1000"]
    assert (b1000[label == 1].mean() - b1000[brain].mean()) / b1000[brain].std() > 2


def test_every_case_has_a_lesion_a_few_per_cent_of_the_brain_at_most():
    for index in range(6):
        images, label = stroke.make_stroke(1, index, **SMALL)
        assert 5 <= label.sum() <= 0.1 * (images["t2"] != 0).sum()


def test_files_are_folders_of_cases_with_slices_that_share_160_mm(tmp_path):
    folders = stroke.write_stroke_phantoms(tmp_path / "set", cases=2, seed=1, **SMALL)
    images, label = stroke.make_stroke(1, 1, **SMALL)
    for suffix, array in {**images, "lesion": label}.items():
        volume = nib.load(folders[1] / f"{folders[1].name}_{suffix}.nii.gz")
        np.testing.assert_array_equal(np.asarray(volume.dataobj), np.rint(array))
        np.testing.assert_allclose(volume.header.get_zooms(), (4.6, 4.6, 10.0), rtol=1e-6)
        assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
        np.testing.assert_allclose(volume.affine @ [17.5, 19.5, 7.5, 1], [0, 0, 0, 1], atol=1e-5)
    found = VOLUMES["stroke"].find(tmp_path / "set", stroke.MODALITIES, labels_required=True)
    assert [case.id for case in found] == ["stroke_phantom_000", "stroke_phantom_001"]
