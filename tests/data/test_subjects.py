"""Slices of a head judged as that head: what a subject is, its arrays, its rows."""

from dataclasses import replace

import numpy as np
import pytest

from configs import cmff
from jaxfuse.config import parse
from jaxfuse.data.cache import prepare
from jaxfuse.data.intensities import BRAIN
from jaxfuse.data.prepared import Prepared
from jaxfuse.data.preprocess import uncrop
from jaxfuse.data.sampling import sampling_rule
from jaxfuse.data.slices import AXES, AXIAL, CORONAL, SAGITTAL, View, pictures, prepare_slices
from jaxfuse.data.subjects import SlicedVolume, subjects_of
from jaxfuse.engine.judging import segmentation as judging
from jaxfuse.engine.judging.assessment import Judged
from jaxfuse.engine.trained.phases import load
from jaxfuse.engine.trained.predictor import case_predictor
from jaxfuse.engine.trained.segmenter import ensemble_of
from jaxfuse.inference.label_map import masked_labels
from jaxfuse.inference.tiling import Asked
from jaxfuse.io.tables import read_rows
from jaxfuse.labels import SCHEMES
from jaxfuse.learning.system import Geometry
from jaxfuse.metrics.regions import score_case
from tests.made_cases import case_files
from tests.runs import run_of
from tests.untrained_run import fixed_system, state_of, sum_of_picture

