"""Phantom gliomas: the physics by hand-worked values, the anatomy by its invariants, the files by their bytes."""

import itertools
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import gamma

from jaxfuse.data.phantom import brats, signal
from jaxfuse.data.phantom.anatomy import draw_anatomy, draw_head, head_position
from jaxfuse.data.phantom.fields import Grid, ellipsoid_mm, smooth_field, smooth_field_length_mm
from jaxfuse.data.phantom.glioma import draw_glioma, glioma_maps
from tests.made_cases import MODALITIES
from tests.refusals import refused

# The same head as on the default grid, at an eighth of the voxels.
SMALL = {"shape": (32, 32, 24), "spacing_mm": 6.0}


def test_echoes_by_hand():
    # TR = T1 ln 2 saturates to one half, TE = T2 ln 2 decays to one half: 0.8 / 4.
    ln2 = np.log(2)
    assert signal.spin_echo(0.8, 1000.0, 80.0, tr_ms=1000 * ln2, te_ms=80 * ln2) == pytest.approx(0.2)
    # exp(-TI/T1) = 1/4 and exp(-TR/T1) = 1/16: |1 - 1/2 + 1/16| = 9/16, halved by T2.
    value = signal.inversion_recovery(1.0, 1000.0, 100.0, tr_ms=4000 * ln2, te_ms=100 * ln2, ti_ms=2000 * ln2)
    assert value == pytest.approx(9 / 32)


def test_null_inversion_time_nulls_and_that_of_flair_nulls_fluid():
    ti = signal.null_inversion_ms(4163.0, 9000.0)
    assert signal.inversion_recovery(1.0, 4163.0, 503.0, tr_ms=9000, te_ms=120, ti_ms=ti) == pytest.approx(0, abs=1e-12)
    flair = signal.SEQUENCES["flair"]
    null = signal.null_inversion_ms(signal.TISSUES_3T["fluid"].t1_ms, flair.tr_ms)
    assert flair.ti_ms == pytest.approx(null, rel=0.02)


def test_gadolinium_adds_rates_and_shortens_t1_of_the_rim_as_measured():
    # 1/1000 + 5 * 0.2 / 1000 = 2/1000 per ms.
    assert signal.shortened_t1_ms(1000.0, 0.2, r1=5.0) == pytest.approx(500.0)
    assert signal.shortened_t1_ms(1234.0, 0.0) == pytest.approx(1234.0)
    t1 = signal.TISSUES_3T["enhancing"].t1_ms
    gliomas = [draw_glioma(np.random.default_rng(seed), low_grade=False) for seed in range(200)]
    drops = [t1 - signal.shortened_t1_ms(t1, glioma.concentration_mmol_l) for glioma in gliomas]
    # 838 +- 210 ms in glioblastoma, NMR Biomed 2020.
    assert np.mean(drops) == pytest.approx(838, abs=60)
    assert 838 - 2 * 210 < min(drops) < max(drops) < 838 + 2 * 210


def test_flow_leaves_the_slice():
    # 100 mm/s for half of 50 ms is 2.5 mm of a 5 mm slice.
    left = [signal.flow_remaining(speed, te_ms=50.0, slice_mm=5.0) for speed in (0.0, 100.0, 1000.0)]
    assert left == [1.0, pytest.approx(0.5), 0.0]


def _level(name: str, modality: str) -> float:
    tissue = signal.TISSUES_3T[name]
    return float(signal.sequence_signal(signal.SEQUENCES[modality], tissue.density, tissue.t1_ms, tissue.t2_ms))


@pytest.mark.parametrize(
    ("modality", "brightest_first"),
    [
        ("t1", ("white", "gray", "necrosis", "fluid")),
        ("t1", ("methemoglobin", "white")),
        ("t1", ("edema", "necrosis")),
        ("t2", ("fluid", "edema", "gray", "white")),
        ("flair", ("edema", "gray", "white", "fluid")),
        ("flair", ("non-enhancing", "gray")),
    ],
)
def test_gray_values_are_in_the_order_of_radiology(modality, brightest_first):
    levels = [_level(name, modality) for name in brightest_first]
    assert all(brighter > darker for brighter, darker in itertools.pairwise(levels))


def test_gliosis_looks_like_edema_on_flair():
    assert _level("gliosis", "flair") == pytest.approx(_level("edema", "flair"), rel=0.15)


