import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter

from jaxfuse.metrics import distances
from jaxfuse.metrics.surface import asd_mm, assd_mm, hausdorff_mm, hd95_mm, mhd_mm, surface_distances_mm
from tests.refusals import refused

ALL = (hausdorff_mm, hd95_mm, mhd_mm, asd_mm, assd_mm)
PIXELS = {"spacing_mm": (1.0, 1.0), "one_empty": math.nan}


def blob(seed: int, shape: tuple[int, ...], share: float = 0.3) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 1 - share)


def all_distances(pred, truth, spacing) -> tuple[np.ndarray, np.ndarray]:
    """D1 and D2 by comparing every pair of surface voxels."""
    p, t = (np.argwhere(m & ~binary_erosion(m)) * spacing for m in (pred, truth))
    pairs = np.linalg.norm(p[:, None] - t[None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


def test_two_voxels_three_and_four_apart():
    pred, truth = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    pred[1, 1] = truth[4, 5] = True
    for distance in ALL:
        assert distance(pred, truth, **PIXELS) == 5
        assert distance(pred, truth, spacing_mm=(2.0, 0.5), one_empty=math.nan) == pytest.approx(math.hypot(6, 2))


def test_pooled_and_directed_by_hand():
    """On a line: truth at 0; prediction at 0, 2 and 6. D1 = 0, 2, 6; D2 = 0; pooled 0, 0, 2, 6."""
    pred, truth = np.zeros(9, bool), np.zeros(9, bool)
    pred[[0, 2, 6]] = truth[0] = True
    at = {"spacing_mm": (1.0,), "one_empty": math.nan}
    # Linear interpolation: rank 0.95 x 3 = 2.85 of the pooled, 0.95 x 2 = 1.9 of D1.
    assert hd95_mm(pred, truth, **at) == pytest.approx(2 + 0.85 * 4)
    assert hd95_mm(pred, truth, method="directed", **at) == pytest.approx(2 + 0.9 * 4)
    assert (asd_mm(pred, truth, **at), asd_mm(truth, pred, **at)) == (pytest.approx(8 / 3), 0)
    assert mhd_mm(pred, truth, **at) == mhd_mm(truth, pred, **at) == pytest.approx(8 / 3)
    assert (hausdorff_mm(pred, truth, **at), assd_mm(pred, truth, **at)) == (6, 2)
    assert assd_mm(pred, truth, method="mean_of_means", **at) == pytest.approx(4 / 3)


def test_only_the_surface_counts():
    """A 5 x 5 x 5 cube with a hole in its center: the six voxels around the hole lie 1 mm inside the cube's surface."""
    cube = np.pad(np.ones((5, 5, 5), bool), 1)
    hollow = cube.copy()
    hollow[3, 3, 3] = False
    at = {"spacing_mm": (1.0, 1.0, 1.0), "one_empty": math.nan}
    outer = 5**3 - 3**3
    assert (hausdorff_mm(hollow, cube, **at), asd_mm(cube, hollow, **at)) == (1, 0)
    assert asd_mm(hollow, cube, **at) == pytest.approx(6 / (outer + 6))
    # The edge of an array is surface too: the center of a full mask lies 2 mm inside.
    full, center = np.ones((5, 5), bool), np.zeros((5, 5), bool)
    center[2, 2] = True
    assert asd_mm(center, full, **PIXELS) == 2


@pytest.mark.parametrize("shape", [(17, 23), (9, 12, 10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_every_pair_compared(shape, seed):
    spacing = (0.7, 2.0, 1.3)[: len(shape)]
    pred, truth = blob(seed, shape), blob(seed + 10, shape, 0.2)
    d1, d2 = all_distances(pred, truth, spacing)
    both = np.concatenate([d1, d2])
    at = {"spacing_mm": spacing, "one_empty": math.nan}
    found = [distance(pred, truth, **at) for distance in (hausdorff_mm, hd95_mm, asd_mm, assd_mm)]
    assert found == pytest.approx([both.max(), np.percentile(both, 95), d1.mean(), both.mean()], rel=1e-12)
    directed = max(np.percentile(d1, 95), np.percentile(d2, 95))
    assert hd95_mm(pred, truth, method="directed", **at) == pytest.approx(directed, rel=1e-12)
    assert assd_mm(pred, truth, method="mean_of_means", **at) == pytest.approx((d1.mean() + d2.mean()) / 2, rel=1e-12)


def test_tree_and_distance_transform_agree(monkeypatch):
    """The choice between the two is one of speed: a far stray voxel takes the tree, compact blobs the transform."""
    pred, truth = np.zeros((2, 60, 60, 60), bool)
    truth[:9, :12, :10] = blob(3, (9, 12, 10))
    pred[:9, :12, :10] = blob(4, (9, 12, 10))
    pred[59, 58, 57] = True
    used = []
    for name in ("_by_tree", "_by_transform"):
        original = getattr(distances, name)
        monkeypatch.setattr(distances, name, lambda *a, f=original, n=name: used.append(n) or f(*a))
    at = {"spacing_mm": (1.0, 1.5, 0.8), "one_empty": math.nan}
    by_tree = [f(pred, truth, **at) for f in ALL]
    monkeypatch.setattr(distances, "_TREE_COST", 10**9)
    by_transform = [f(pred, truth, **at) for f in ALL]
    assert used == ["_by_tree"] * 5 + ["_by_transform"] * 5
    assert by_tree == pytest.approx(by_transform, rel=1e-12)


def test_all_at_once_are_each_alone():
    pred, truth = blob(7, (9, 10, 8)), blob(8, (9, 10, 8))
    at = {"spacing_mm": (1.0, 1.5, 0.8), "one_empty": 7.0}
    alone = dict(zip(("hd_mm", "hd95_mm", "mhd_mm", "asd_mm", "assd_mm"), ALL, strict=True))
    assert surface_distances_mm(pred, truth, **at) == {name: f(pred, truth, **at) for name, f in alone.items()}
    assert surface_distances_mm(pred, np.zeros_like(pred), **at) == dict.fromkeys(alone, 7.0)


def test_empty_masks():
    empty, mask = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    for distance in ALL:
        assert distance(empty, empty, spacing_mm=(1.0, 1.0), one_empty=374.0) == 0
        assert distance(empty, mask, spacing_mm=(1.0, 1.0), one_empty=374.0) == 374
        assert distance(mask, empty, spacing_mm=(1.0, 1.0), one_empty=math.inf) == math.inf
        assert math.isnan(distance(mask, empty, **PIXELS))
        with pytest.raises(TypeError, match="one_empty"):
            distance(mask, mask, spacing_mm=(1.0, 1.0))


def test_where_the_masks_lie_in_the_array_changes_nothing():
    masks = blob(5, (9, 9, 9)), blob(6, (9, 9, 9))
    at = {"spacing_mm": (1.0, 2.0, 3.0), "one_empty": math.nan}
    padded = [np.pad(mask, ((0, 11), (7, 3), (4, 0))) for mask in masks]
    assert [distance(*padded, **at) for distance in ALL] == [distance(*masks, **at) for distance in ALL]


def test_refuses_spacings_shapes_and_methods_that_do_not_fit():
    full, flat = np.ones((3, 3, 3)), np.ones((3, 3))
    for spacing in ((1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, -1.0), (1.0, 1.0, math.nan)):
        refused("3 array axes", hd95_mm, full, full, spacing_mm=spacing, one_empty=math.nan)
    refused("shape", assd_mm, flat, np.ones((3, 4)), **PIXELS)
    refused("pooled, directed", hd95_mm, flat, flat, **PIXELS, method="surfel")
    refused("mean_of_means", assd_mm, flat, flat, **PIXELS, method="directed")
