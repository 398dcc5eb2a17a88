"""Modalities that cases lack, made by a network whose answer is the mean of what is there, beside what they have."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import hinet
from jaxfuse.config import parse
from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.engine.trained.chosen_devices import first_device
from jaxfuse.engine.trained.completer import Completer, check_runs, completer_for, synthesized_note
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.synthesizer import skill_of
from jaxfuse.learning.system import COMPLETED, Geometry, Segmentation
from jaxfuse.prediction.maker import Task
from tests.made_cases import case_files, head
from tests.refusals import refused
from tests.untrained_run import HeldPhase, fixed_system, held, labeling_run, state_of

SHAPE = (22, 18, 5)
ALL = ("t1", "t1ce", "t2", "flair")
RANGES = {"t1": (10.0, 210.0), "t2": (0.0, 100.0), "flair": (20.0, 80.0)}


class MeanOfOthers(Segmentation):
    """Each modality is the mean of the others that are there."""

    probabilities = ()

    def predict(self, state, inputs):
        image = inputs["image"]
        presence = jnp.broadcast_to(inputs.get("presence", jnp.ones(4, bool)), (len(image), 4))
        made = {}
        for place, name in enumerate(ALL):
            others = (presence & (jnp.arange(4) != place))[:, None, None]
            made[f"synthesized_{name}"] = jnp.where(others, image, 0).sum(-1, keepdims=True) / others.sum(-1)[..., None]
        return {self.name: jnp.concatenate(list(made.values()), -1), **made}


def any_phase(name="any", *, ranges=RANGES, sources=ALL, targets=ALL, **data) -> HeldPhase:
    experiment = parse(hinet.get_config("tiny,row=any"))
    phase = replace(experiment.phases["synthesis"], patch=(8, 8))
    system = fixed_system(Geometry(2, 8), COMPLETED, channels=(0, 1, 2, 3), kind=MeanOfOthers)
    pairs = "+".join(sources), "+".join(targets)
    known = {"pairs": pairs, "reads": sources, "ranges": ranges}
    return held(name, system, phase, replace(experiment.data, **data), state_of({}), **known)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    (phase,) = load([str(labeling_run(tmp_path_factory.mktemp("runs") / "labels", ("t1", "t2", "flair")))])
    return phase


@pytest.fixture(scope="module")
def completer(segmenter) -> Completer:
    return completer_for([any_phase()], segmenter)


@pytest.fixture
def given(tmp_path) -> CaseFiles:
    """A case that has t1ce and t2."""
    images = head(SHAPE, 0)
    return case_files(tmp_path, "poor", {name: images[name] for name in ("t1ce", "t2")})


def test_each_modality_that_lacks_is_made_of_all_that_are_there(completer, given):
    assert completer.makes == ("t1", "t2", "flair")
    assert set(completer.reads) == set(ALL)
    lacking, (device,) = completer.read(given), first_device()
    assert lacking.tasks == (Task(("t1ce", "t2"), "t1"), Task(("t1ce", "t2"), "flair"))
    whole = lacking.completed(device)
    assert whole.modalities == ("t1", "t2", "flair")
    stored = load_case(given, ("t1ce", "t2"), None)
    np.testing.assert_array_equal(whole.channels[1], stored.channels[1])
    levels = (stored.image / stored.image.max((0, 1, 2))).mean(-1)
    shows = stored.image.any(-1)
    for place, (low, high) in ((0, RANGES["t1"]), (2, RANGES["flair"])):
        expected = np.where(shows, low + (high - low) * levels, 0)
        np.testing.assert_allclose(whole.channels[place], expected, rtol=1e-4, atol=1e-3)
    assert synthesized_note(lacking.tasks) == "t1, flair synthesized by jaxfuse"
    assert synthesized_note(()) == ""


def test_a_case_that_has_what_is_wanted_lacks_nothing(completer):
    assert completer.tasks("a", {"t1", "t2", "flair"}) == ()


def test_what_cannot_be_made_is_refused_by_one_sentence(segmenter, completer):
    told = "case a has no image of those that any makes others of .t1, t1ce, t2, flair.; add one or leave the case out"
    refused(told, completer.tasks, "a", {"pd"})
    limited = completer_for([any_phase(targets=("flair",))], segmenter)
    refused("case a has no t1 image, and any makes flair alone; add", limited.tasks, "a", {"t2"})
    # Its range is not known where no training case had it.
    unknown = completer_for([any_phase(ranges={"t2": (0.0, 1.0)})], segmenter)
    refused("case a has no t1 and no flair image, and any makes t2 alone", unknown.tasks, "a", {"t2"})


def test_a_run_none_of_whose_cases_had_its_target_is_refused():
    told = "any was trained on cases of which none has t1ce, so that it cannot make it; train one on cases that have"
    refused(told, skill_of, any_phase(targets=("t1ce",)))


def test_what_was_never_seen_together_is_warned_of(segmenter):
    phase = any_phase()
    seen = replace(phase, facts=replace(phase.facts, subsets=("t1+t2", "t1ce+flair")))
    told = completer_for([seen], segmenter)
    (warning,) = told.never_shown("a", told.tasks("a", {"t2", "flair"}))
    assert warning == "Warning: case a lacks t1, and no training case of any had it together with t2, flair"
    # T1 and T2 stood together, of which the one is made of the other.
    assert not list(told.never_shown("a", (Task(("t2",), "t1"),)))
    complete = completer_for([phase], segmenter)
    assert not list(complete.never_shown("a", complete.tasks("a", {"t2"})))


def test_runs_that_do_not_go_together_are_refused(segmenter, tmp_path: Path):
    other = any_phase(targets=("t1ce",), ranges={"t1ce": (0.0, 1.0)})
    refused("any makes t1ce, which labels:voc does not read .it reads", check_runs, other, segmenter)
    told = "any was trained with data.background 'none' and labels:voc with 'auto', so that they take other"
    refused(told, check_runs, any_phase(background="none"), segmenter)
    (other,) = load([str(labeling_run(tmp_path / "isles", ("t1",), "isles_slices", labels="brats"))])
    refused("any was trained on cases of the kind 'brats' and isles:voc on 'isles'", check_runs, any_phase(), other)
