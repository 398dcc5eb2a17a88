"""Choices that move a score and were stated nowhere: label maps outside the brain, voxels that weigh classes."""

import numpy as np
import pytest

from configs import hyperfusion, infinet
from jaxfuse.config import parse
from jaxfuse.data.facts import DatasetFacts
from jaxfuse.data.frequencies import seen_voxels
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.judging.segmentation import MASKED, UNMASKED, segmentation_both_ways
from jaxfuse.labels import label_scheme
from tests.engine.judging.heads import full, prepared_volumes, rows_of
from tests.faults.catalogue import given, table
from tests.refusals import refused

LESION = label_scheme("lesion")


@pytest.fixture
def cases(tmp_path):
    """A brain with a notch at its face; the lesion lies in the brain, 4 voxels."""
    image, label = np.zeros((8, 8, 8, 4), np.float32), np.zeros((8, 8, 8), np.uint8)
    image[1:7, 1:7, 1:7] = np.random.default_rng(0).uniform(1, 2, (6, 6, 6, 4))
    image[1, 3:5, 3:5], label[3, 3, 2:6] = 0, 1
    return prepared_volumes(tmp_path, "a", image, label, classes=2)


def predict(case, asked):
    """Finds the lesion, and four voxels more outside the brain."""
    found = np.asarray(case.label).copy()
    found[0, 2:4, 2:4] = 1
    return {"S": found}


@table(
    "masked, dice",
    ("lesions found outside the brain, `mask_to_brain=True`", "Dice 1, and 2/3 beside it without", True, (1, 2 / 3)),
    ("the same with `mask_to_brain=False`", "Dice 2/3, and 1 beside it with", False, (2 / 3, 1)),
)
def test_label_maps_are_scored_both_ways_and_say_so(cases, tmp_path, masked, dice):
    judge = segmentation_both_ways(Judged(LESION, "S", ("S",), mask_to_brain=masked))
    summary = full(judge, predict, cases, tmp_path)
    rows = rows_of(tmp_path, "output")
    other = "S" + (UNMASKED if masked else MASKED)
    assert (rows["S"]["dice"], rows[other]["dice"]) == pytest.approx(dice)
    assert (summary["mask_to_brain"], summary["primary"]) == (masked, "S")
    assert judge.quick(predict, cases)["score"] == pytest.approx(dice[0])


@given("InfiNet and HyperFusionNet", "their configs say that label maps are masked, and judge both ways")
def test_configs_state_the_mask():
    for module in (infinet, hyperfusion):
        experiment = parse(module.get_config("tiny"))
        for name in experiment.result:
            assert experiment.phases[name].mask_to_brain
            assert experiment.phases[name].assess is segmentation_both_ways


FACTS = DatasetFacts(
    ("t1", "t2"), "iseg", ("background", "csf", "gm", "wm"), (1.0, 1.0), ("a", "b", "c"), (), {}, (60, 10, 20, 30),
    train_shapes=(((4, 10), 1), ((5, 8), 2)),
)  # fmt: skip


@table(
    "where, patch, background",
    ("classes weighed by cropped slices of 40 pixels each", "60 pixels of background", "crop", (16, 16), 60),
    ("by slices padded to 16 x 16, which the network sees", "60 + 3 (256 - 40)", "seen", (16, 16), 708),
    ("padded along one side only, 6 x 6", "60 + (60 - 40) + 2 (48 - 40)", "seen", (6, 6), 96),
    ("a patch within the slices", "nothing is padded", "seen", (4, 4), 60),
)
def test_classes_are_counted_where_it_is_said(where, patch, background):
    config = infinet.get_config("tiny")
    config.axial.count_classes, config.axial.patch = where, patch
    phase = parse(config).phases["axial"]
    assert phase.counted(FACTS) == (background, 10, 20, 30)


@given("`count_classes` that is neither crop nor seen", "refused")
def test_another_way_to_count_is_refused():
    config = infinet.get_config("tiny")
    assert config.axial.count_classes == "seen"
    config.axial.count_classes = "padded"
    refused("axial.count_classes is 'padded'; choose crop or seen", parse, config)
    assert seen_voxels((), (), (4, 4)) == ()
