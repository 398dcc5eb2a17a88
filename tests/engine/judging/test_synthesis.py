"""Synthesized volumes whose scores are known, put together from slices and judged beside their sources."""

import functools
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.slices import View, every_slice, pictures, prepare_slices, volume_of
from jaxfuse.data.subjects import subjects_of
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.synthesis import synthesis
from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import predict_canvas
from jaxfuse.metrics.names import names_of
from jaxfuse.metrics.synthesis import METRICS, OFFICIAL, official_scores, psnr_db, score_synthesized
from jaxfuse.patches import tile_volume
from tests.engine.judging import heads
from tests.made_cases import case_files
from tests.refusals import refused

MODALITIES, SHAPE = ("t1", "t2", "flair"), (16, 15, 9)
MINMAX = NORMALIZATIONS["minmax"]
WINDOW = ((1, 15), (1, 14))
SIDE = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[list[CaseFiles], Path]:
    """Three heads with blank slices below and above; flair reaches one row farther than t1 and t2."""
    root = tmp_path_factory.mktemp("heads")
    found = []
    for seed, name in enumerate("abc"):
        arrays = {}
        for modality in MODALITIES:
            arrays[modality] = np.zeros(SHAPE, np.int16)
            box = (slice(3, 13), slice(2 if modality == "flair" else 3, 14), slice(2, 7))
            arrays[modality][box] = np.random.default_rng([seed, ord(modality[-1])]).integers(20, 200, SHAPE)[box]
        found.append(case_files(root, name, arrays, spacing_mm=(1, 1, 3)))
    return found, root / "cache"


@pytest.fixture(scope="module")
def slices(files):
    """All slices of each head, blank ones too."""
    options = {"keep": every_slice, "normalize": MINMAX, "view": View(window=WINDOW, blank=True), "cache": files[1]}
    made = prepare_slices(files[0], MODALITIES, None, **options)
    return [one for case in made.values() for one in case]


# How much each head's image is too bright; the factor of c is cut off at 1 by whoever judges.
FACTORS = {"a": 0.9, "b": 0.5, "c": 30.0}


def judge(pairs=("t1+t2", "flair")):
    return synthesis(Judged(None, "synthesized", pairs=pairs))


def answer(factor, image):
    """The real image too dark or too bright, and something where no source shows anything."""
    real = image[..., 2:]
    return jnp.where(real > 0, factor * real, 0.25)


def exact(factor, image):
    return factor * image[..., 2:]


@functools.cache
def program(answer, tiling, asked):
    def predict(factor, tiles):
        return {"synthesized": answer(factor, tiles["image"])}

    windows = windows_of(tiling, 4, stacked=len(tiling.tile) == 3)
    return jax.jit(lambda *given: predict_canvas(predict, *given, windows, asked))


def in_patches(case, asked, answer=answer, factor=None):
    """Outputs put together from patches, with what is needed of these."""
    image = np.asarray(case.image)
    stack = image if image.ndim == 3 else pictures(image, 2)
    tiling = tile_volume(stack.shape[:-1], (1,) * (stack.ndim - 3) + (SIDE, SIDE))
    laid = lay(tiling, Canvases())
    factor = FACTORS[case.id[0]] if factor is None else factor
    made = program(answer, tiling, asked)(factor, laid.image(stack), laid.places(windows_of(tiling, 4), 0.0))
    found = {name: laid.cut(np.asarray(one)) for name, one in made.items()}
    return found if image.ndim == 3 else {name: volume_of(one, 2) for name, one in found.items()}


def expected(case) -> np.ndarray:
    image = np.asarray(case.image)
    inside = image[..., :2].any(axis=-1)
    return np.where(inside, np.minimum(answer(FACTORS[case.id[0]], image)[..., 0], 1), 0)


