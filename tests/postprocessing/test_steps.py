"""Steps of post-processing on made label maps of glioma: each changes what its rule says, and nothing else."""

import numpy as np
import pytest

from jaxfuse.labels import SCHEMES, label_scheme
from jaxfuse.postprocessing.steps import (
    FillHoles,
    KeepLargest,
    RemoveSmall,
    ReplaceSmallTotal,
    applied,
    members_of,
    read_step,
    step_document,
)

GLIOMA = SCHEMES["brats"]
NECROSIS, EDEMA, ENHANCING = 1, 2, 3
CORE_NAME, EDEMA_NAME, ENHANCING_NAME = GLIOMA.classes[1:]


def volume(*blocks: tuple[tuple[slice, ...], int], shape=(10, 10, 10)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for place, value in blocks:
        labels[place] = value
    return labels


def cube(first: int, side: int) -> tuple[slice, ...]:
    return (slice(first, first + side),) * 3


def changes(step, labels: np.ndarray, voxel_mm3: float = 1.0) -> dict[tuple[int, int], int]:
    """Applies a step; returns how many voxels went from one class to another."""
    kept = labels.copy()
    found = applied(step, labels, GLIOMA, voxel_mm3)
    np.testing.assert_array_equal(labels, kept)
    assert found.dtype == np.uint8
    pairs = zip(labels[found != labels].tolist(), found[found != labels].tolist(), strict=True)
    counts: dict[tuple[int, int], int] = {}
    for pair in pairs:
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def test_touching_labels_are_one_region_and_two_classes():
    """Edema beside core is one part of WT; of TC and of its class it is no part at all."""
    labels = volume((cube(1, 3), EDEMA), (cube(4, 2), NECROSIS), (cube(6, 2), NECROSIS))
    # Cubes touch by their corners.
    assert changes(KeepLargest("WT", "background"), labels) == {}
    assert changes(KeepLargest("WT", "background", 6), labels) == {(NECROSIS, 0): 16}
    assert changes(KeepLargest("TC", EDEMA_NAME, 18), labels) == {(NECROSIS, EDEMA): 8}
    assert changes(KeepLargest(CORE_NAME, EDEMA_NAME, 18), labels) == {(NECROSIS, EDEMA): 8}
    assert changes(KeepLargest("foreground", "background", 18), labels) == {(NECROSIS, 0): 16}


def test_volumes_are_in_mm3_whatever_the_voxels():
    labels = volume((cube(0, 1), EDEMA), (cube(3, 2), EDEMA), (cube(6, 3), EDEMA))
    for voxel_mm3 in (1.0, 0.25, 20.0):
        step = RemoveSmall("WT", "background", 8 * voxel_mm3)
        assert changes(step, labels, voxel_mm3) == {(EDEMA, 0): 1}
        more = RemoveSmall("WT", "background", 8.5 * voxel_mm3)
        assert changes(more, labels, voxel_mm3) == {(EDEMA, 0): 9}


def test_a_volume_that_is_short_by_rounding_alone_is_kept():
    side = float(np.float32(0.9999999))
    labels = volume((cube(3, 2), EDEMA))
    assert changes(RemoveSmall("WT", "background", 8.0), labels, side**3) == {}
    assert changes(ReplaceSmallTotal("WT", "background", 8.0), labels, side**3) == {}


def test_a_small_enhancing_tumor_becomes_necrosis_all_or_not_at_all():
    labels = volume((cube(1, 5), EDEMA), (cube(2, 2), ENHANCING), (cube(5, 1), ENHANCING))
    assert changes(ReplaceSmallTotal("ET", CORE_NAME, 10), labels) == {(ENHANCING, NECROSIS): 9}
    assert changes(ReplaceSmallTotal("ET", CORE_NAME, 9), labels) == {}
    assert changes(ReplaceSmallTotal("ET", CORE_NAME, 10), volume()) == {}


def test_holes_of_a_region_are_filled_by_one_of_its_classes():
    labels = volume((cube(1, 5), NECROSIS), (cube(3, 1), EDEMA), (cube(4, 1), 0))
    # Of WT the edema is a part; of TC it is a hole.
    assert changes(FillHoles("WT", EDEMA_NAME), labels) == {(0, EDEMA): 1}
    assert changes(FillHoles("TC", CORE_NAME), labels) == {(EDEMA, NECROSIS): 1, (0, NECROSIS): 1}


@pytest.mark.parametrize(
    "step",
    [
        KeepLargest("WT", "background", 18),
        RemoveSmall("TC", EDEMA_NAME, 12.5),
        FillHoles("ET", ENHANCING_NAME),
        ReplaceSmallTotal("ET", CORE_NAME, 50.0, ),
    ],
)  # fmt: skip
def test_steps_survive_json(step):
    assert read_step(step_document(step), "a file") == step
    assert step.told().startswith(step.of)


def test_the_connectivity_goes_without_saying():
    document = {"step": "keep_largest", "of": "WT", "becomes": "background"}
    assert read_step(document, "a file") == KeepLargest("WT", "background", 26)


def test_a_region_counts_before_a_class_of_its_name():
    scheme = label_scheme("core=1,rim=2;core=1+2,rim=2")
    assert members_of("core", scheme) == (1, 2)
    assert (members_of("foreground", scheme), members_of("background", scheme)) == ((1, 2), ())
