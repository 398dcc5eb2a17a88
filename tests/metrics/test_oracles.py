"""Every metric that a public tool has, on 200 cases of it: the tools are those of the `oracle` extra."""

import math

import numpy as np
import pytest
from skimage.measure import shannon_entropy
from skimage.metrics import (
    hausdorff_distance,
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)

from jaxfuse.metrics import fusion, synthesis
from jaxfuse.metrics.calibration import BINS, brier, ece, reliability
from jaxfuse.metrics.overlap import dice, iou, sensitivity, specificity
from jaxfuse.metrics.panoptic import panoptic_scores
from jaxfuse.metrics.surface import asd_mm, assd_mm, hausdorff_mm, hd95_mm
from jaxfuse.metrics.surfels import nsd, surfel_asd_mm, surfel_hd95_mm
from jaxfuse.metrics.voxel_sets import iseg_asd_mm, iseg_mhd_mm, mhd_dubuisson_mm
from tests.metrics.mask_pairs import COUNT, mask_pairs

pytestmark = pytest.mark.oracle
CLOSE = {"rel": 1e-6, "abs": 1e-9}


def _tool(name):
    return pytest.importorskip(name, reason=f"{name} comes with the oracle extra")


def test_overlap_is_that_of_medpy_and_of_scikit_learn():
    binary, public = _tool("medpy.metric.binary"), _tool("sklearn.metrics")
    for name, (pred, truth, _) in mask_pairs():
        flat = truth.ravel(), pred.ravel()
        found = dice(pred, truth), iou(pred, truth), sensitivity(pred, truth), specificity(pred, truth)
        both = {"zero_division": 1.0}
        assert found[:2] == pytest.approx(
            (public.f1_score(*flat, **both), public.jaccard_score(*flat, **both)), **CLOSE
        ), name
        if pred.any() or truth.any():
            expected = binary.dc(pred, truth), binary.jc(pred, truth), binary.sensitivity(pred, truth)
            assert found == pytest.approx((*expected, binary.specificity(pred, truth)), **CLOSE), name


def test_surface_distances_are_those_of_medpy():
    binary = _tool("medpy.metric.binary")
    for name, (pred, truth, spacing) in mask_pairs(empty=False):
        at = {"spacing_mm": spacing, "one_empty": math.nan}
        found = [distance(pred, truth, **at) for distance in (hausdorff_mm, hd95_mm, asd_mm, assd_mm)]
        expected = [f(pred, truth, spacing) for f in (binary.hd, binary.hd95, binary.asd, binary.assd)]
        assert found == pytest.approx(expected, **CLOSE), name


@pytest.mark.filterwarnings("ignore")
def test_surfels_are_those_of_surface_distance():
    public = _tool("surface_distance")
    for name, (pred, truth, spacing) in mask_pairs(empty=False):
        found = public.compute_surface_distances(truth, pred, spacing)
        at = {"spacing_mm": spacing, "one_empty": math.nan}
        assert surfel_hd95_mm(pred, truth, **at) == pytest.approx(
            public.compute_robust_hausdorff(found, 95), **CLOSE
        ), name
        averages = surfel_asd_mm(truth, pred, **at), surfel_asd_mm(pred, truth, **at)
        assert averages == pytest.approx(public.compute_average_surface_distance(found), **CLOSE), name
        for mm in (1.0, 2.0):
            expected = public.compute_surface_dice_at_tolerance(found, mm)
            assert nsd(pred, truth, spacing_mm=spacing, tolerance_mm=mm) == pytest.approx(expected, **CLOSE), name


def test_distances_of_voxel_sets_are_those_of_simpleitk_and_scikit_image():
    public = _tool("SimpleITK")
    for name, (pred, truth, spacing) in mask_pairs(empty=False):
        images = [public.GetImageFromArray(mask.astype(np.uint8)) for mask in (pred, truth)]
        for image in images:
            image.SetSpacing([float(side) for side in spacing[::-1]])
        measure = public.HausdorffDistanceImageFilter()
        measure.Execute(*images)
        at = {"spacing_mm": spacing, "one_empty": math.nan}
        found = iseg_mhd_mm(pred, truth, **at), iseg_asd_mm(pred, truth, **at)
        # Its distance maps are in float32.
        expected = measure.GetHausdorffDistance(), measure.GetAverageHausdorffDistance()
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), name
        unit = {"spacing_mm": (1.0,) * pred.ndim, "one_empty": math.nan}
        assert iseg_mhd_mm(pred, truth, **unit) == pytest.approx(hausdorff_distance(pred, truth), **CLOSE), name
        modified = hausdorff_distance(pred, truth, method="modified")
        assert mhd_dubuisson_mm(pred, truth, **unit) == pytest.approx(modified, **CLOSE), name


