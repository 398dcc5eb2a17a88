"""Runs as the Python interface reads them: what they are, and that they predict what the command predicts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest

import jaxfuse
from configs import cmff
from jaxfuse import predict
from jaxfuse.io.tables import write_json
from jaxfuse.postprocessing.plan import KIND
from tests.commands import call_here
from tests.made_cases import head, write_case
from tests.refusals import refused
from tests.untrained_run import SCANNED, TRAIN, labeling_run, synthesis_run, write_untrained_run

SHAPES = {"a": (30, 26, 4), "b": (28, 30, 3)}
READS = ("t1", "t2", "flair")
AXES = {"a": "LAS", "b": "PIR"}


@dataclass(frozen=True)
class Given:
    """Runs that label and that synthesize, their cases, and what the command makes of them."""

    folder: Path
    labeling: Path
    synthesis: Path

    @property
    def cases(self) -> Path:
        return self.folder / "cases"

    def files(self, case: str, names: tuple[str, ...] = READS) -> dict[str, Path]:
        return {name: self.cases / case / f"{case}_{name}.nii.gz" for name in names}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Given:
    folder = tmp_path_factory.mktemp("runs")
    for number, (name, shape) in enumerate(SHAPES.items()):
        write_case(folder / "cases", name, head(shape, number), axes=AXES[name], **SCANNED)
    labeling = labeling_run(folder / "labeling", READS)
    found = Given(folder, labeling, synthesis_run(folder / "synthesis", "tiny,row=mmsyns"))
    call_here(predict, workdir=labeling, input=found.cases, output=folder / "plain")
    return found


@pytest.fixture(scope="module")
def run(given) -> jaxfuse.Run:
    return jaxfuse.load(given.labeling)


def test_a_run_says_what_it_is(given, run):
    assert (run.task, run.modalities, run.targets, run.workdir) == ("segmentation", READS, (), given.labeling)
    assert [(label.name, label.value) for label in run.labels][-1] == ("enhancing tumor", 4)
    assert len({label.color for label in run.labels}) == 4
    assert run.config["schedule"] == ("voc",)
    assert run.history == run.scores == {}
    made = jaxfuse.load(str(given.synthesis))
    assert (made.task, made.modalities, made.targets, made.labels) == ("synthesis", ("t1", "t2"), ("flair",), ())
    assert "flair" in made._repr_html_()
    refused("is not a run", jaxfuse.load, given.folder)
    refused("no run was named", jaxfuse.load)
    other = shutil.copytree(given.labeling, given.folder / "other")
    both = jaxfuse.load(given.labeling, other)
    refused("are several runs", lambda: both.workdir)
    refused("use jaxfuse.impute", jaxfuse.load, given.labeling, given.synthesis)


@pytest.mark.parametrize("case", SHAPES)
def test_files_images_arrays_and_folders_are_labeled_as_by_the_command(given, run, tmp_path, case):
    files, written = given.files(case), given.folder / "plain" / f"{case}.nii.gz"
    images = {name: nib.load(path) for name, path in files.items()}
    arrays = {name: np.asarray(one.dataobj) for name, one in images.items()}
    affine = images["t1"].affine
    expected = nib.load(written)
    forms = [run.predict(files), run.predict(images), run.predict(given.cases / case)]
    forms += [run.predict(arrays, affine=affine, name=case)]
    for seg in forms:
        np.testing.assert_array_equal(seg.labels, np.asarray(expected.dataobj), strict=True)
        np.testing.assert_allclose(seg.affine, expected.affine, atol=1e-5)
    assert len(np.unique(forms[0].labels)) > 2
    assert forms[0].save(tmp_path / "a.nii.gz").read_bytes() == written.read_bytes()
    assert forms[1].save(tmp_path / "b.nii.gz").read_bytes() == written.read_bytes()
    assert forms[2].case == forms[3].case == case
    saved = nib.load(forms[3].save(tmp_path / "c.nii"))
    np.testing.assert_array_equal(saved.affine, affine)
    regions, voxel_ml = forms[0].scheme.regions, abs(np.linalg.det(affine[:3, :3])) / 1000
    for region, classes in regions.items():
        values = [forms[0].scheme.decode[one] for one in classes]
        assert forms[0].volumes_ml[region] == pytest.approx(np.isin(forms[0].labels, values).sum() * voxel_ml)


@pytest.mark.slow
def test_probabilities_are_those_of_the_command(given, run, tmp_path):
    maps = {"save_probabilities": True, "save_entropy": True}
    call_here(predict, workdir=given.labeling, input=given.cases, output=tmp_path / "out", **maps)
    later, at_once = (run.predict(given.files("a"), probabilities=asked) for asked in (False, True))
    expected = np.asarray(nib.load(tmp_path / "out" / "probabilities" / "a.nii.gz").dataobj)
    for seg in (later, at_once):
        np.testing.assert_array_equal(seg.probabilities, expected)
        np.testing.assert_array_equal(
            seg.entropy, np.asarray(nib.load(tmp_path / "out" / "entropy" / "a.nii.gz").dataobj)
        )
    for name, path in (("probabilities", later.save_probabilities(tmp_path / "p.nii.gz")),
                       ("entropy", later.save_entropy(tmp_path / "e.nii.gz"))):  # fmt: skip
        assert path.read_bytes() == (tmp_path / "out" / name / "a.nii.gz").read_bytes()


@pytest.mark.slow
def test_a_network_of_volumes_labels_as_by_the_command(given, tmp_path):
    config = cmff.get_config("tiny,row=random")
    config.network.unet.base = config.network.unet.levels = 2
    config.data.cache = str(tmp_path / "cache")
    folder = write_untrained_run(tmp_path / "run", config, "fusion", train=TRAIN)
    call_here(predict, workdir=folder, input=given.cases, output=tmp_path / "out", save_probabilities=True)
    run = jaxfuse.load(folder)
    assert run.phases[0].system.geometry.ndim == 3
    for seg in run.predict(given.cases, probabilities=True, progress=False):
        written = tmp_path / "out" / "probabilities" / seg.file_name
        assert len(np.unique(seg.labels)) > 1
        assert (
            seg.save(tmp_path / "own" / seg.file_name).read_bytes() == (tmp_path / "out" / seg.file_name).read_bytes()
        )
        np.testing.assert_array_equal(seg.probabilities, np.asarray(nib.load(written).dataobj))
    images = {name: nib.load(path) for name, path in given.files("b", run.modalities).items()}
    expected = np.asarray(nib.load(tmp_path / "out" / "b.nii.gz").dataobj)
    np.testing.assert_array_equal(run.predict(images).labels, expected, strict=True)


@pytest.mark.slow
def test_cases_of_any_spacing_are_also_made_so(given):
    assert jaxfuse.load(given.labeling, any_spacing=True)._run_of(given.synthesis)._any_spacing


def test_a_folder_of_cases_comes_one_by_one(given, run, tmp_path):
    several = run.predict(given.cases, progress=False)
    assert len(several) == 2
    assert [one.case for one in several] == ["a", "b"]
    for path in several.save(tmp_path / "out"):
        assert path.read_bytes() == (given.folder / "plain" / path.name).read_bytes()
    listed = list(run.predict([given.files("b"), given.cases / "a"], progress=False))
    assert [one.case for one in listed] == ["b", "a"]
    np.testing.assert_array_equal(listed[1].labels, np.asarray(nib.load(given.folder / "plain" / "a.nii.gz").dataobj))


def test_a_case_that_cannot_be_done_is_named_and_left_out(given, run, tmp_path):
    cases = shutil.copytree(given.cases, tmp_path / "cases")
    (cases / "a" / "a_t2.nii.gz").write_bytes(b"no volume")
    several = run.predict(cases, progress=False)
    with pytest.warns(UserWarning, match=r"left out: .*a_t2.nii.gz"):
        (one,) = several
    assert one.case == "b"
    assert "a_t2.nii.gz" in several.refused["a"]


def test_a_plan_that_is_changed_is_read_anew(given, run, tmp_path):
    plan, files = tmp_path / "plan.json", given.files("a")
    found = []
    for factor in (1e6, 1e-6):
        write_json(plan, {"kind": KIND, "scheme": "brats", "factors": {"edema": factor}, "steps": []})
        found.append((run.predict(files, postprocessing=plan).labels == 2).sum())
    assert found[0] > found[1] == 0


def test_a_second_case_compiles_nothing_and_an_import_is_one_line(given):
    run, compiled = jaxfuse.load(given.labeling), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **told: compiled.append(told) if name.endswith("backend_compile_duration") else None
    )
    first = {name: np.asarray(nib.load(path).dataobj) for name, path in given.files("a").items()}
    run.predict(first)
    assert compiled
    before = len(compiled)
    smaller = {name: one[2:-1, 3:] for name, one in first.items()}
    assert run.predict(smaller).labels.shape == smaller["t1"].shape != first["t1"].shape
    run.predict(given.files("a"))
    assert len(compiled) == before


@pytest.mark.slow
def test_synthesized_volumes_are_those_of_the_command(given, tmp_path):
    out, run = tmp_path / "out", jaxfuse.load(given.synthesis)
    call_here(predict, workdir=given.synthesis, input=given.cases, output=out)
    made = run.predict(given.files("a", ("t1", "t2")))
    expected = nib.load(out / "a_flair.nii.gz")
    np.testing.assert_array_equal(made.image, np.asarray(expected.dataobj), strict=True)
    assert (made.target, made.sources, made.case) == ("flair", ("t1", "t2"), "a")
    path = made.save(tmp_path / made.file_name)
    assert path.read_bytes() == (out / "a_flair.nii.gz").read_bytes()
    assert path.with_name("a_flair.json").read_bytes() == (out / "a_flair.json").read_bytes()
    assert "data:image/png" in made._repr_html_()
    refused("missing is for runs that label", run.predict, given.files("a", ("t1", "t2")), missing="zero")
    refused("probabilities are of runs that label", run.predict, given.cases, probabilities=True)


def test_probabilities_are_there_when_they_are_looked_at(run):
    seg = run.predict(array())
    np.testing.assert_allclose(seg.probabilities.sum(-1), 1, atol=1e-5)
    values = np.array(seg.scheme.decode)[seg.probabilities.argmax(-1)]
    np.testing.assert_array_equal(values[array()["t1"] > 0], seg.labels[array()["t1"] > 0])
    assert 0 <= seg.entropy.min() < seg.entropy.max() <= np.log(4) + 1e-6


@pytest.mark.slow
def test_an_absent_modality_is_0_or_is_made_where_that_is_asked_for(given, run, tmp_path):
    cases = shutil.copytree(given.cases, tmp_path / "cases")
    for name in SHAPES:
        (cases / name / f"{name}_flair.nii.gz").unlink()
    options = {"missing": "impute", "synthesis": given.synthesis}
    call_here(predict, workdir=given.labeling, input=cases, output=tmp_path / "out", **options)
    part = given.files("a", ("t1", "t2"))
    seg = run.predict(part, **options)
    assert seg.save(tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "out" / "a.nii.gz").read_bytes()
    assert "synthesized" in seg.note
    refused("case a has no flair image; it has t1, t2", run.predict, part)


def test_figures_for_notebooks(given, run):
    seg = run.predict(given.files("a"))
    assert "data:image/png" in seg._repr_html_()
    assert all(region in seg._repr_html_() for region in ("WT", "TC", "ET"))
    assert "segmentation" in run._repr_html_() + repr(run)


def array(**changes):
    made = {name: one.astype(np.float32) for name, one in head((20, 20, 4), 0).items() if name in READS}
    return made | changes


def nan_at_one_voxel():
    made = array()["t1"]
    made[0, 0, 0] = np.nan
    return made


@pytest.mark.parametrize(
    ("images", "how", "sentence"),
    [
        (array(t1c=0), {}, "'t1c' is no modality of .*labeling.*, which reads t1, t2, flair"),
        ({"T1w": np.ones((2, 2, 2))}, {}, "case case has no t2, flair image; it has t1"),
        (array(t1=np.ones((3, 20, 4))), {}, r"shape \(20, 20, 4\) of t2 differs from \(3, 20, 4\) of t1"),
        (array(t1=np.ones((20, 20))), {}, r"t1 is an array of shape \(20, 20\)"),
        (array(t1=nan_at_one_voxel()), {}, "t1 has 1 voxels that are NaN or infinite"),
        (array(), {"spacing_mm": (1, 0, 1)}, "give three sides above 0"),
        (array(), {"affine": np.eye(3)}, r"affine has shape \(3, 3\)"),
        (array(), {"affine": np.eye(4), "spacing_mm": (1, 1, 1)}, "both given"),
        (array(), {"mirror": "2"}, "mirror is 2, but"),
        (array(), {"mirror": 0}, "mirror is 0, of type int; give a text"),
        (array(), {"overlap": [0.5]}, "overlap is .*, of type list; give a number"),
        (array(), {"memory_mb": -1}, "memory_mb is -1; give a limit in MB"),
        (array(), {"weighting": "gauss"}, "weighting is 'gauss'; choose equal or gaussian"),
        (array(), {"missing": "zeros"}, "^missing is 'zeros'; choose refuse, zero or impute"),
        (array(), {"missing": "impute", "synthesis": ["a"]}, "synthesis came as list; give a run"),
        ("somewhere", {"side": "train"}, "^side is 'train'; choose val or test"),
        (array(), {"name": "../a"}, "name is '../a', which cannot be that of a file"),
        (array(t1=[[1, 2], [3]]), {}, "t1 came as rows of different lengths"),
        ({name: f"{name}.nii" for name in READS}, {"spacing_mm": (1, 1, 1)}, "spacing_mm is of arrays, and what came"),
        ([], {}, "no case came"),
        (array(), {"side": "test"}, "side chooses cases of a folder"),
        (array(), {"missing": "impute"}, "^missing is impute and synthesis not given"),
        (array(), {"whole_slices": True}, "whole_slices is an option of runs that synthesize"),
        (array(T1=np.ones((2, 2, 2))), {}, "give each of t1, t2, flair once"),
        ({}, {}, "a case came as images of nothing"),
    ],
)
def test_odd_input_is_refused_in_one_sentence(run, images, how, sentence):
    refused(sentence, lambda: list(run.predict(images, **how)))


def test_an_option_that_is_not_known_is_no_argument(run):
    with pytest.raises(TypeError, match="predict has no option 'mirrors'; it has missing"):
        run.predict(array(), mirrors="0")


def test_nothing_that_is_read_is_replaced(given, run, tmp_path):
    seg = run.predict(given.files("a"))
    refused("would replace .*a_t1.nii.gz, which is read", seg.save, given.files("a")["t1"], overwrite=True)
    refused("does not end in .nii", seg.save, tmp_path / "a.mgz")
    (tmp_path / "a.nii.gz").write_bytes(b"mine")
    refused("was not written by jaxfuse.* or pass overwrite to", seg.save, tmp_path / "a.nii.gz")
    assert seg.save(tmp_path / "a.nii.gz", overwrite=True).stat().st_size > 4