def patch_by_patch(volume: np.ndarray) -> np.ndarray:
    """Each patch of each axial slice between 0 and 1, blank ones 0, averaged: by loops over patches in the corners."""
    total, count = np.zeros(volume.shape), np.zeros(volume.shape)
    rows, columns, slices = volume.shape
    for z, x, y in itertools.product(range(slices), (0, rows - SIDE), (0, columns - SIDE)):
        box = slice(x, x + SIDE), slice(y, y + SIDE), z
        patch = volume[box].astype(np.float64)
        if patch.max() > patch.min():
            total[box] += (patch - patch.min()) / (patch.max() - patch.min())
        count[box] += 1
    return total / count


def full(cases, folder, predict=in_patches, **options):
    document = heads.full(judge(**options), predict, cases, folder)
    return document, heads.rows_of(folder, "case", "output")


def test_the_score_is_the_mean_psnr_of_slices_that_show_something(slices):
    assert sum(not one.image[..., 2].any() for one in slices) == 3 * 4
    shown = [one for one in slices if one.image[..., 2].any()]
    wanted = np.mean([psnr_db(np.asarray(one.image[..., 2]), expected(one)) for one in shown])
    found = judge().quick(in_patches, slices)
    assert found == {"synthesized/psnr_db": pytest.approx(wanted), "score": pytest.approx(wanted)}
    assert math.isfinite(wanted)


def test_slices_are_judged_as_the_volumes_that_they_make_up(slices, files, tmp_path, drawn):
    assert heads.begins_as_it_says(judge(), in_patches, slices, tmp_path / "noted", skips=3 * 4)
    drawn.clear()
    document, rows = full(slices, tmp_path)
    assert list(rows) == [(case, name) for case in "abc" for name in ("synthesized", "copy of t1", "copy of t2")]
    volumes = subjects_of(slices)
    for volume in volumes:
        real, made = np.asarray(volume.image[..., 2]), expected(volume)
        assert real.shape == (14, 13, 9)
        row = rows[volume.id, "synthesized"]
        assert {name: row[name] for name in names_of(METRICS)} == pytest.approx(score_synthesized(real, made))
        # The public code sees what the network made, nothing cut off at 1 and nothing taken out but by the truth.
        image = np.asarray(volume.image)
        stretched = patch_by_patch(real), patch_by_patch(np.asarray(answer(FACTORS[volume.id], image))[..., 0])
        by_code = official_scores(*stretched)
        assert {name: row[name] for name in names_of(OFFICIAL)} == pytest.approx(by_code, rel=1e-4)
        assert official_scores(real, made)["official_nmse"] != pytest.approx(by_code["official_nmse"], rel=0.01)
        copy = official_scores(stretched[0], patch_by_patch(image[..., 1]))
        row = rows[volume.id, "copy of t2"]
        assert {name: row[name] for name in names_of(OFFICIAL)} == pytest.approx(copy, rel=1e-4)
        assert row["psnr_db"] == pytest.approx(score_synthesized(real, image[..., 1])["psnr_db"])
    # Where the sources are 0 nothing is made: outside that row the error of a is a tenth of the truth.
    real = np.asarray(volumes[0].image[..., 2])
    lost = np.sum(real[:, 1, :] ** 2)  # row 2 of the volume, whose window begins at 1
    assert rows["a", "synthesized"]["nmse"] == pytest.approx((0.01 * (np.sum(real**2) - lost) + lost) / np.sum(real**2))
    found = document["outputs"]["synthesized"]["psnr_db"]
    values = [rows[case, "synthesized"]["psnr_db"] for case in "abc"]
    assert (found["mean"], found["std"]) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    kept = heads.summary_of(tmp_path)
    assert (kept["kind"], kept["primary"], kept["cases"]) == ("synthesis", "synthesized", 3)
    assert (kept["sources"], kept["target"]) == (["t1", "t2"], "flair")
    assert kept["definitions"]["Grids"] == "14 x 13 x 9 voxels of each subject"
    assert kept["seconds_per_subject"] > 0
    with np.load(tmp_path / "results" / "synthesized.npz") as shown:
        assert list(shown) == ["a", "b"]
        np.testing.assert_allclose(shown["b"], expected(volumes[1]), atol=1e-3)


