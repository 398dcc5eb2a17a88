"""`python -m jaxfuse.predict` on runs of two steps, on a small data set written here."""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np
import pytest

from configs import cmff
from jaxfuse import predict
from jaxfuse.data.cases import encode_label, load_case
from jaxfuse.data.prepared import Prepared, with_absent
from jaxfuse.data.preprocess import prepare_case, uncrop
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.run_folder.checkpoints import Checkpoints
from jaxfuse.engine.trained.passes import Passes
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.io.nifti import read_volume
from jaxfuse.io.tables import read_json
from jaxfuse.labels import label_scheme
from tests import made_cases
from tests.commands import call, call_here
from tests.made_cases import MODALITIES, ellipsoid, nested_cubes, placed, read_like
from tests.refusals import refused
from tests.runs import run_of

SHAPE, SPACING_MM = (22, 20, 18), (1.0, 1.5, 2.0)
TILTED = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])


def volumes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four modalities (d h w m) of noise in an ellipsoid of brain, 0 around it, and a label of three nested cubes."""
    rng = np.random.default_rng(seed)
    brain, label = ellipsoid(SHAPE, np.array(SHAPE) / 2 - 1), nested_cubes(SHAPE)
    image = rng.integers(50, 150, (*SHAPE, 4)) + 30 * label[..., None] * np.arange(1, 5)
    return np.where(brain[..., None], image, 0).astype(np.int16), np.where(brain, label, 0).astype(np.uint8)


def write_case(
    root: Path, name: str, seed: int, *, style: str = "brats", axes: str = "RAS", rotation: Any = None, label: bool
) -> None:
    image, truth = volumes(seed)
    arrays = dict(zip(MODALITIES, np.moveaxis(image, -1, 0), strict=True))
    if label:
        arrays["seg"] = np.where(truth == 4, 3, truth) if style == "brats2023" else truth
    affine = placed(SPACING_MM, (-7.0, 12.5, 3.25), rotation)
    geometry = {"affine": affine, "axes": axes, "sform_code": 4, "qform_code": 1}
    made_cases.write_case(root, name, arrays, spelling=style, **geometry)


def train(folder: Path, row: str, data: str) -> Path:
    """A finished run of a preset smaller than tiny, trained in this process; only its result is judged."""
    config = cmff.get_config(f"tiny,row={row}")
    config.network.unet.levels = 2
    for phase in config.schedule:
        config[phase].assess, config[phase].steps = "engine.judging.losses:losses", 2
    config.data.root, config.data.cache = str(folder / data), str(folder / "cache")
    run = run_of(config, folder / "runs" / f"{row}-{data}")
    run.execute()
    return run.workdir


@dataclass(frozen=True)
class Trained:
    """Data of one content under the names of two years, and runs on them."""

    folder: Path
    branches: Path  # transition, branch_a, branch_b; the result is the mean of both branches
    fusion: Path
    fusion2023: Path
    cases: Path  # one case, without label


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("predict")
    for number in range(3):
        write_case(folder / "brats", f"Brats18_{number}_1", number, label=True)
        write_case(folder / "brats2023", f"BraTS-GLI-0000{number}-000", number, style="brats2023", label=True)
    write_case(folder / "cases", "new", 9, label=False)
    runs = [train(folder, row, data) for row, data in (("S_A+S_B", "brats"), ("random", "brats"))]
    return Trained(folder, *runs, train(folder, "random", "brats2023"), folder / "cases")


def predicted(runs: list[str], cases: Path, output: Path) -> dict[str, np.ndarray]:
    """The command; returns label file values by case."""
    call_here(predict, *runs[1:], workdir=runs[0], input=cases, output=output)
    paths = sorted(output.glob("*.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): read_volume(path).array for path in paths}


def predicted_with(options: dict[str, str], run: Path, cases: Path, output: Path) -> dict[str, np.ndarray]:
    """The command with more options."""
    call_here(predict, workdir=run, input=cases, output=output, **options)
    paths = sorted(output.glob("*.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): read_volume(path).array for path in paths}


def prepared(cases: Path) -> Prepared:
    (files,) = SOURCE.find(cases, MODALITIES, labels_required=False)
    return prepare_case(load_case(files, MODALITIES, None))


def probabilities(case: Prepared, *runs: str) -> np.ndarray:
    return ensemble_of(load(runs)).probabilities(case)


def test_label_maps_lie_on_the_grid_of_their_input(trained, tmp_path):
    """The command as a user runs it, on one brain stored along LPS, along LAS and in an oblique frame."""
    forms = {"lps": {"axes": "LPS"}, "las": {"axes": "LAS"}, "oblique": {"axes": "ARI", "rotation": TILTED}}
    given, output = tmp_path / "in", tmp_path / "new" / "out"
    for name, form in forms.items():
        write_case(given, name, 9, label=False, **form)
    where = (f"--workdir={trained.fusion}", f"--input={given}", f"--output={output}")
    done = call("predict", *where, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 cases by random-brats:fusion; labels of scheme brats" in done.stdout
    stored = {name: given / name / f"{name}_t1.nii.gz" for name in forms}
    canonical = [read_like(output / f"{name}.nii.gz", like) for name, like in stored.items()]
    assert len({nib.load(like).shape for like in stored.values()}) == 2  # one of them is permuted
    assert len({labels.tobytes() for labels in canonical}) == 1
    values = set(np.unique(canonical[0]))
    assert len(values) > 2
    assert values <= {0, 1, 2, 4}
    assert not canonical[0][~volumes(9)[0].any(-1)].any()


def test_the_answer_does_not_depend_on_a_label_file(trained, tmp_path):
    shutil.copytree(trained.cases, tmp_path / "cases")
    (tmp_path / "cases" / "new" / "new_seg.nii.gz").write_bytes(b"not a volume")
    for cases, out in ((trained.cases, "without"), (tmp_path / "cases", "with")):
        predicted([str(trained.fusion)], cases, tmp_path / out)
    assert (tmp_path / "with" / "new.nii.gz").read_bytes() == (tmp_path / "without" / "new.nii.gz").read_bytes()


def test_a_case_without_a_modality_is_labeled_by_those_that_it_has(trained, tmp_path):
    """Only where that is asked for; then the header of its label map says what it lacks."""
    cases = shutil.copytree(trained.cases, tmp_path / "cases")
    absent = MODALITIES[0]
    (cases / "new" / f"new_{absent}.nii.gz").unlink()
    told = f"case new has no {absent} image"
    refused(told, call_here, predict, workdir=trained.fusion, input=cases, output=tmp_path / "refused")
    (found,) = predicted_with({"missing": "zero"}, trained.fusion, cases, tmp_path / "out").values()
    (files,) = SOURCE.find(cases, MODALITIES, labels_required=False, incomplete=True)
    there = [name for name in MODALITIES if name in files.images]
    case = with_absent(prepare_case(load_case(files, there, None)), MODALITIES)
    labels = masked_labels(ensemble_of(load([str(trained.fusion)])).labels(case), case.brain)
    expected = uncrop(np.array(label_scheme("brats").decode, np.uint8)[labels], case, 0)
    np.testing.assert_array_equal(found, expected)
    header = nib.load(tmp_path / "out" / "new.nii.gz").header
    assert bytes(header["descrip"]).rstrip(b"\0") == f"without {absent}".encode()


def test_runs_and_phases_are_averaged(trained, tmp_path):
    case, branch, fusion = prepared(trained.cases), f"{trained.branches}:branch_a", str(trained.fusion)
    first, second = probabilities(case, branch), probabilities(case, fusion)
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose(probabilities(case, branch, fusion), (first + second) / 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(first.sum(-1), 1, rtol=0, atol=1e-5)
    written = predicted([branch, fusion], trained.cases, tmp_path / "out")["new"]
    mean = (first + second) / 2
    expected = np.array([0, 1, 2, 4])[uncrop(masked_labels(mean.argmax(-1).astype(np.uint8), case.brain), case, 0)]
    np.testing.assert_array_equal(written, expected)


def test_a_result_of_two_phases_is_that_of_the_training(trained, tmp_path):
    """Without being told, the row S_A+S_B averages its branches: the label map that the run itself kept."""
    names = [one.name for one in load([str(trained.branches)])]
    assert names == ["S_A+S_B-brats:branch_a", "S_A+S_B-brats:branch_b"]
    (case,) = read_json(trained.branches / "dataset.json")["val"]
    whole = predicted([str(trained.branches)], trained.folder / "brats" / case, tmp_path / "out")[case]
    with np.load(trained.branches / "results" / "result" / "labels.npz") as kept:
        expected = uncrop(kept[case], prepared(trained.folder / "brats" / case), 0)
    np.testing.assert_array_equal(encode_label(whole, label_scheme("brats")), expected)


def test_the_best_checkpoint_is_read_where_it_is_asked_for(trained, tmp_path):
    """Best weights that are all zero: every class is then equally probable."""
    run = shutil.copytree(trained.fusion, tmp_path / "run")
    (phase,) = load([f"{run}:fusion"])
    weights = phase.weights()
    checkpoints = Checkpoints(run / "checkpoints" / "fusion")
    checkpoints.save_best(5, replace(weights, params=jax.tree.map(jax.numpy.zeros_like, weights.params)))
    checkpoints.close()
    case = prepared(trained.cases)
    np.testing.assert_allclose(probabilities(case, f"{run}:fusion@best"), 0.25, rtol=0, atol=1e-6)
    last = probabilities(case, str(trained.fusion))
    for name in (f"{run}:fusion@last", str(run)):
        np.testing.assert_array_equal(probabilities(case, name), last)
    assert np.abs(last - 0.25).max() > 0.1


def test_the_scheme_of_the_run_decides_the_values_written(trained, tmp_path):
    """The two runs differ in nothing but file names and the value of the enhancing tumor."""
    old, new = (
        predicted([str(run)], trained.cases, tmp_path / run.name)["new"] for run in (trained.fusion, trained.fusion2023)
    )
    assert {3, 4} & set(old.flat) == {4}
    np.testing.assert_array_equal(new, np.where(old == 4, 3, old))


def test_more_overlap_changes_the_answer(trained):
    case = prepared(trained.cases)
    little, much = (
        ensemble_of(load([str(trained.fusion)]), passes=Passes(overlap=overlap)).probabilities(case)
        for overlap in (0.0, 0.9)
    )
    assert np.abs(little - much).max() > 1e-3


def test_a_mistake_is_one_sentence_and_exit_code_2(trained, tmp_path):
    where = (f"--workdir={trained.branches}:transition", f"--input={trained.cases}", f"--output={tmp_path / 'out'}")
    done = call("predict", *where, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert re.match("error: phase transition of .* makes fake_b, no label map", sentence)
    assert not (tmp_path / "out").exists()