def test_rician_moments():
    rng = np.random.default_rng(0)
    background = signal.rician(np.zeros(200_000, np.float32), 2.0, rng)
    assert background.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)
    assert np.mean(background.astype(np.float64) ** 2) == pytest.approx(8.0, rel=0.01)
    bright = signal.rician(np.full(200_000, 3.0, np.float32), 2.0, rng)
    assert np.mean(bright.astype(np.float64) ** 2) == pytest.approx(9.0 + 8.0, rel=0.01)


def test_axes_run_left_back_and_up():
    assert [axis.tolist() for axis in Grid((3, 2, 2), 4.0).axes_mm()] == [[4.0, 0.0, -4.0], [2.0, -2.0], [-2.0, 2.0]]


def test_smooth_field_is_the_same_place_on_every_grid():
    # The voxel centers of the coarse grid are every third of the fine one.
    coarse = smooth_field(np.random.default_rng(5), Grid((9, 9, 9), 3.0), 10.0)
    fine = smooth_field(np.random.default_rng(5), Grid((27, 27, 27), 1.0), 10.0)
    np.testing.assert_allclose(fine[1::3, 1::3, 1::3], coarse, atol=1e-5)


def test_smooth_field_moments_and_length():
    field = smooth_field(np.random.default_rng(1), Grid((120, 120, 120), 2.0), 12.0).astype(np.float64)
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.std() == pytest.approx(1, rel=0.05)
    gradient = np.sqrt(sum(np.mean(np.square(g)) for g in np.gradient(field, 2.0)))
    assert 1 / gradient == pytest.approx(smooth_field_length_mm(12.0), rel=0.05)


def test_distances_of_a_sphere_are_exact_and_an_ellipsoid_fills_its_volume():
    x, y, z = np.meshgrid(*(np.linspace(-9, 9, 7, dtype=np.float32),) * 3, indexing="ij")
    distance = ellipsoid_mm((x, y, z), (1, 0, 0), (6, 6, 6))
    np.testing.assert_allclose(distance, 6 - np.sqrt((x - 1) ** 2 + y**2 + z**2), atol=1e-4)
    grid = Grid((40, 40, 40), 2.0)
    places = tuple(np.meshgrid(*grid.axes_mm(), indexing="ij"))
    for power in (2.0, 2.3):
        volume = grid.occupancy(ellipsoid_mm(places, (1, 2, 3), (20, 24, 30), power)).sum() * 8.0
        # 4/3 pi for a ball; in general the unit superball has the volume 8 Gamma(1 + 1/p)^3 / Gamma(1 + 3/p).
        unit_ball = 8 * gamma(1 + 1 / power) ** 3 / gamma(1 + 3 / power)
        assert volume == pytest.approx(unit_ball * 20 * 24 * 30, rel=0.01)


def _drawn(seed: int, *, low_grade: bool):
    grid, rng = Grid((64, 64, 48), 3.0), np.random.default_rng(seed)
    head = draw_head(rng)
    position = head_position(rng, grid, head)
    glioma = draw_glioma(rng, low_grade=low_grade)
    anatomy = draw_anatomy(rng, grid, head, position, glioma.displace)
    return anatomy, glioma_maps(rng, grid, anatomy, position, glioma)


def test_healthy_head_is_an_adult_brain():
    grid, rng = Grid((64, 64, 48), 3.0), np.random.default_rng(3)
    head = draw_head(rng)
    anatomy = draw_anatomy(rng, grid, head, head_position(rng, grid, head))
    total = sum(anatomy.fractions.values())
    np.testing.assert_allclose(total[anatomy.brain], 1, atol=1e-5)
    assert (total[~anatomy.brain] == 0).all()
    ml = {name: share.sum() * 0.027 for name, share in anatomy.fractions.items()}
    assert 900 < ml["gray"] + ml["white"] + ml["deep gray"] < 1500
    assert 0.5 < ml["gray"] / ml["white"] < 2.0
    # The hemispheres are apart at the top and joined in the middle.
    assert ndimage.label(anatomy.brain)[1] == 1
    assert 10 < grid.occupancy(anatomy.ventricle_mm).sum() * 0.027 < 80


