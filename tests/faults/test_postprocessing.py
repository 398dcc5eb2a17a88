"""Post-processing that does not fit what it is applied to, or was chosen where it must not be."""

import json
import shutil
from dataclasses import replace

import pytest

from jaxfuse.engine.display import Display
from jaxfuse.engine.trained.chosen_plan import choose_postprocessing
from jaxfuse.engine.trained.labeled_cases import label_cases
from jaxfuse.engine.trained.phases import weights_digest
from jaxfuse.engine.trained.postprocessed import postprocessing_of
from jaxfuse.postprocessing.plan import read_plan
from tests.bright_networks import LESION, bright_phase, marked, write_lesion
from tests.faults.catalogue import given, table
from tests.refusals import refused

STEP = {"step": "keep_largest", "of": "lesion", "becomes": "background"}
SMALL = {"step": "remove_small", "of": "lesion", "becomes": "background", "below_mm3": 50}


def document(*steps, scheme="lesion", **more):
    return {"scheme": scheme, "steps": list(steps), **more}


@pytest.fixture
def phase(tmp_path):
    return bright_phase(tmp_path / "run", tmp_path / "cases", {"train": ("c",), "val": ("a",), "test": ("t",)})


def hold(phase, content):
    """Puts a plan into the folder of a phase's run."""
    phase.workdir.mkdir(parents=True, exist_ok=True)
    (phase.workdir / "postprocessing.json").write_text(json.dumps(content))
    return phase


@table(
    "content, message",
    ("a plan that is no JSON", "refused", "{", "is not valid JSON"),
    ("a list in place of a plan", "refused", "[]", "is no plan of post-processing; a JSON object with scheme"),
    ("a plan without steps", "refused", {"scheme": "lesion"}, "is no plan of post-processing"),
    ("a plan of a number for a scheme", "refused", document(scheme=3), "has the label scheme 3; the name of one"),
    ("a plan of an unknown scheme", "refused", document(scheme="liver"), "label scheme 'liver' is not known"),
    ("an unknown step", "refused", document({"step": "erode"}), "has the step 'erode'; choose one of keep_largest"),
    ("a word in place of a step", "refused", document("keep_largest"), "has the step 'keep_largest'; choose one of"),
    ("an option that a step lacks", "refused", document({**STEP, "below_mm3": 5}), "has no option below_mm3; its opti"),
    (
        "a step without its volume",
        "refused",
        document({**STEP, "step": "remove_small"}),
        "lacks below_mm3; its options",
    ),
    ("a volume below 0", "refused", document({**SMALL, "below_mm3": -5}), "has below_mm3 -5; give a positive number"),
    ("a volume in words", "refused", document({**SMALL, "below_mm3": "5 ml"}), "'5 ml'; give a positive number"),
    ("8 neighbors in a volume", "refused", document({**STEP, "connectivity": 8}), "connectivity 8; give 6, 18 or 26"),
    (
        "a region that the scheme lacks",
        "refused",
        document({**STEP, "of": "WT"}),
        "names 'WT', which the label scheme lesion lacks; choose one of lesion, foreground",
    ),
    (
        "a class that the scheme lacks",
        "refused",
        document({**STEP, "becomes": "edema"}),
        "names 'edema', which the label scheme lesion lacks; choose one of background, lesion",
    ),
    (
        "what is removed becomes what it was",
        "refused",
        document({**STEP, "becomes": "lesion"}),
        "keep_largest of lesion becomes lesion; name a class outside of it",
    ),
    (
        "holes that become background",
        "refused",
        document({**STEP, "step": "fill_holes"}),
        "fill_holes of lesion becomes background; name a class of it",
    ),
    ("factors in a list", "refused", document(factors=[2]), "has the factors .2.; give an object of classes"),
    (
        "a factor of a class that the scheme lacks",
        "refused",
        document(factors={"edema": 2}),
        "a factor of 'edema', which the label scheme lesion lacks; choose one of background, lesion",
    ),
    ("a factor of 0", "refused", document(factors={"lesion": 0}), "the factor 0 of lesion; give a positive number"),
    ("networks told by a word", "refused", document(networks="mine"), "tells networks or cases otherwise than jaxfuse"),
)
def test_plans_that_are_none(tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    refused(message, read_plan, path)


@given("a plan of another scheme than the run's, or a file that is not there", "refused")
def test_plans_of_other_labels(phase, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document(scheme="brats")))
    refused("is for label maps of the scheme brats, and these are of lesion", postprocessing_of, [phase], str(path))
    refused("cannot read .*gone.json", postprocessing_of, [phase], str(tmp_path / "gone.json"))
    hold(phase, document(scheme="brats"))
    refused("and these are of lesion; choose it anew by jaxfuse.postprocess", postprocessing_of, [phase], "auto")


