"""Post-processing: chosen on validation cases alone, stored with the run, applied to new cases, flagged on its own."""

import io
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from jaxfuse.engine.display import Display
from jaxfuse.engine.run_folder.lock import locked
from jaxfuse.engine.trained import chosen_plan
from jaxfuse.engine.trained.chosen_plan import choose_postprocessing, groups_of
from jaxfuse.engine.trained.labeled_cases import label_cases
from jaxfuse.engine.trained.phases import weights_digest
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.metrics.overlap import dice
from jaxfuse.postprocessing.plan import Plan
from jaxfuse.postprocessing.steps import KeepLargest, RemoveSmall
from tests.bright_networks import BRAIN, ISLAND, LESION, bright_phase, marked, write_lesion
from tests.refusals import refused

BOTH, TRUTH = marked(LESION, ISLAND), marked(LESION)
SIDES = {"train": ("c",), "val": ("a", "b"), "test": ("t",)}
ISLANDS_GO = (RemoveSmall("lesion", "background", 10.0),)


def display() -> Display:
    return Display(Console(file=io.StringIO(), highlight=False, soft_wrap=True))


def said(screen: Display) -> str:
    return screen.console.file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Cases of which none but those that validate can be read."""
    root = tmp_path_factory.mktemp("cases")
    for name in ("a", "b"):
        write_lesion(root, name, BOTH, TRUTH)
    for name in ("c", "t"):
        write_lesion(root, name, BOTH, TRUTH)
        for path in (root / name).iterdir():
            path.write_bytes(b"not to be opened")
    return root


@pytest.fixture(scope="module")
def phase(root, tmp_path_factory):
    """A phase for which a plan has been chosen."""
    made = bright_phase(tmp_path_factory.mktemp("runs") / "run", root, SIDES)
    choose_postprocessing([made], display())
    return made


def labels_of(phases, cases, out, asked="auto"):
    """Label maps by case, and what was said."""
    screen = display()
    label_cases(phases, cases, out, screen, postprocessing=asked)
    return {path.name.removesuffix(".nii.gz"): read_volume(path).array for path in out.glob("*.nii.gz")}, said(screen)


def note(path):
    return bytes(nib.load(path).header["descrip"]).rstrip(b"\0").decode()


def test_a_plan_is_chosen_on_the_cases_that_validate_and_on_no_others(phase):
    stored = read_json(phase.workdir / "postprocessing.json")
    assert [step["step"] for step in stored["steps"]] == ["remove_small"]
    assert (stored["steps"][0]["of"], stored["steps"][0]["below_mm3"]) == ("lesion", 10.0)
    assert ([case["case"] for case in stored["cases"]], stored["side"]) == (["a", "b"], "val")
    assert stored["dice"] == {"before": {"lesion": dice(BOTH, TRUTH)}, "after": {"lesion": 1.0}}
    assert stored["networks"] == [[{"name": "run:S", "weights": weights_digest(phase.weights())}]]
    assert stored["command"] == f"python -m jaxfuse.postprocess --workdir {phase.workdir}:S"
    assert sum(trial["taken"] for trial in stored["tried"]) == 1 < len(stored["tried"])


def test_a_threshold_is_chosen_on_the_cases_that_validate_and_labels_new_ones(root, tmp_path):
    timid = bright_phase(tmp_path / "run", root, SIDES, kind="timid")
    screen = display()
    choose_postprocessing([timid], screen)
    stored = read_json(timid.workdir / "postprocessing.json")
    assert stored["factors"] == {"lesion": 4.0}  # 0.3 beside 0.7 needs 2.33 and more
    assert [step["step"] for step in stored["steps"]] == ["remove_small"]
    assert stored["dice"] == {"before": {"lesion": 0.0}, "after": {"lesion": 1.0}}
    assert {trial["factor"]: trial["taken"] for trial in stored["tried"] if trial["step"] == "weigh"} == {
        0.7: False, 1.4: False, 0.5: False, 2.0: False, 0.25: False, 4.0: True
    }  # fmt: skip
    assert "lesion: probability times 4" in said(screen)
    # What is held out is garbage, here and there: nothing but the cases that validate has been read.
    assert [case["case"] for case in stored["cases"]] == ["a", "b"]
    write_lesion(tmp_path / "in", "new", BOTH, None)
    found, _ = labels_of([timid], tmp_path / "in", tmp_path / "auto")
    np.testing.assert_array_equal(found["new"], TRUTH)
    found, _ = labels_of([timid], tmp_path / "in", tmp_path / "none", "none")
    assert not found["new"].any()


def test_opening_a_case_that_is_held_out_would_be_noticed(phase, root):
    moved = replace(phase, facts=replace(phase.facts, val=("t",), test=()))
    refused("case t.* is not a NIfTI|t_flair.nii.gz", choose_postprocessing, [moved], display())


def test_images_of_one_value_count_as_in_the_training(tmp_path):
    write_lesion(tmp_path, "a", BOTH, TRUTH)
    (image,) = (tmp_path / "a").glob("*flair*")
    nib.save(nib.Nifti1Image(np.full(BOTH.shape, 7, np.int16), nib.load(image).affine), image)
    made = bright_phase(tmp_path / "run", tmp_path, {"val": ("a",)}, incomplete="zero", all_background="absent")
    told = "case a has images of one value everywhere alone .flair.; leave the case out"
    refused(told, choose_postprocessing, [made], display())


def test_it_is_applied_to_new_cases_unless_it_is_not_wanted(phase, tmp_path):
    write_lesion(tmp_path / "in", "new", BOTH, None)
    found, told = labels_of([phase], tmp_path / "in", tmp_path / "auto")
    np.testing.assert_array_equal(found["new"], TRUTH)
    assert f"post-processing of {phase.workdir / 'postprocessing.json'}: lesion: parts of 10 mm3 and more" in told
    assert "Warning" not in told
    assert note(tmp_path / "auto" / "new.nii.gz").startswith(f"jaxfuse plan {Plan('lesion', ISLANDS_GO).digest}: ")
    found, told = labels_of([phase], tmp_path / "in", tmp_path / "none", "none")
    np.testing.assert_array_equal(found["new"], BOTH)
    assert "post-processing" not in told
    assert note(tmp_path / "none" / "new.nii.gz") == ""


def test_a_plan_of_ones_own_is_applied_to_any_weights(phase, tmp_path):
    write_lesion(tmp_path / "in", "new", BOTH, None)
    write_json(tmp_path / "mine.json", Plan("lesion", (KeepLargest("lesion", "background"),)).document())
    other = replace(phase, folder=tmp_path / "other" / "checkpoints" / "S")
    found, told = labels_of([other], tmp_path / "in", tmp_path / "out", str(tmp_path / "mine.json"))
    np.testing.assert_array_equal(found["new"], TRUTH)
    assert f"post-processing of {tmp_path / 'mine.json'}: lesion: largest part" in told


def test_cases_that_it_was_chosen_on_are_flagged_whatever_their_names(phase, root, tmp_path):
    for name in ("flair", "seg"):
        source = root / "a" / f"a_{name}.nii.gz"
        target = tmp_path / "in" / "renamed" / f"renamed_{name}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    write_lesion(tmp_path / "in", "b", marked(LESION), None)  # the name of a validation case, and another image
    _, told = labels_of([phase], tmp_path / "in", tmp_path / "out")
    assert "Warning: the post-processing was chosen on 1 case of these (renamed); report scores of others" in told
    assert ", chosen on this case: " in note(tmp_path / "out" / "renamed.nii.gz")
    assert "chosen on this case" not in note(tmp_path / "out" / "b.nii.gz")


@pytest.mark.parametrize("sides", [pytest.param((), marks=pytest.mark.slow), (2.5, 2.5, 2.5)])
def test_scores_are_those_of_the_files_that_are_written(sides, tmp_path):
    """Voxels of 1 x 1 x 4 mm, as they are and brought to others for the network."""
    cases = tmp_path / "cases"
    for name, island in (("a", ISLAND), ("b", ISLAND[::-1])):
        write_lesion(cases, name, marked(LESION, island), TRUTH, spacing_mm=(1.0, 1.0, 4.0))
    phase = bright_phase(tmp_path / "run", cases, {"val": ("a", "b")}, resample_mm=sides)
    choice = choose_postprocessing([phase], display())
    assert choice.plan.steps
    for asked, told in (("none", choice.before), ("auto", choice.after)):
        found, _ = labels_of([phase], cases, tmp_path / asked, asked)
        assert told["lesion"] == np.mean([dice(found[name], TRUTH) for name in ("a", "b")])


def test_folds_label_each_its_own_cases_and_share_the_plan(tmp_path):
    """Two folds, of which one would be wrong on the cases of the other."""
    write_lesion(tmp_path / "cases", "a", BOTH, TRUTH)
    write_lesion(tmp_path / "cases", "b", marked(BRAIN) - BOTH, TRUTH)
    folds = [
        bright_phase(tmp_path / "one", tmp_path / "cases", {"train": ("b",), "val": ("a",)}),
        bright_phase(tmp_path / "two", tmp_path / "cases", {"train": ("a",), "val": ("b",)}, weight=1.0, kind="dark"),
    ]
    choice = choose_postprocessing(folds, display())
    assert choice.before["lesion"] == dice(BOTH, TRUTH)
    assert choice.plan.steps == ISLANDS_GO
    stored = [read_json(one.workdir / "postprocessing.json") for one in folds]
    assert stored[0] == stored[1]
    assert [(case["case"], case["labeled_by"]) for case in stored[0]["cases"]] == [("a", ["one:S"]), ("b", ["two:S"])]
    write_lesion(tmp_path / "in", "new", BOTH, None)
    assert "post-processing" in labels_of(folds, tmp_path / "in", tmp_path / "both")[1]
    np.testing.assert_array_equal(labels_of(folds[:1], tmp_path / "in", tmp_path / "alone")[0]["new"], TRUTH)


@pytest.mark.slow
def test_networks_that_validate_on_the_same_cases_label_by_their_mean(root, tmp_path):
    seeds = [bright_phase(tmp_path / name, root, SIDES, weight=k) for k, name in enumerate(("one", "two"))]
    (group,) = groups_of(seeds)
    assert (group.phases, group.cases) == (tuple(seeds), frozenset("ab"))
    choose_postprocessing(seeds, display())
    stored = read_json(tmp_path / "two" / "postprocessing.json")
    assert [[one["name"] for one in group] for group in stored["networks"]] == [["one:S", "two:S"]]
    assert [case["labeled_by"] for case in stored["cases"]] == [["one:S", "two:S"]] * 2
    write_lesion(tmp_path / "in", "new", BOTH, None)
    np.testing.assert_array_equal(labels_of(seeds, tmp_path / "in", tmp_path / "out")[0]["new"], TRUTH)
    told = "was chosen for the mean of 2 networks, of which not all label here; choose anew by python -m jaxfuse.postp"
    refused(told, labels_of, seeds[:1], tmp_path / "in", tmp_path / "alone")


def test_a_run_that_goes_on_is_left_alone(phase, tmp_path):
    other = replace(phase, folder=tmp_path / "run" / "checkpoints" / "S")
    with locked(tmp_path / "run"):
        refused("another run is going on in", choose_postprocessing, [other], display())
    assert not (tmp_path / "run" / "postprocessing.json").exists()


def test_a_choice_that_is_cut_short_leaves_the_plan_before_it(phase, monkeypatch):
    before = (phase.workdir / "postprocessing.json").read_bytes()

    def broken(*arguments):
        raise RuntimeError("cut short")

    monkeypatch.setattr(chosen_plan, "choose", broken)
    with pytest.raises(RuntimeError, match="cut short"):
        choose_postprocessing([phase], display())
    assert (phase.workdir / "postprocessing.json").read_bytes() == before


def test_nothing_is_stored_as_a_plan_without_steps_where_nothing_helps(root, tmp_path):
    write_lesion(tmp_path / "cases", "a", TRUTH, TRUTH)
    phase = bright_phase(tmp_path / "run", tmp_path / "cases", {"val": ("a",)})
    screen = display()
    assert choose_postprocessing([phase], screen).plan.steps == ()
    assert "Chosen on 1 case: no step. Written: " in said(screen)
    assert read_json(tmp_path / "run" / "postprocessing.json")["steps"] == []
    _, told = labels_of([phase], tmp_path / "cases", tmp_path / "out")
    assert "post-processing" not in told
