"""Volumes from networks of slices: by hand, for a network whose answer is the mean of its sources."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import hinet
from jaxfuse.config import parse
from jaxfuse.data.cases import Case
from jaxfuse.engine.trained.passes import PATCHES, Passes
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.synthesizer import (
    Skill,
    check_skills,
    check_synthesis,
    skill_of,
    volume_maker,
)
from jaxfuse.learning.system import SYNTHESIZED, Geometry, Segmentation
from jaxfuse.prediction.maker import Task, mean_range
from tests.made_cases import MODALITIES, channels_of
from tests.refusals import refused
from tests.untrained_run import HeldPhase, case_of, fixed_system, held, state_of, synthesis_run

SHAPE = (23, 18, 5)
CHANNELS = (0, 2)  # of T1 and T2 among the modalities


class Mean(Segmentation):
    """The mean of two channels and a weight, whatever lies around."""

    probabilities = ()

    def predict(self, state, inputs):
        mean = inputs["image"][..., np.array(self.channels)].mean(-1, keepdims=True)
        return {self.name: mean + state.params["shift"]}


MEAN = fixed_system(Geometry(2, 8), SYNTHESIZED, channels=CHANNELS, kind=Mean)


def mean(
    shift: float = 0.0, axis: str = "axial", *, high: float = 210.0, task=("t1+t2", "flair"), landmarks=None, **data
) -> HeldPhase:
    """A phase that makes FLAIR of T1 and T2, whose 0 and 1 stand for 10 and `high` in its files."""
    experiment = parse(hinet.get_config("tiny"))
    phase = replace(experiment.phases["synthesis"], patch=(8, 8))
    weights = state_of({"shift": jnp.float32(shift)})
    given = replace(experiment.data, axis=axis, **data)
    known = {"pairs": task, "reads": task[0].split("+"), "ranges": {task[1]: (10.0, high)}, "landmarks": landmarks}
    return held(f"{axis}{shift}", MEAN, phase, given, weights, **known)


def by_hand(case: Case, shift: float = 0.0) -> np.ndarray:
    """Each source between 0 and its greatest value; 0 stands for 10 and 1 for 210."""
    levels = (case.image / case.image.max(axis=(0, 1, 2))).mean(-1) + shift
    return np.where(case.image.any(-1), 10 + 200 * np.clip(levels, 0, 1), 0)


def made_by(phases, case, passes=PATCHES):
    """The target of a case by these phases, on the first device."""
    maker = volume_maker(phases, passes)
    (device,) = maker.predictors
    return maker.make(maker.prepare(case), device, "flair")


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("passes", [Passes(), Passes(overlap=0.6), Passes(whole=True)], ids=["0", "0.6", "whole"])
def test_patches_and_whole_slices_give_what_every_voxel_asks_for(axis, passes):
    one = case_of(SHAPE)
    made = made_by([mean(axis=axis)], one, passes)
    assert (made.shape, made.dtype) == (SHAPE, np.float32)
    np.testing.assert_allclose(made, by_hand(one), rtol=1e-5)
    np.testing.assert_array_equal(made != 0, one.image.any(-1))


def test_answers_are_cut_to_range_and_window_and_members_count_equally():
    one = case_of(SHAPE)
    high, other = mean(5.0), mean(-5.0, "coronal", high=430.0)
    np.testing.assert_allclose(made_by([high], one).max(), 210)
    both = made_by([high, other], one)
    # Half of 1 and half of 0, in the mean of both ranges.
    np.testing.assert_allclose(both[one.image.any(-1)], (10 + 320) / 2, rtol=1e-6)
    # The darkest level of percentiles is the low end of the range.
    image = one.image[..., [0, 0]]
    brain = made_by([mean(normalize="percentiles")], replace(one, channels=channels_of(image)))[image.any(-1)]
    np.testing.assert_allclose((brain.min(), brain.max()), (10, 210), rtol=1e-5)
    # Nothing is made beyond the window.
    made = made_by([mean(window=((4, 20), (2, 18)), blank_slices=True)], one)
    inside = np.pad(by_hand(one)[4:20, 2:18], [(4, 3), (2, 0), (0, 0)])
    np.testing.assert_allclose(made, inside, rtol=1e-5)


def test_the_background_that_a_run_states_is_that_of_what_it_makes():
    one = case_of(SHAPE)
    shows = one.image.any(-1)
    below = replace(one, channels=channels_of(np.where(shows[..., None], one.image, np.float32(-7))))
    made = made_by([mean(background="t1=-7,t2=-7,flair=-3.5")], below)
    assert not shows.all()
    assert (made[~shows] == -3.5).all()
    assert (made[shows] >= 10).all()


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> Path:
    return synthesis_run(tmp_path_factory.mktemp("hybrid") / "run", window=((0, 40), (0, 40)), blank_slices=True)


def test_a_run_of_hinet_is_read_with_its_task_and_range(hybrid):
    (found,) = load([str(hybrid)])
    assert (check_synthesis([found]), mean_range([found], "flair")) == (Task(("t1", "t2"), "flair"), (0, 800))
    assert (str(skill_of(found)), found.name, found.makes) == ("flair from t1 and t2", "run:synthesis", SYNTHESIZED)
    assert float(found.weights().stats["generator"]["synthesis"]["block_1"]["fuse"]["norm"]["mean"][0]) == 1


def test_hinet_sees_a_slice_of_one_patch_as_a_whole(hybrid):
    """40 x 40 is the patch of training; 48 x 44 takes four patches, which see zeros where slices go on."""
    (found,) = load([str(hybrid)])
    wide = replace(found, preparation=replace(found.preparation, window=((0, 48), (0, 44))))
    one = case_of((48, 44, 4))
    for given, least, most in ((found, 0.0, 1e-5), (wide, 1e-4, 0.2)):
        patches, whole = (made_by([given], one, Passes(whole=way)) / 800 for way in (False, True))
        assert least <= np.abs(patches - whole).max() <= most
        assert patches.std() > 1e-3


def test_runs_and_options_that_cannot_synthesize_are_refused(hybrid):
    (found,) = load([str(hybrid)])
    unscaled = replace(found, facts=replace(found.facts, ranges={}), data=replace(found.data, normalize="brain"))
    refused("trained on intensities normalized by 'brain', so that the range of flair is", check_synthesis, [unscaled])
    told = r"case a: axialnan made values that are no numbers; look at the losses"
    refused(told, made_by, [mean(float("nan"))], case_of(SHAPE))
    for name, options in (("overlap", {"overlap": 0.0}), ("memory_mb", {"memory_mb": 0})):
        refused(f"--whole_slices sees slices in one pass, for which --{name} means noth", Passes, whole=True, **options)


def test_runs_of_other_tasks_are_not_averaged():
    one = replace(mean(), name="run0")
    assert str(check_synthesis([one, mean(task=("t2+t1", "flair")), mean(axis="coronal")])) == "flair from t1 and t2"
    told = "cannot be averaged: they make flair from t1 and t2 and t2 from t1; predict"
    refused(told, check_synthesis, [one, mean(task=("t1", "t2"))])
    for other in (mean(normalize="percentiles"), mean(blank_slices=True), mean(landmarks={"t1": (1.0,)})):
        told = "run0 and run1 cannot be averaged: their intensities are scaled in another"
        refused(told, check_synthesis, [one, replace(other, name="run1")])


def test_what_is_made_of_what_is_there():
    one = Skill(("t1", "t2"), ("flair",), any_of=False)
    assert one.task("flair", {"t1", "t2", "t1ce"}) == Task(("t1", "t2"), "flair")
    assert [one.task("flair", {"t1"}), one.task("t1ce", {"t1", "t2"})] == [None, None]
    many = Skill(("t1", "t2", "flair"), ("t2", "flair"), any_of=True)
    assert str(many) == "t2 or flair from any of t1, t2, flair"
    assert many.task("flair", {"t2"}) == Task(("t2",), "flair")
    assert many.task("t2", {"t2", "flair", "pd"}) == Task(("flair",), "t2")
    assert [many.task("t1", {"t2"}), many.task("t2", {"pd"}), many.task("t2", {"t2"})] == [None, None, None]


@pytest.mark.slow
def test_a_run_that_makes_whatever_lacks_makes_no_one_modality_of_all_cases(tmp_path):
    (found,) = load([str(synthesis_run(tmp_path / "run", "tiny,row=any"))])
    assert check_skills([found]) == Skill(MODALITIES, MODALITIES, any_of=True)
    refused("makes t1 or t1ce or t2 or flair from any of t1, t1ce, t2, flair, whichever", check_synthesis, [found])
    # One of which the data told no range is not made.
    known = {name: found.facts.ranges[name] for name in ("t1", "t2")}
    without = replace(found, facts=replace(found.facts, ranges=known))
    assert skill_of(without).targets == ("t1", "t2")