def test_cortex_covers_white_matter():
    anatomy, _ = _drawn(1, low_grade=False)
    outer = anatomy.brain & ~ndimage.binary_erosion(anatomy.brain, iterations=1)
    assert anatomy.fractions["white"][outer & (anatomy.position[2] > 0)].mean() < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tumor_is_nested_and_within_the_brain(seed):
    anatomy, maps = _drawn(seed, low_grade=False)
    label = maps.label
    whole, enhancing, core = label > 0, label == 4, (label == 4) | (label == 1)
    assert set(np.unique(label)) == {0, 1, 2, 4}
    assert not (whole & ~anatomy.brain).any()
    assert ndimage.label(whole)[1] == 1
    total = sum(maps.fractions.values())
    assert -1e-5 <= total.min() <= total.max() <= 1 + 1e-5
    # Each label is where its own tissue fills most of the tumor.
    assert (maps.fractions["enhancing"][enhancing] > 0.25).all()
    assert (maps.fractions["edema"][label == 2] > 0.3).all()
    # The rim is at least two voxels thick somewhere, and lies inside the edema.
    assert ndimage.binary_erosion(core, iterations=2).any()
    shell = ndimage.binary_dilation(core, iterations=2) & anatomy.brain
    assert (label[shell] > 0).mean() > 0.6


def test_low_grade_tumor_has_no_enhancement_in_label_or_maps():
    _, maps = _drawn(0, low_grade=True)
    assert set(np.unique(maps.label)) == {0, 1, 2}
    assert "enhancing" not in maps.fractions
    assert (maps.concentration_mmol_l == 0).all()


def test_mass_effect_moves_nothing_at_the_center_and_most_at_its_reach():
    glioma = draw_glioma(np.random.default_rng(0), low_grade=False)
    reach = 1.5 * np.mean(glioma.semi_mm)
    x, y, z = (np.full((3, 1, 1), c, np.float32) for c in glioma.center)
    x = x + np.array([0.0, reach, 6 * reach], np.float32).reshape(3, 1, 1)
    moved = (x - glioma.displace((x, y, z))[0]).ravel()
    np.testing.assert_allclose(moved, [0, glioma.push_mm, glioma.push_mm * 6 * np.exp(-5)], atol=1e-3)


def test_without_noise_the_same_case_at_the_stated_noise_level():
    (noisy, label), (clean, same) = (brats.make_case(5, 0, noise=on) for on in (True, False))
    np.testing.assert_array_equal(label, same)
    for modality in brats.MODALITIES:
        brain = clean[modality] > 0
        np.testing.assert_array_equal(brain, noisy[modality] > 0)
        # Where the signal is strong, Rician noise is Gaussian of 3 to 5 % of the mean signal.
        bright = brain & (clean[modality] > np.median(clean[modality][brain]))
        share = (noisy[modality] - clean[modality])[bright].std() / clean[modality][brain].mean()
        assert 0.028 < share < 0.056


def test_another_scanner_shows_the_same_head_with_its_own_noise_and_field(tmp_path):
    noisy = signal.SCANNER_3T._replace(noise=(0.2, 0.2), gain=(50, 50))
    (one, label), (other, same) = (brats.make_case(3, 1, **SMALL, scanner=s) for s in (signal.SCANNER_3T, noisy))
    np.testing.assert_array_equal(label, same)
    for modality, image in one.items():
        brain = image > 0
        np.testing.assert_array_equal(other[modality] > 0, brain)
        assert other[modality][brain].mean() == pytest.approx(50, rel=0.1)
        spread = [(x[modality][brain] / x[modality][brain].mean()).std() for x in (one, other)]
        assert spread[1] > spread[0]
    for root, scanner in (("a", signal.SCANNER_3T), ("b", noisy)):
        brats.write_brats_phantoms(tmp_path / root, cases=1, seed=3, **SMALL, scanner=scanner)
    told = [json.loads((tmp_path / root / "phantom.json").read_text()).get("scanner") for root in ("a", "b")]
    assert (told[0], "noise=(0.2, 0.2)" in told[1]) == (None, True)
    refused("holds", brats.write_brats_phantoms, tmp_path / "b", cases=1, seed=3, **SMALL)


def test_background_is_zero_and_the_brain_is_not():
    images, label = brats.make_case(0, 0, **SMALL)
    assert {name: image.dtype for name, image in images.items()} == dict.fromkeys(MODALITIES, np.float32)
    brain = images["t1"] != 0
    assert 0.15 < brain.mean() < 0.5
    assert not brain[[0, -1]].any()
    for image in images.values():
        np.testing.assert_array_equal(image != 0, brain)
        assert 1 <= image[brain].min() <= image.max() < np.iinfo(np.int16).max
    assert (label[~brain] == 0).all()