SCHEME, MODALITIES, SHAPE = SCHEMES["lesion"], ("t1", "flair"), (20, 10, 12)
AFFINE = np.array([[1.0, 0.1, 0, -7], [-0.1, 2, 0, 4], [0, 0, 3, 9], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two heads in x 4..15, y 3..8, z 2..9, with 3 voxels of brain more in the otherwise empty slice at z = 11.

    The lesion has 2 x 2 x 3 voxels at z = 4..6 and, in head b, one of the three at z = 11.
    """
    root, files = tmp_path_factory.mktemp("heads"), []
    for number, name in enumerate("ab"):
        image, label = np.zeros((*SHAPE, 2), np.int16), np.zeros(SHAPE, np.uint8)
        image[4:16, 3:9, 2:10] = np.random.default_rng(number).integers(50, 150, (12, 6, 8, 2))
        image[4, 3:6, 11], label[6:8, 4:6, 4:7], label[4, 3, 11] = 80, 1, number
        arrays = {"t1": image[..., 0], "flair": image[..., 1], "seg": label}
        files.append(case_files(root, name, arrays, affine=AFFINE))
    return files, root / "cache"


def slices_of(heads, axis=AXIAL, one_per_case=False, **options):
    files, cache = heads
    view = View(axis, one_per_case=one_per_case)
    made = prepare_slices(files, MODALITIES, SCHEME, view=view, normalize=BRAIN, cache=cache, **options)
    return [one for case in made.values() for one in case]


def broad(facts):
    """Slices of 2 % brain or more: all but that at z = 11."""
    return tuple(i for i, (brain, *_) in enumerate(facts.slices) if brain > 3)


@pytest.mark.parametrize("axis", [AXIAL, CORONAL, SAGITTAL])
def test_a_subject_is_the_prepared_volume_that_its_slices_were_cut_from(heads, axis):
    files, cache = heads
    volumes = prepare(files, MODALITIES, SCHEME, cache=cache)
    subjects = subjects_of(slices_of(heads, axis))
    assert [one.id for one in subjects] == ["a", "b"]
    for subject, volume in zip(subjects, volumes, strict=True):
        assert isinstance(subject, SlicedVolume)
        np.testing.assert_allclose(subject.facts.affine, volume.facts.affine, atol=1e-12)
        assert replace(subject.facts, affine=()) == replace(volume.facts, affine=())
        for name in ("image", "label", "tumor", "brain"):
            np.testing.assert_array_equal(getattr(subject, name), getattr(volume, name))


def test_slices_of_one_head_are_one_subject_wherever_they_stand(heads):
    slices = slices_of(heads)
    (volume, _) = subjects_of([slices[-1], slices[0], slices[-2], slices[1]])
    assert volume.id == "b"
    whole = prepare(*heads[:1], MODALITIES, SCHEME, cache=heads[1])
    assert subjects_of([*whole, *slices]) == (*whole, *subjects_of(slices))
    # A slice that stands for its volume stays a case.
    alone = slices_of(heads, one_per_case=True)
    assert subjects_of(alone) == tuple(alone)
    assert [one.id for one in alone] == ["a_z004", "b_z004"]


@pytest.fixture
def drawn(monkeypatch):
    """The panels asked for; they are not painted."""
    calls = []
    monkeypatch.setattr(judging.figures, "segmentation_panel", lambda path, **asked: calls.append((path.stem, asked)))
    return calls


def one_layer(case, asked):
    """The lesion in its lowest slice only, whatever is asked for: of a volume, or of one axial picture."""
    label = np.asarray(case.label).copy()
    if label.ndim == 3:
        label[..., [z for z in range(label.shape[2]) if z != 2]] = 0  # the crop begins at z = 2
    elif not case.id.endswith("z004"):
        label[:] = 0
    return {"S": label}


def judged(judge, cases, folder):
    document = judge.full(one_layer, cases, results=folder / "results", figures_dir=folder / "figures", title="t")
    return document, {row["case"]: row for row in read_rows(folder / "results" / "cases.csv")}


ASKED = Judged(SCHEME, "S", ("S",))


def test_a_subject_has_one_row_in_three_dimensions_which_counts_what_no_slice_shows(heads, drawn, tmp_path):
    cases = slices_of(heads, keep=broad)
    assert not [one.id for one in cases if one.id.endswith("z011")]
    document, rows = judged(judging.segmentation(ASKED), cases, tmp_path)
    # Found are 4 of 12 voxels; in head b one more was to be found, in a slice that is no case.
    dice = {"a": 2 * 4 / (4 + 12), "b": 2 * 4 / (4 + 13)}
    assert {name: row["dice"] for name, row in rows.items()} == pytest.approx(dice)
    mm3 = abs(np.linalg.det(AFFINE))
    assert rows["b"]["truth_mm3"] == pytest.approx(13 * mm3)
    # Slices lie 3 mm apart: distances of the truth's voxels 0, 3 and 6 mm, of the prediction's 0.
    assert rows["a"]["hd95_mm"] == pytest.approx(np.percentile([0] * 8 + [3] * 4 + [6] * 4, 95))
    assert document["outputs"]["S"]["lesion"]["dice"]["std"] == pytest.approx(np.std([*dice.values()], ddof=1))
    assert "seconds_per_subject" in document
    shapes = [(name, asked["image"].shape, asked["predictions"]["S"].shape) for name, asked in drawn]
    assert shapes == [(name, (12, 6, 10, 2), (12, 6, 10)) for name in "ba"]
    with np.load(tmp_path / "results" / "labels.npz") as kept:
        assert {name: kept[name].sum() for name in kept} == {"a": 4, "b": 4}


def test_while_training_slices_are_looked_at_one_by_one(heads):
    cases = [one for one in slices_of(heads) if one.id[-3:] in ("004", "005")]
    assert judging.segmentation(ASKED).quick(one_layer, cases)["score"] == pytest.approx(0.5)


(PHASE, *_) = parse(cmff.get_config("tiny")).phases.values()


@pytest.mark.parametrize("view", AXES)
def test_a_network_of_one_view_labels_subjects_whose_slices_are_of_another(heads, view):
    system = fixed_system(Geometry(2, 1), "S", sum_of_picture)
    phase = replace(PHASE, patch=(16, 16), sampling=sampling_rule("whole"), pad=True)
    subject = subjects_of(slices_of(heads, CORONAL))[0]
    made = case_predictor(system, phase, axis=AXES[view])(state_of(), subject, Asked(values=("S",)))["S"]
    total = pictures(np.asarray(subject.image), AXES[view])[..., 0].sum((1, 2))
    seen = pictures(made, AXES[view])[..., 1]
    np.testing.assert_allclose(seen[:, 0, 0], 1 / (1 + np.exp(-total.astype(float))), atol=1e-4)
    assert np.ptp(seen, axis=(1, 2)).max() < 1e-6


def recipe(folder, axes):
    """A small 2D U-Net for each axis, on slices of phantoms."""
    config = cmff.get_config("tiny,row=voc")
    config.network.unet.base, config.network.unet.levels, config.log_every = 2, 2, 2
    phase = config.voc
    phase.update(steps=2, sampling="mixed", pad=False, patch=(16, 16))
    phase.assess, phase.validation.tile_batch = "engine.judging.segmentation:segmentation", 8
    phase.data.update(source="slices", modalities=MODALITIES, normalize="percentiles", cache=str(folder / "cache"))
    phase.data.phantom.update(cases=2, shape=(32, 32, 24), spacing_mm=6.0)
    for axis in axes:
        config[axis] = config.voc.copy_and_resolve_references()
        with config[axis].unlocked():
            config[axis].data.axis = axis
    config.schedule = config.result = tuple(axes)
    return config


@pytest.mark.slow
def test_a_result_of_several_views_is_that_of_predict_on_whole_volumes(tmp_path):
    run = run_of(recipe(tmp_path, ("axial", "coronal")), tmp_path / "run")
    run.execute()
    rows = read_rows(run.workdir / "results" / "result" / "cases.csv")
    (subject,) = subjects_of(run.phase("axial").data.val)
    assert {row["case"] for row in rows} == {subject.id}
    assert list(dict.fromkeys(row["output"] for row in rows)) == ["axial", "coronal", "axial+coronal"]
    ensemble = ensemble_of(load([str(run.workdir)]))
    case = Prepared(subject.facts, np.asarray(subject.image), None, subject.tumor, subject.brain)
    made = uncrop(masked_labels(ensemble.labels(case), subject.brain), subject, 0)
    truth = uncrop(np.asarray(subject.label), subject, 0)
    given = {"spacing_mm": subject.facts.spacing_mm, "one_empty": np.sqrt(240**2 + 240**2 + 155**2)}
    expected = score_case(made, truth, SCHEMES["brats"], case=subject.id, output="axial+coronal", **given)
    for found, wanted in zip([row for row in rows if row["output"] == "axial+coronal"], expected, strict=True):
        assert found == pytest.approx(wanted, nan_ok=True)
