"""Exported runs: what a bundle predicts where there is no jaxfuse, and bundles that are damaged."""

import shutil
import sys
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
from jax import ShapeDtypeStruct
from jax.export import deserialize

pytest.importorskip("flatbuffers", reason="JAX writes exported programs with it")

from jaxfuse import export, predict
from jaxfuse.engine.cost.gpus import GPUS, compiled_for
from jaxfuse.engine.trained.phases import load
from jaxfuse.errors import UserError
from jaxfuse.io.safetensors import read_safetensors
from jaxfuse.io.tables import write_json
from jaxfuse.postprocessing.plan import KIND
from jaxfuse.prediction.bundle import Bundle
from jaxfuse.prediction.bundle_cases import Asked, predict_folder
from jaxfuse.prediction.bundle_files import PLAN
from tests.commands import call_here
from tests.exported import exported, run_alone
from tests.made_cases import head, write_case
from tests.untrained_run import labeling_run, synthesis_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its bundle, and two cases."""
    folder = tmp_path_factory.mktemp("export")
    labeling_run(folder / "run")
    call_here(export, workdir=folder / "run", output=folder / "bundle")
    for number, shape in enumerate([(20, 18, 12), (17, 18, 9)]):
        write_case(folder / "in", f"case{number}", head(shape, number))
    return folder


def check_files(ours: Path, theirs: Path) -> int:
    """Compares all volumes of two folders: integers voxel for voxel, others to 1e-6; returns their number."""
    paths = sorted(ours.rglob("*.nii.gz"))
    for path in paths:
        one, other = nib.load(path), nib.load(theirs / path.relative_to(ours))
        assert one.header.binaryblock == other.header.binaryblock
        first, second = np.asarray(one.dataobj), np.asarray(other.dataobj)
        if first.dtype.kind in "iu":
            np.testing.assert_array_equal(first, second)
        else:
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-6 * max(1, np.abs(first).max()))
    return len(paths)


def test_a_bundle_predicts_alone_as_its_run_does(place):
    given = {"input": place / "in", "save_probabilities": True}
    call_here(predict, workdir=place / "run", output=place / "ours", **given)
    told = run_alone(place / "bundle", "--input", place / "in", "--output", place / "theirs", "--probabilities")
    assert told.returncode == 0, told.stderr
    assert check_files(place / "ours", place / "theirs") == 4
    assert {np.asarray(nib.load(path).dataobj).max() > 0 for path in (place / "ours").glob("*.nii.gz")} == {True}


def test_a_bundle_does_not_tell_where_its_runs_lay():
    words = ["--workdir", "/home/ann/runs/a:fusion@best", "runs/b/", "--output=/data/out", "--mirror=0,1", "--onnx"]
    told = "python -m jaxfuse.export --workdir a:fusion@best b --output=out --mirror=0,1 --onnx"
    assert export.without_places(words) == told


def test_one_case_in_memory_is_that_of_the_command(place):
    folder = place / "in" / "case0"
    bundle = Bundle(place / "bundle")
    paths = {name: folder / f"case0_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair")}
    by_path = bundle.predict(paths, probabilities=True)
    images = {name: nib.load(path) for name, path in paths.items()}
    arrays = {name: np.asarray(image.dataobj) for name, image in images.items()}
    by_array = bundle.predict(arrays, affine=images["t1"].affine)
    np.testing.assert_array_equal(by_path.values, by_array.values)
    assert (by_path.probabilities.shape, by_array.probabilities) == ((*by_path.values.shape, 4), None)
    saved = nib.load(by_array.save(place / "one" / "labels.nii.gz"))
    np.testing.assert_array_equal(np.asarray(saved.dataobj), by_path.values)
    with pytest.raises(UserError, match="the case has no flair image; give one"):
        bundle.predict({name: arrays[name] for name in ("t1", "t1ce", "t2")}, affine=images["t1"].affine)
    with pytest.warns(UserWarning, match="case case has t1 alone, which run:voc was never shown in training") as warned:
        lacking = bundle.predict({"t1": arrays["t1"]}, affine=images["t1"].affine, missing="zero")
    assert (lacking.values != by_path.values).any()
    assert warned[0].filename == __file__


def test_the_command_tells_what_cases_lack_and_what_training_never_showed(place, tmp_path, capsys):
    for name in ("t1", "t2"):
        images = head((20, 18, 12), 0)
        del images[name]
        write_case(tmp_path / "in", f"without_{name}", images)
    bundle = Bundle(place / "bundle")
    predict_folder(bundle, tmp_path / "in", tmp_path / "out", Asked(missing="zero"), print)
    said = capsys.readouterr().out.splitlines()
    for subset, case in (("t1ce+t2+flair", "without_t1"), ("t1+t1ce+flair", "without_t2")):
        assert f"case {case} has {subset} alone; its other modalities are 0" in said
        assert f"Warning: case {case} has {subset} alone, which run:voc was never shown in training" in said
    whole = "t1+t1ce+t2+flair"
    assert bundle.phases[0].shown == (whole,)
    assert f"knows the subsets that training showed it: {whole}." in (place / "bundle" / "MODEL_CARD.md").read_text()


def test_the_card_tells_data_use_and_limits(place):
    card = (place / "bundle" / "MODEL_CARD.md").read_text()
    for words in ("It is no medical device", "simulated heads of no patient", "`baselines.unet`", "Trained on 1 case"):
        assert words in card
    assert (place / "bundle" / "LICENSE").read_text().count("Apache") > 1


def test_a_program_of_another_jax_is_refused_and_its_weights_are_kept(place, monkeypatch):
    monkeypatch.setattr("jax.export.maximum_supported_calling_convention_version", 1)
    with pytest.raises(UserError, match=r"by jax .*, which jax .* cannot read .*weights.safetensors has its weights"):
        Bundle(place / "bundle").labeler(jax.devices()[0])


@pytest.mark.slow
def test_an_export_over_an_earlier_one_leaves_nothing_of_it(place, tmp_path):
    plan, bundle = tmp_path / "plan.json", tmp_path / "bundle"
    write_json(plan, {"kind": KIND, "scheme": "brats", "factors": {"edema": 2}, "steps": []})
    exported(place / "run", bundle, postprocessing=str(plan))
    assert Bundle(bundle).postprocessing.plan.factors == {"edema": 2}
    assert (bundle / PLAN).is_file()
    exported(place / "run", bundle, postprocessing="none")
    assert Bundle(bundle).postprocessing is None
    assert not (bundle / PLAN).exists()
    shutil.copyfile(plan, bundle / PLAN)  # no file of the bundle
    assert Bundle(bundle).postprocessing is None


@pytest.mark.parametrize(
    ("images", "how", "sentence"),
    [
        ({}, {"missing": "impute"}, "missing is 'impute'; choose refuse or zero"),
        ({"t1": "t1.nii"}, {"affine": np.eye(4)}, "affine is of arrays, and what came are files or images"),
    ],
)
def test_what_a_bundle_cannot_do_is_refused(place, images, how, sentence):
    with pytest.raises(UserError, match=sentence):
        Bundle(place / "bundle").predict(images, **how)


@pytest.mark.slow
def test_damage_ends_the_command_before_a_module_is_read(place, tmp_path):
    shutil.copytree(place / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / "runner/prediction/bundle.py").write_text("(")
    told = run_alone(tmp_path / "bundle", "--input", place / "in", "--output", tmp_path / "out")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "runner/prediction/bundle.py is not as it was written" in told.stderr


@pytest.mark.slow
def test_a_run_that_synthesizes_is_exported(place, tmp_path):
    synthesis_run(tmp_path / "run")
    with pytest.raises(UserError, match="--postprocessing is for label maps"):
        exported(tmp_path / "run", tmp_path / "bundle", postprocessing="none")
    exported(tmp_path / "run", tmp_path / "bundle")
    call_here(predict, workdir=tmp_path / "run", input=place / "in", output=tmp_path / "ours")
    told = run_alone(tmp_path / "bundle", "--input", place / "in", "--output", tmp_path / "theirs")
    assert told.returncode == 0, told.stderr
    assert check_files(tmp_path / "ours", tmp_path / "theirs") == 2
    for path in (tmp_path / "ours").glob("*.json"):
        assert path.read_text() == (tmp_path / "theirs" / path.name).read_text()


@pytest.mark.h200
def test_the_program_for_cuda_compiles_for_an_h200(place):
    folder = place / "bundle"
    (one,) = Bundle(folder).phases
    program = deserialize(bytearray((folder / one.programs["whole"]).read_bytes()))
    arrays = read_safetensors(folder / "weights.safetensors").arrays
    weights = {name.partition("/")[2]: ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    image = ShapeDtypeStruct((one.tile_batch, *one.patch, 4), np.float32)
    compiled = compiled_for(GPUS["h200"], jax.jit(program.call), weights, image)
    assert "__cudnn$conv" in compiled.as_text()


@pytest.mark.oracle
def test_a_network_as_onnx_gives_the_same(place, tmp_path):
    why = "the extra onnx, and onnxruntime, which no extra brings, are not installed"
    runtime, _ = pytest.importorskip("onnxruntime", reason=why), pytest.importorskip("jax2onnx", reason=why)
    folder = exported(place / "run", tmp_path / "bundle", onnx=True)
    session = runtime.InferenceSession(folder / "onnx" / "0.onnx")
    (one,) = load([str(place / "run")])
    tiles = np.random.default_rng(0).normal(size=(8, 16, 16, 4)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: tiles})
    expected = one.system.predict(one.weights(), {"image": jax.numpy.asarray(tiles)})["segmentation"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_onnx_without_its_library_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match="ONNX takes jax2onnx, which is not installed; call pip install"):
        exported(place / "run", tmp_path / "bundle", onnx=True)
    assert not (tmp_path / "bundle").exists()