def test_volumes_are_judged_as_their_slices_are(slices, files, tmp_path, drawn):
    whole = prepare(files[0], MODALITIES, None, normalize=MINMAX, cache=files[1])
    document, rows = full(whole, tmp_path / "volumes")
    _, of_slices = full(slices, tmp_path / "slices")
    # The box of the brain has less background: the same errors make another PSNR, and no other NMSE.
    assert rows["a", "synthesized"]["nmse"] == pytest.approx(of_slices["a", "synthesized"]["nmse"])
    share = 14 * 13 * 9 / (10 * 12 * 5)
    gain = of_slices["a", "synthesized"]["psnr_db"] - rows["a", "synthesized"]["psnr_db"]
    assert gain == pytest.approx(10 * math.log10(share))
    # Ten columns are too few for the windows of SSIM, five slices for the 3D ones of the public code.
    assert math.isnan(rows["a", "synthesized"]["ssim"])
    found = document["outputs"]["synthesized"]
    assert [found[name]["undefined"] for name in names_of((*METRICS, *OFFICIAL))] == [0, 0, 3, 3, 3, 3]


def test_pictures_of_their_own_are_judged_alone(files, tmp_path, drawn):
    options = {"normalize": MINMAX, "view": View(window=WINDOW, one_per_case=True), "cache": files[1]}
    made = prepare_slices(files[0], MODALITIES, None, **options)
    cases = [one for case in made.values() for one in case]
    document, rows = full(cases, tmp_path)
    wanted = score_synthesized(np.asarray(cases[1].image[..., 2]), expected(cases[1]))
    row = rows[cases[1].id, "synthesized"]
    assert {name: row[name] for name in names_of(METRICS)} == pytest.approx(wanted)
    assert "seconds_per_slice" in document
    assert drawn[0]["truth"].shape == cases[1].facts.shape


def test_panels_show_the_worst_first_with_what_is_judged(slices, tmp_path, drawn):
    full(slices, tmp_path)
    assert sorted(asked["path"].name for asked in drawn) == ["a.png", "b.png", "c.png"]
    asked = drawn[0]
    assert asked["path"] == tmp_path / "figures" / "c.png"
    volume = subjects_of(slices)[2]
    assert (asked["title"], asked["target"], list(asked["sources"])) == ("fusion: c", "flair", ["t1", "t2"])
    np.testing.assert_array_equal(asked["sources"]["t2"], volume.image[..., 1])
    np.testing.assert_allclose(asked["made"]["synthesized"], expected(volume))
    assert (asked["spacing_mm"], asked["label"]) == ((1, 1, 3), None)


def test_a_perfect_volume_is_counted_as_undefined_and_not_averaged(slices, tmp_path, drawn):
    def perfect(case, asked):
        return in_patches(case, asked, exact, 1.0 if case.id.startswith("a") else 0.5)

    one_source_more = judge(pairs=("t1+t2+flair", "flair"))  # then nothing of flair lies outside the sources
    document = heads.full(one_source_more, perfect, slices, tmp_path)
    found = document["outputs"]["synthesized"]["psnr_db"]
    assert (found["n"], found["undefined"]) == (2, 1)
    assert math.isfinite(found["mean"])


def test_what_is_no_synthesis_is_refused(slices, files):
    for pairs in ((), ("t1+t2",), ("t1", "t2+flair"), ("t1", "t2", "flair")):
        refused("a synthesis is judged with its sources and its target named", judge, pairs)
    refused("pairs names pd, but the data has t1, t2, flair", judge(("t1", "pd")).quick, in_patches, slices)
    for outputs in ({}, {"synthesized": np.zeros((13, 14, 2))}):
        refused(
            "the output synthesized is not one image", judge().quick, lambda case, asked, made=outputs: made, slices
        )
    signed = prepare(files[0], MODALITIES, None, cache=files[1])
    told = "case a: flair runs from -.* images are judged in .* set data.normalize to minmax"
    refused(told, judge().quick, in_patches, signed)
    told = "the flair of all 2 cases that are watched while training is blank"
    refused(told, judge().quick, in_patches, slices[:2])
