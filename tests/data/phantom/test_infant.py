"""Phantom infants: geometry, the contrast that the isointense age is about, files and their bytes."""

import nibabel as nib
import numpy as np
import pytest

from jaxfuse.data.phantom import infant
from jaxfuse.data.phantom.anatomy import draw_anatomy, head_position
from jaxfuse.data.phantom.fields import Grid
from jaxfuse.data.phantom.signal import SEQUENCES, Tissue, sequence_signal
from jaxfuse.data.sources.volumes import VOLUMES

SMALL = {"shape": (32, 36, 28), "spacing_mm": 4.6}


def level(modality: str, tissue: Tissue) -> float:
    return float(sequence_signal(SEQUENCES[modality], tissue.density, tissue.t1_ms, tissue.t2_ms))


@pytest.fixture(scope="module")
def case():
    return infant.make_infant(0, 0)


def test_unripe_white_matter_differs_on_t2_alone_and_ripe_on_t1_alone():
    contrast = {
        (modality, state): level(modality, tissue) / level(modality, infant._GRAY) - 1
        for modality in ("t1", "t2")
        for state, tissue in (("unripe", infant._UNRIPE), ("ripe", infant._RIPE))
    }
    assert abs(contrast["t1", "unripe"]) < 0.01
    assert 0.05 < contrast["t2", "unripe"] < 0.12
    assert 0.05 < contrast["t1", "ripe"] < 0.12
    assert abs(contrast["t2", "ripe"]) < 0.02
    # In the sum of both images the two states stand out alike.
    sums = [contrast["t1", state] + contrast["t2", state] for state in ("unripe", "ripe")]
    assert sums[0] == pytest.approx(sums[1], rel=0.3)


def test_water_swings_both_images_against_each_other_by_as_much_as_tissues_differ():
    dry, wet = (
        Tissue(infant._GRAY.t1_ms * factor, infant._GRAY.t2_ms * factor, infant._GRAY.density)
        for factor in np.exp(infant._WATER_SHARE * np.array([-1, 1]))
    )
    t1, t2 = (level(m, wet) / level(m, dry) - 1 for m in ("t1", "t2"))
    assert (t1, t2) == (pytest.approx(-0.1, abs=0.03), pytest.approx(0.1, abs=0.03))
    assert abs(t1 + t2) < 0.02


def test_tissues_fill_the_brain_in_the_shares_of_an_infant(case):
    images, label = case
    brain = label > 0
    shares = [(label[brain] == value).mean() for value in (10, 150, 250)]
    # iSeg's subjects have about 22, 47 and 31 %.
    np.testing.assert_allclose(shares, [0.22, 0.47, 0.31], atol=0.05)
    assert set(np.unique(label)) == {0, 10, 150, 250}
    assert 650 < brain.sum() * 2.3**3 / 1000 < 1150  # ml, outer fluid included
    for image in images.values():
        np.testing.assert_array_equal(image != 0, brain)
        assert image[brain].min() >= 1


def test_fluid_stands_out_and_gray_and_white_matter_overlap(case):
    images, label = case
    for modality, image in images.items():
        fluid, gray, white = (image[label == value] for value in (10, 150, 250))
        apart = abs(gray.mean() - white.mean())
        assert apart < np.hypot(gray.std(), white.std())
        assert abs(fluid.mean() - gray.mean()) > 2 * apart
        assert (fluid.mean() > gray.mean()) == (modality == "t2")


def test_the_back_ripens_before_the_front_and_the_middle_before_the_surface():
    grid = Grid((32, 36, 28), 4.6)
    differences = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        head = infant.draw_infant_head(rng)
        anatomy = draw_anatomy(rng, grid, head, head_position(rng, grid, head))
        ripe, front = infant.ripeness_map(rng, grid, anatomy), anatomy.position[1]
        assert 0 <= ripe.min() <= ripe.max() <= 1
        brain, hull = anatomy.brain, anatomy.hull_mm
        pairs = ((brain & (front < -30), brain & (front > 30)), (hull > 25, (hull > 0) & (hull < 10)))
        differences.append([ripe[early].mean() - ripe[late].mean() for early, late in pairs])
    assert np.mean(differences, axis=0).min() > 0.1


def test_files_are_a_data_set_of_iseg(tmp_path):
    made, root = infant.write_infant_phantoms(tmp_path / "set", cases=2, seed=1, **SMALL), tmp_path / "set"
    assert made[1] == root / "subject-2-T1.hdr"
    parts = {f"subject-{n}-{p}.{e}" for n in (1, 2) for p in ("T1", "T2", "label") for e in ("hdr", "img")}
    assert {path.name for path in root.iterdir()} == {*parts, "phantom.json"}
    images, label = infant.make_infant(1, 1, **SMALL)
    for part, array in (("T2", np.rint(images["t2"])), ("label", label)):
        volume = nib.load(root / f"subject-2-{part}.hdr")
        assert (isinstance(volume, nib.AnalyzeImage), volume.shape) == (True, (32, 36, 28, 1))
        np.testing.assert_allclose(volume.header.get_zooms()[:3], 4.6, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(volume.dataobj)[..., 0], array)
    found = VOLUMES["iseg"].find(root, ("t1", "t2"), labels_required=True)
    assert [case.id for case in found] == ["subject-1", "subject-2"]
