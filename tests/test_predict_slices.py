"""A 2D network trained on slices labels volumes: `python -m jaxfuse.predict` on a run of two steps."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from configs import cmff
from jaxfuse import predict
from jaxfuse.data.cases import CaseFiles, load_case
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.phantom.roots import phantom_root
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import prepare_case
from jaxfuse.data.slices import AXIAL, pictures, prepare_slices
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.engine.trained.segmenter import check_labels, ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import read_json
from jaxfuse.learning.system import Geometry
from tests.commands import call_here
from tests.made_cases import read_like, save_volume
from tests.runs import run_of
from tests.untrained_run import fixed_system, held, state_of

MODALITIES = ("t1", "flair")


@dataclass(frozen=True)
class Trained:
    """A run on slices of two phantoms, in two phases that make one result, and the folder of one of them."""

    workdir: Path
    case: Path
    cache: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("slices")
    config = cmff.get_config("tiny,row=voc")
    config.network.unet.base = config.network.unet.levels = 2
    phase = config.voc
    phase.steps, phase.sampling, phase.pad, phase.patch = 2, "mixed", False, (16, 16)
    phase.assess, phase.validation.tile_batch = "engine.judging.segmentation:segmentation", 4
    phase.data.source, phase.data.modalities, phase.data.normalize = "one_slice", MODALITIES, "percentiles"
    phase.data.phantom.cases, phase.data.phantom.shape, phase.data.phantom.spacing_mm = 2, (32, 32, 24), 6.0
    phase.data.cache = str(folder / "cache")
    config.again = config.voc.copy_and_resolve_references()
    config.schedule = config.result = ("voc", "again")
    run = run_of(config, folder / "run")
    run.execute()
    root = phantom_root(run.phase("voc").phase.data, lambda *told: None)
    case = next(path.parent for path in sorted(root.rglob("*_t1.nii.gz")))
    return Trained(run.workdir, case, folder / "cache")


def files_of(trained: Trained) -> CaseFiles:
    (files,) = SOURCE.find(trained.case, MODALITIES, labels_required=False)
    return files


def volume(trained: Trained) -> Prepared:
    return prepare_case(load_case(files_of(trained), MODALITIES, None), normalize=NORMALIZATIONS["percentiles"])


def test_slices_are_judged_at_the_end(trained):
    found = read_json(trained.workdir / "results" / "voc" / "summary.json")
    assert (found["kind"], found["primary"], found["cases"]) == ("segmentation", "segmentation", 1)
    assert found["seconds_per_slice"] > 0
    (alone,) = read_json(trained.workdir / "dataset.json")["val"]
    assert [path.stem for path in (trained.workdir / "figures" / "voc").iterdir()] == [alone]


def test_phases_whose_outputs_have_one_name_are_averaged_by_phase(trained):
    found = read_json(trained.workdir / "results" / "result" / "summary.json")
    assert (found["primary"], set(found["outputs"])) == ("voc+again", {"voc", "again", "voc+again"})
    assert [one.phase.name for one in load([str(trained.workdir)])] == ["voc", "again"]
    scores = [tuple(found["outputs"][name]["WT"]["dice"].values()) for name in ("voc", "again")]
    assert scores[0] != scores[1]  # drawn apart, so that the mean is of two networks


def test_a_volume_is_labeled_as_its_slices_are(trained):
    """Each slice of the volume has the probabilities of the 2D case that training makes of it."""
    (phase,) = load([f"{trained.workdir}:voc"])
    assert phase.system.geometry == Geometry(2, 2)
    predictor, weights = case_predictor(phase.system, phase.phase), phase.weights()
    case = volume(trained)
    asked = Asked(values=("segmentation",))
    whole = predictor(weights, case, asked)["segmentation"]
    assert whole.shape == (*case.facts.shape, 4)
    (slices,) = prepare_slices([files_of(trained)], MODALITIES, None, cache=trained.cache / "cases").values()
    stack = pictures(whole, AXIAL)
    assert len(slices) > 10
    for one in (slices[3], slices[-3]):
        np.testing.assert_allclose(stack[one.index], predictor(weights, one, asked)["segmentation"], atol=1e-5)
    assert np.ptp(whole, axis=(0, 1)).max() > 1e-3


def test_label_maps_lie_on_the_grid_of_their_input(trained, tmp_path):
    """One head as it was written, and stored along other axes."""
    name = trained.case.name
    for axes in ("RAS", "ASR"):
        for modality in MODALITIES:
            image = nib.load(trained.case / f"{name}_{modality}.nii.gz")
            stored = {"affine": image.affine, "axes": axes}
            save_volume(tmp_path / "in" / axes / f"{axes}_{modality}.nii.gz", np.asarray(image.dataobj), **stored)
    call_here(predict, workdir=f"{trained.workdir}:voc", input=tmp_path / "in", output=tmp_path / "out")
    given = {axes: tmp_path / "in" / axes / f"{axes}_t1.nii.gz" for axes in ("RAS", "ASR")}
    canonical = [read_like(tmp_path / "out" / f"{axes}.nii.gz", like) for axes, like in given.items()]
    np.testing.assert_array_equal(*canonical)
    case = volume(trained)
    labels = masked_labels(ensemble_of(load([f"{trained.workdir}:voc"])).labels(case), case.brain)
    box = tuple(slice(a, a + n) for a, n in zip(case.facts.crop_start, case.facts.shape, strict=True))
    np.testing.assert_array_equal(canonical[0][box], np.array([0, 1, 2, 4])[labels])


def test_networks_of_two_and_three_axes_are_averaged(trained):
    (flat,) = load([f"{trained.workdir}:voc"])
    case = volume(trained)
    alone = ensemble_of([flat]).probabilities(case)
    # Every class is equally probable in every voxel.
    system = fixed_system(Geometry(3, 1), "even", lambda image: jnp.zeros((*image.shape[:-1], 4)) + 0 * image[..., :1])
    solid = held("3d", system, replace(flat.phase, patch=(8, 8, 8)), flat.data, state_of())
    check_labels([flat, solid])
    np.testing.assert_allclose(ensemble_of([flat, solid]).probabilities(case), (alone + 0.25) / 2, atol=1e-6)