@pytest.mark.filterwarnings("ignore")
def test_panoptic_quality_is_that_of_panoptica():
    public = _tool("panoptica")
    evaluator = public.Panoptica_Evaluator(
        expected_input=public.InputType.SEMANTIC,
        instance_approximator=public.ConnectedComponentsInstanceApproximator(),
        # It takes an IoU that equals the threshold for a match.
        instance_matcher=public.NaiveThresholdMatching(matching_threshold=0.5000001),
        instance_metrics=[public.Metric.IOU],
        global_metrics=[],
    )
    for name, (pred, truth, _) in mask_pairs(axes=3, empty=False):
        result = evaluator.evaluate(pred.astype(np.uint8), truth.astype(np.uint8), verbose=False)["ungrouped"]
        scores = panoptic_scores(pred, truth)
        counts = len(scores.ious), scores.false_positives, scores.false_negatives
        assert counts == (result.tp, result.fp, result.fn), name
        if scores.ious:
            found = scores.quality, scores.segmentation, scores.recognition
            assert found == pytest.approx((result.pq, result.sq, result.rq), **CLOSE), name


def _chances(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 6))
    chances = rng.dirichlet(np.full(classes, rng.uniform(0.2, 2)), int(rng.integers(20, 400)))
    truth = rng.integers(0, classes, len(chances))
    sure = rng.random(len(chances)) < 0.1
    chances[sure] = np.eye(classes)[truth[sure]]
    return chances, truth


def test_calibration_is_that_of_scikit_learn():
    metrics, curves = _tool("sklearn.metrics"), _tool("sklearn.calibration")
    for seed in range(COUNT):
        chances, truth = _chances(seed)
        labels = np.arange(chances.shape[1])
        expected = metrics.brier_score_loss(truth, chances, labels=labels, scale_by_half=False)
        assert brier(chances, truth) == pytest.approx(expected, **CLOSE), seed
        confidence, hits = chances.max(axis=1), chances.argmax(axis=1) == truth
        accuracy, mean = curves.calibration_curve(hits, confidence, n_bins=BINS)
        found = reliability(chances, truth)
        assert (found.accuracy, found.confidence) == (pytest.approx(accuracy), pytest.approx(mean)), seed
        assert ece(chances, truth) == pytest.approx(found.share @ np.abs(accuracy - mean), **CLOSE), seed


def _images(seed, *, levels=False):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(11, 24, 2 if seed % 2 else 3)) if not levels else tuple(rng.integers(12, 30, 2))
    first = rng.random(shape) * rng.uniform(0.2, 3)
    second = first + rng.normal(0, rng.uniform(0.01, 0.5), shape) * first.max()
    second = np.abs(second)
    if not levels:
        return first, second
    return [np.round(255 * image / max(first.max(), second.max())) for image in (first, second)]


def test_synthesis_is_that_of_scikit_image():
    gauss = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for seed in range(COUNT):
        real, made = _images(seed)
        top = max(real.max(), made.max())
        expected = (
            peak_signal_noise_ratio(real, made, data_range=top),
            normalized_root_mse(real, made) ** 2,
            structural_similarity(real, made, data_range=top, **gauss),
        )
        found = synthesis.psnr_db(real, made), synthesis.nmse(real, made), synthesis.ssim(real, made)
        assert found == pytest.approx(expected, **CLOSE), seed


def test_fused_images_are_measured_as_scikit_learn_scikit_image_and_numpy_do():
    metrics = _tool("sklearn.metrics")
    for seed in range(COUNT):
        first, second = _images(seed, levels=True)
        fused = np.round((first + second) / 2)
        sources = [first, second]
        information = sum(metrics.mutual_info_score(fused.ravel(), one.ravel()) for one in sources)
        window = {"win_size": 7, "data_range": 2.0, "use_sample_covariance": True}
        expected = {
            "en": shannon_entropy(fused.astype(np.uint8), base=2),
            "mi": information,
            "ssim": sum(structural_similarity(fused, one, **window) for one in sources),
            "sd": np.std(fused),
            "scd": sum(
                np.corrcoef((fused - one).ravel(), other.ravel())[0, 1] for one, other in (sources, sources[::-1])
            ),
        }
        found = {
            "en": fusion.en_bits(fused),
            "mi": fusion.mi(fused, sources),
            "ssim": fusion.ssim(fused, sources),
            "sd": fusion.sd(fused),
            "scd": fusion.scd(fused, sources),
        }
        assert found == pytest.approx(expected, **CLOSE), seed
