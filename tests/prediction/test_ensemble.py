"""Labels by the mean of networks that see slices along other axes, and by each alone."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.learning.system import Geometry
from jaxfuse.prediction.ensemble import Ensemble, Member
from jaxfuse.prediction.programs import adding
from tests.engine.valid_phases import TINY, volume
from tests.untrained_run import fixed_system, state_of, sum_of_picture

SHAPE = (5, 20, 6)
CASE = replace(volume(SHAPE), image=0.2 * volume(SHAPE).image)


def member(axis):
    """A network whose answer for a voxel is the sum of its slice."""
    phase = replace(TINY, patch=(24, 24), sampling=sampling_rule("whole"))
    predictor = case_predictor(fixed_system(Geometry(2, 1), "S", sum_of_picture), phase, axis=AXES[axis])
    return Member(predictor, state_of(), lambda case: case)


def probability(axis):
    """The probability of the second class by the network above, by hand."""
    total = CASE.image[..., 0].sum(tuple({0, 1, 2} - {AXES[axis]}), keepdims=True)
    return np.broadcast_to(1 / (1 + np.exp(-total)), SHAPE)


def test_labels_are_those_of_each_and_of_the_mean():
    axes = ("sagittal", "coronal")
    ensemble = Ensemble({axis: member(axis) for axis in axes})
    each = [probability(axis) for axis in axes]
    found = ensemble.all_labels(CASE)
    assert {(one.dtype.name, one.shape) for one in found} == {("uint8", SHAPE)}
    for labels, expected in zip(found, [*each, np.mean(each, axis=0)], strict=True):
        np.testing.assert_array_equal(labels, expected > 0.5)
    np.testing.assert_array_equal(ensemble.labels(CASE), found[-1])
    np.testing.assert_array_equal(Ensemble({"one": member("coronal")}).labels(CASE), found[1])
    np.testing.assert_allclose(ensemble.probabilities(CASE)[..., 1], np.mean(each, axis=0), atol=1e-6)


class Counting(Member):
    """A network of an ensemble, which counts the arrays as large as a canvas when it begins."""

    seen: ClassVar[list[int]] = []

    def on_device(self, case):
        live = [one for one in jax.live_arrays() if one.ndim == 4 and one.shape[-1] == CLASSES]
        self.seen.append(len(live) - self.before)
        return super().on_device(case)

    before: ClassVar[int] = 0


CLASSES = 2


def test_canvases_of_members_are_summed_one_after_the_other():
    """Never more than the sum so far lies on the device when the next network begins, whatever their number."""
    phase = replace(TINY, patch=(8, 8, 8))
    predictor = case_predictor(fixed_system(Geometry(3, 1), "S", lambda image: image, channels=(0, 1)), phase)
    Counting.seen.clear()
    Counting.before = sum(one.ndim == 4 and one.shape[-1] == CLASSES for one in jax.live_arrays())
    ensemble = Ensemble({str(k): Counting(predictor, state_of(), lambda case: case) for k in range(5)})
    found = ensemble.all_labels(CASE)
    assert Counting.seen == [0, 1, 1, 1, 1]
    np.testing.assert_array_equal(found[-1], CASE.image.argmax(-1))
    canvas = jnp.zeros((16, 24, 16, CLASSES))
    memory = adding(None).onto.lower(canvas, canvas).compile().memory_analysis()
    assert (memory.temp_size_in_bytes, memory.alias_size_in_bytes) == (0, canvas.nbytes)