def test_enhancement_shows_after_contrast_only():
    images, label = brats.make_case(0, 0)
    rim, edema = label == 4, label == 2
    ratio = {m: images[m][rim].mean() / images[m][edema].mean() for m in ("t1", "t1ce")}
    assert ratio["t1ce"] > 1.3
    assert 0.8 < ratio["t1"] < 1.2


def test_same_head_on_a_finer_grid():
    coarse, _ = brats.make_case(2, 1, shape=(32, 32, 24), spacing_mm=6.0)
    fine, _ = brats.make_case(2, 1, shape=(64, 64, 48), spacing_mm=3.0)
    # Block means of the fine brain mask tell where the coarse one must lie.
    share = (fine["t1"] != 0).reshape(32, 2, 32, 2, 24, 2).mean(axis=(1, 3, 5))
    brain = coarse["t1"] != 0
    assert 2 * (brain & (share > 0.5)).sum() / (brain.sum() + (share > 0.5).sum()) > 0.97


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.25, 1.0])
def test_low_grade_share(fraction):
    grades = [brats.is_low_grade(i, fraction) for i in range(100)]
    assert [sum(grades[:n]) for n in (1, 4, 5, 20, 100)] == [int(n * fraction + 1e-9) for n in (1, 4, 5, 20, 100)]


def test_generator_starts_without_jax():
    code = "import sys, jaxfuse.data.phantom.brats; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    root, seen = tmp_path_factory.mktemp("phantoms") / "set", []
    asked = {"cases": 3, "seed": 1, "low_grade_fraction": 0.5, **SMALL}
    folders = brats.write_brats_phantoms(root, on_case=lambda *done: seen.append(done), **asked)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return root, folders


def test_layout_names_and_record(data_set):
    root, folders = data_set
    training = root / "MICCAI_BraTS_2018_Data_Training"
    cases = ("HGG/Brats18_PHANTOM_000_1", "LGG/Brats18_PHANTOM_001_1", "HGG/Brats18_PHANTOM_002_1")
    assert folders == [training / case for case in cases]
    for folder in folders:
        assert {p.name for p in folder.iterdir()} == {f"{folder.name}_{s}.nii.gz" for s in (*MODALITIES, "seg")}
    assert {p.name for p in root.iterdir()} == {training.name, "phantom.json"}
    assert [p.name for p in root.parent.iterdir()] == ["set"]
    asked = {"cases": 3, "seed": 1, "shape": [32, 32, 24], "spacing_mm": 6.0, "low_grade_fraction": 0.5}
    made = {"generator": "jaxfuse.data.phantom.brats", "version": brats.VERSION}
    assert json.loads((root / "phantom.json").read_text()) == made | asked


def test_files_hold_the_case_in_brats_geometry(data_set):
    _, folders = data_set
    images, label = brats.make_case(1, 1, low_grade=True, **SMALL)
    for suffix, array in {**images, "seg": label}.items():
        volume = nib.load(folders[1] / f"{folders[1].name}_{suffix}.nii.gz")
        np.testing.assert_array_equal(np.asarray(volume.dataobj), np.rint(array))
        assert volume.get_data_dtype() == (np.uint8 if suffix == "seg" else np.int16)
        np.testing.assert_array_equal(volume.affine, [[-6, 0, 0, 0], [0, -6, 0, 186], [0, 0, 6, 0], [0, 0, 0, 1]])
        assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
        assert volume.header.get_zooms() == (6, 6, 6)
        assert volume.header.get_xyzt_units()[0] == "mm"


def test_a_case_does_not_depend_on_the_number_of_cases_and_bytes_repeat(data_set, tmp_path):
    _, folders = data_set
    (alone,) = brats.write_brats_phantoms(tmp_path / "one", cases=1, seed=1, low_grade_fraction=0.5, **SMALL)
    for file in alone.iterdir():
        packed = file.read_bytes()
        assert packed == (folders[0] / file.name).read_bytes()
        # RFC 1952: no flags (so no file name) and no modification time.
        assert packed[3:8] == bytes(5)


def test_a_damaged_set_is_refused(tmp_path):
    (folder,) = brats.write_brats_phantoms(tmp_path / "set", cases=1, seed=0, **SMALL)
    folder.rename(tmp_path / "elsewhere")
    refused("not whole: 1 of 1", brats.write_brats_phantoms, tmp_path / "set", cases=1, seed=0, **SMALL)