@given("a run trained on since its post-processing was chosen", "refused; the sentence names the command")
def test_plans_of_other_weights(phase, tmp_path):
    digest = weights_digest(phase.weights())
    networks = [[{"name": "run:S", "weights": digest}]]
    hold(phase, document(STEP, networks=networks))
    found = postprocessing_of([phase], "auto")
    assert found is not None
    later = replace(bright_phase(tmp_path / "run", tmp_path / "cases", {}, weight=1.0), best=True)
    told = (
        "was chosen for other weights than those of run:S; choose anew by python -m jaxfuse.postprocess --workdir "
        f"{tmp_path}/run:S@best, or pass --postprocessing none"
    )
    refused(told, postprocessing_of, [later], "auto")
    refused(told, label_cases, [later], write_one(tmp_path), tmp_path / "out", Display())
    assert not (tmp_path / "out").exists()
    assert postprocessing_of([later], "none") is None


def write_one(tmp_path):
    write_lesion(tmp_path / "in", "new", marked(LESION), None)
    return tmp_path / "in"


@given("an ensemble of which one run has a post-processing and another has none, or another one", "refused")
def test_ensembles_of_several_plans(phase, tmp_path):
    other = bright_phase(tmp_path / "other", tmp_path / "cases", {}, weight=1.0)
    hold(phase, document(STEP))
    told = "holds a post-processing and .*other none; choose one for all together by .*run:S .*other:S, or pass"
    refused(told, postprocessing_of, [phase, other], "auto")
    hold(other, document(SMALL))
    refused("holds a post-processing and .*other another", postprocessing_of, [phase, other], "auto")
    hold(other, document(STEP))
    assert postprocessing_of([phase, other], "auto") is not None


@given("a post-processing chosen for a run without validation cases", "refused")
def test_nobody_validates(tmp_path):
    phase = bright_phase(tmp_path / "run", tmp_path / "cases", {"train": ("a",)})
    refused("run:S has no validation case, on which a post-processing is", choose_postprocessing, [phase], Display())
    assert not (tmp_path / "run").exists()


@given("a post-processing chosen on cases that another of the runs holds out", "refused")
def test_held_out_by_another_run(phase, tmp_path):
    other = bright_phase(tmp_path / "other", tmp_path / "cases", {"val": ("b",), "test": ("a",)})
    told = "case a validates one of these runs and is held out for testing by other:S; nothing is chosen on such cases"
    refused(told, choose_postprocessing, [phase, other], Display())


@given("validation cases that are gone, or have lost their labels, when a post-processing is to be chosen", "refused")
def test_cases_that_are_gone(phase, tmp_path):
    write_lesion(tmp_path / "cases", "a", marked(LESION), None)
    refused("case a has no label file in", choose_postprocessing, [phase], Display())
    shutil.rmtree(tmp_path / "cases" / "a")
    write_lesion(tmp_path / "cases", "b", marked(LESION), None)
    refused("case a, which validates run:S, is not below .*cases any more", choose_postprocessing, [phase], Display())
    assert not (phase.workdir / "postprocessing.json").exists()
